"""Images in class folders: root/train/<class>/<image>, and root/test and root/val where they exist."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from tombola.data.config import ASPECT, Augment, DataSpec
from tombola.data.cue import plant
from tombola.data.digest import Files, OfFiles
from tombola.data.images import WHITE, ImageFileReader, decode
from tombola.data.kept import Kept, about_files
from tombola.data.listing import Samples, joined
from tombola.data.scan import scan
from tombola.data.shared import image_split, refuse_args
from tombola.data.splits import Normalisation, Split, Splits, Streamed, make_splits, validation_rows
from tombola.errors import TombolaError

Part = TypeVar("Part")

_CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY = Normalisation((0.449,), (0.226,))
"""The means over ImageNet's three channels."""
_PROBED = 64
"""Images that are checked before the others are decoded."""
_HEADERS = 50_000
"""Files of a streamed folder whose headers are read before training."""
_DARK = WHITE // 8
_SMALL = 64
"""Up to this side images are cropped from a padded border; larger ones get a random resized crop."""


def load_folder(spec: DataSpec, split_seed: int = 0) -> Splits:
    """Splits of the class folders under `spec.root`.

    Images are decoded once, and kept as normalised float32 if that fits into `spec.in_memory_limit`, else as
    bytes if those fit; else they are decoded anew in every epoch by worker processes, which then also make
    the random resized crop (from the whole image). Without a `val` folder, `spec.val_size` training images
    (a tenth by default) are drawn with `split_seed`; without a `test` folder `test` is None.

    Raises:
        TombolaError: for a missing folder, classes that differ between the parts (see `scan`), images that cannot be
            read (see `decode`), or that differ in size where no `image_size` is given. Of files that are streamed,
            the headers are read first (of up to 50,000, spread evenly).
    """
    root = Path(spec.root)
    refuse_args(spec, ("channels",))
    channels = spec.args.get("channels", 3)
    if channels not in (1, 3):
        raise TombolaError(f"folder argument channels is {channels!r}; allowed are 1 and 3")
    parts, classes = scan(root)
    if "val" in parts and spec.val_size is not None:
        raise TombolaError(f"val_size is {spec.val_size}, but {root / 'val'} exists; leave out one of them")
    if "val" not in parts:
        train = parts["train"]
        kept, held = validation_rows(len(train), spec.val_size, split_seed, str(root), max(1, len(train) // 10))
        parts["train"], parts["val"] = (train.take(rows.tolist()) for rows in (kept, held))
    everything = joined(list(parts.values()))
    reader = replace(_reader(everything, spec.image_size, channels), side=spec.resize)
    normalisation = _normalisation(reader)
    augment = spec.augment or _default_augment(reader)
    size = len(everything) * reader.numbers
    limit = spec.in_memory_limit * 2**30
    if spec.cue.active and size > limit:
        raise TombolaError(
            f"a cue is planted in images held in memory, but these take {size / 2**30:.3g} GiB and in_memory_limit is"
            f" {spec.in_memory_limit:g}; raise it, or leave the cue out"
        )

    if size > limit:
        _check_headers(_spread(everything, _HEADERS), reader, root)

    def part(where: str, samples: Samples) -> Split:
        if size > limit:
            return _streamed(samples, reader, augment if where == "train" else Augment(), root)
        pixels, labels = _decoded(samples, reader)
        pixels = plant(pixels, labels, spec.cue, len(classes), seed=split_seed, where=where)
        return image_split(pixels, labels, normalisation, as_floats=4 * size <= limit)

    splits = {where: part(where, samples) for where, samples in parts.items()}
    return make_splits(
        splits["train"],
        splits["val"],
        splits.get("test"),
        name="folder",
        classes=len(classes),
        normalisation=normalisation,
        augment=augment,
    )


class DepthWarning(UserWarning):
    """Images lose bits when they are read."""


class ImageFiles(OfFiles):
    """Image files as uint8 tensors with labels; with `augment.zoom`, random resized crops, as torchvision makes them.

    Crops are bilinear and antialiased; what is drawn for them comes from torch's global generator.
    """

    def __init__(self, samples: Samples, reader: ImageFileReader, root: Path, augment: Augment | None = None) -> None:
        self.samples, self.reader, self.root, self.augment = samples, reader, root, augment or Augment()
        self.targets = torch.from_numpy(samples.labels)
        size, zoom, aspect = [reader.height, reader.width], self.augment.zoom, self.augment.aspect
        crop = v2.RandomResizedCrop(size, scale=(zoom, 1.0), ratio=(1 / aspect, aspect), antialias=True)
        self.crop = crop if zoom else None

    def files(self) -> Files:
        reading = f"{self.reader!r} {self.augment.zoom:g}"
        aspect = "" if self.augment.aspect == ASPECT else f" aspect {self.augment.aspect:g}"
        return Files(
            self.samples, self.root, f"{reading}{aspect}{'' if (s := self.reader.side) is None else f' of {s}'}"
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.reader(path) if self.crop is None else self.crop(self.reader.whole(path)), label


def _spread(samples: Samples, count: int) -> list[str]:
    """The paths of up to `count` samples, spread evenly."""
    picks = {int(i) for i in np.linspace(0, len(samples) - 1, min(len(samples), count))}
    return [samples[i][0] for i in sorted(picks)]


def _reader(samples: Samples, image_size: int | None, channels: int) -> ImageFileReader:
    """A reader for images of `image_size`, or of the size that all images must then have."""
    brightest: dict[str, int] = {}
    reader = None if image_size is None else ImageFileReader(image_size, image_size, channels, resize=True)
    for path in _spread(samples, _PROBED):
        image = decode(path, channels)
        reader = reader or ImageFileReader(image.shape[1], image.shape[2], channels, resize=False)
        reader.check_size(path, image.shape[1], image.shape[2])
        if image.dtype != torch.uint8:
            brightest[path] = int(image.max())
    if brightest:
        _check_range(brightest)
    assert reader is not None
    return reader


def _check_range(brightest: Mapping[str, int]) -> None:
    """A warning that 16-bit images become 8 bits; TombolaError if they are so dark that few levels would be left."""
    path, largest = max(brightest.items(), key=lambda item: item[1])
    if largest < _DARK:
        raise TombolaError(
            f"the 16-bit images looked at are no brighter than {largest} of {WHITE} ({path}), which leaves"
            f" {largest // 257 + 1} of 256 levels; stretch them to the full range, or load them in a data function of"
            " your own"
        )
    warnings.warn(
        f"images of 16 bits, such as {path}, are reduced to 8: 0 to {WHITE} becomes 0 to 255",
        DepthWarning,
        stacklevel=4,
    )


def _normalisation(reader: ImageFileReader) -> Normalisation:
    if reader.channels == 1:
        return _GREY
    return _CIFAR if (reader.height, reader.width) == (32, 32) else _IMAGENET


def _default_augment(reader: ImageFileReader) -> Augment:
    side = min(reader.height, reader.width)
    return Augment(flip=True, crop=side // 8) if side <= _SMALL else Augment(flip=True, zoom=0.08)


def _decoded(samples: Samples, reader: ImageFileReader) -> tuple[Tensor, Tensor]:
    """All images, uint8 (N, C, H, W), and labels; decoded by threads: decoding releases the GIL."""
    pixels = torch.empty(len(samples), reader.channels, reader.height, reader.width, dtype=torch.uint8, device="cpu")

    def fill(rows: range) -> None:
        for row in rows:
            pixels[row] = reader(samples[row][0])

    _on_threads(fill, [range(at, min(at + 256, len(samples))) for at in range(0, len(samples), 256)])
    return pixels, torch.from_numpy(samples.labels)


def _check_headers(paths: Sequence[str], reader: ImageFileReader, root: Path) -> None:
    """TombolaError for the first file whose header shows that it cannot be used: better now than during training.

    Files that passed before, and have not been written since, are taken to pass again.
    """
    about, passed = about_files(paths), Kept(f"headers {root.absolute()} {reader!r}")
    values, known = passed.find(about)
    paths = [paths[row] for row in np.flatnonzero(~known).tolist()]

    def check(some: Sequence[str]) -> None:
        for path in some:
            reader.check(path)

    _on_threads(check, [paths[at : at + 256] for at in range(0, len(paths), 256)])
    passed.add(about[~known], values[~known])


def _on_threads(work: Callable[[Part], None], parts: Iterable[Part]) -> None:
    with ThreadPoolExecutor(_cores()) as pool:
        for _ in pool.map(work, parts):
            pass


def _streamed(samples: Samples, reader: ImageFileReader, augment: Augment, root: Path) -> Streamed:
    plain, workers = ImageFiles(samples, reader, root), min(8, _cores())
    if not augment.zoom:
        return Streamed(plain, workers=workers)
    return Streamed(ImageFiles(samples, reader, root, augment), plain, workers=workers, crops=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
