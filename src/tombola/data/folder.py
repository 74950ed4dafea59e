"""Images in class folders: root/train/<class>/<image>, with root/test and root/val where there are such."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from tombola.data.config import Augment, DataSpec
from tombola.data.cue import plant
from tombola.data.shared import image_split, refuse_args
from tombola.data.splits import Normalisation, Split, Splits, Streamed, holdout, make_splits
from tombola.errors import TombolaError

Samples: TypeAlias = Sequence[tuple[str, int]]
"""(path, label) of each image."""

_CIFAR = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_GREY = Normalisation((0.449,), (0.226,))
"""The means over ImageNet's three channels."""
_PROBED = 64
"""Images whose size is looked at before any is decoded."""
_SMALL = 64
"""Up to this side images are cropped from a padded border; larger ones get a random resized crop."""


def load_folder(spec: DataSpec, split_seed: int = 0) -> Splits:
    """Splits of the class folders under `spec.root`.

    Images are decoded once, and kept as normalised float32 if that fits into `spec.in_memory_limit`, else as
    bytes if those fit; else they are decoded anew in every epoch by worker processes, which then also make
    the random resized crop (from the whole image). Without a `val` folder, `spec.val_size` training images
    (a tenth by default) are drawn with `split_seed`; without a `test` folder `test` is None.

    Raises:
        TombolaError: for a missing folder, class folders that are empty or differ between the parts, images
            that cannot be read, or that differ in size where no `image_size` is given.
    """
    root = Path(spec.root)
    refuse_args(spec, ("channels",))
    channels = spec.args.get("channels", 3)
    if channels not in (1, 3):
        raise TombolaError(f"folder argument channels is {channels!r}; allowed are 1 and 3")
    parts, classes = _scan(root)
    if "val" in parts and spec.val_size is not None:
        raise TombolaError(f"val_size is {spec.val_size}, but {root / 'val'} exists; leave out one of them")
    if "val" not in parts:
        train = parts["train"]
        kept, held = holdout(len(train), spec.val_size or max(1, len(train) // 10), split_seed, "val-split")
        parts["train"], parts["val"] = ([train[i] for i in rows.tolist()] for rows in (kept, held))
    reader = _reader(parts["train"], spec.image_size, channels)
    normalisation = _normalisation(reader)
    augment = spec.augment or _usual(reader)
    size = sum(map(len, parts.values())) * reader.numbers
    limit = spec.in_memory_limit * 2**30
    if spec.cue.active and size > limit:
        raise TombolaError(
            f"a cue is planted in images held in memory, but these take {size / 2**30:.3g} GiB and in_memory_limit is"
            f" {spec.in_memory_limit:g}; raise it, or leave the cue out"
        )

    def part(where: str, samples: Samples) -> Split:
        if size > limit:
            return _streamed(samples, reader, augment.zoom if where == "train" else 0.0, root)
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
        augment=replace(augment, zoom=0.0) if size > limit else augment,
    )


@dataclass(frozen=True)
class Reader:
    """Reads image files as uint8 (channels, height, width), all of one size."""

    height: int
    width: int
    channels: int
    resize: bool

    @property
    def numbers(self) -> int:
        """Numbers (bytes) in one image."""
        return self.channels * self.height * self.width

    def whole(self, path: str) -> Tensor:
        """The image as it is in the file."""
        try:
            # Several times faster than Pillow on small images; what it cannot read, Pillow may.
            image: Tensor = decode_image(path, ImageReadMode.RGB if self.channels == 3 else ImageReadMode.GRAY)
            if image.dtype == torch.uint8:
                return image
        except (RuntimeError, ValueError):
            pass
        return self._by_pillow(path)

    def _by_pillow(self, path: str) -> Tensor:
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB" if self.channels == 3 else "L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise TombolaError(f"cannot read image {path} ({reason}); replace or remove it") from None
        planes = torch.from_numpy(pixels)
        return planes.permute(2, 0, 1) if self.channels == 3 else planes.unsqueeze(0)

    def __call__(self, path: str) -> Tensor:
        """The image, its shorter side resized and its centre cut out where sizes may differ."""
        image = self.whole(path)
        found = (image.shape[1], image.shape[2])
        if found == (self.height, self.width):
            return image
        if not self.resize:
            raise _sizes_differ(path, found, (self.height, self.width))
        side = [min(self.height, self.width)]
        image = v2.functional.resize(image, side, antialias=True)
        cut: Tensor = v2.functional.center_crop(image, [self.height, self.width])
        return cut


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files as uint8 tensors with labels; `zoom` > 0: random resized crops of at least that area."""

    def __init__(self, samples: Samples, reader: Reader, zoom: float = 0.0) -> None:
        self.samples, self.reader = samples, reader
        size = [reader.height, reader.width]
        self.crop = v2.RandomResizedCrop(size, scale=(zoom, 1.0), antialias=True) if zoom else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.reader(path) if self.crop is None else self.crop(self.reader.whole(path)), label


def _scan(root: Path) -> tuple[dict[str, Samples], list[str]]:
    """The images of train, val and test (where there are such), and the classes they share."""
    parts: dict[str, Samples] = {}
    classes: list[str] = []
    for where in ("train", "val", "test"):
        folder = root / where
        if not folder.is_dir():
            if where == "train":
                raise TombolaError(f"no folder {folder}; folder data is laid out as root/train/<class>/<image>")
            continue
        try:
            found = ImageFolder(str(folder))
        except (FileNotFoundError, OSError) as error:
            reason = " ".join(str(error).split())
            raise TombolaError(f"{folder}: {reason}; every class needs a folder with images in it") from None
        classes = classes or found.classes
        if found.classes != classes:
            odd = ", ".join(sorted(set(classes) ^ set(found.classes)))
            raise TombolaError(f"the class folders of {folder} and {root / 'train'} differ in {odd}; make them agree")
        parts[where] = found.samples
    return parts, classes


def _reader(samples: Samples, image_size: int | None, channels: int) -> Reader:
    """A reader for images of `image_size`, or of the size that all images must then have."""
    if image_size is not None:
        return Reader(image_size, image_size, channels, resize=True)
    picks = sorted({int(i) for i in np.linspace(0, len(samples) - 1, min(len(samples), _PROBED))})
    reader = Reader(0, 0, channels, resize=False)
    for path, _ in (samples[i] for i in picks):
        _, height, width = reader.whole(path).shape
        if reader.height and (height, width) != (reader.height, reader.width):
            raise _sizes_differ(path, (height, width), (reader.height, reader.width))
        reader = Reader(height, width, channels, resize=False)
    return reader


def _sizes_differ(path: str, found: tuple[int, int], expected: tuple[int, int]) -> TombolaError:
    sizes = " and others ".join(f"{height}x{width}" for height, width in (found, expected))
    return TombolaError(f"images differ in size: {path} is {sizes}; give image_size")


def _normalisation(reader: Reader) -> Normalisation:
    if reader.channels == 1:
        return _GREY
    return _CIFAR if (reader.height, reader.width) == (32, 32) else _IMAGENET


def _usual(reader: Reader) -> Augment:
    side = min(reader.height, reader.width)
    return Augment(flip=True, crop=side // 8) if side <= _SMALL else Augment(flip=True, zoom=0.08)


def _decoded(samples: Samples, reader: Reader) -> tuple[Tensor, Tensor]:
    """All images, uint8 (N, C, H, W), and labels; decoded by threads: decoding leaves the interpreter free."""
    pixels = torch.empty(len(samples), reader.channels, reader.height, reader.width, dtype=torch.uint8)

    def fill(rows: range) -> None:
        for row in rows:
            pixels[row] = reader(samples[row][0])

    chunks = [range(at, min(at + 256, len(samples))) for at in range(0, len(samples), 256)]
    with ThreadPoolExecutor(_cores()) as pool:
        for _ in pool.map(fill, chunks):
            pass
    return pixels, torch.tensor([label for _, label in samples])


def _streamed(samples: Samples, reader: Reader, zoom: float, root: Path) -> Streamed:
    lines = [f"{Path(path).relative_to(root)} {Path(path).stat().st_size} {label}" for path, label in samples]
    source = hashlib.sha256("\n".join([repr(reader), *sorted(lines)]).encode()).hexdigest()
    plain = ImageFiles(samples, reader)
    dataset = ImageFiles(samples, reader, zoom) if zoom else plain
    return Streamed(dataset, plain, workers=min(8, _cores()), source=source)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
