"""Images a second of a streamed image folder, beside torchvision's ImageFolder with a plain DataLoader, as a ratio.

5,000 JPEGs of 500 by 375 pixels (250 different pictures) are made first. Both sides give float32 batches (64, 3, 224,
224), shuffled, by random resized crop and flip, normalised, from the same number of worker processes. ImageFolder does
all of it in the workers, one image at a time, as its documentation shows; Tombola's workers decode and crop, and whole
batches are flipped and normalised. Rounds of the two alternate, a whole epoch each, the start of the workers
included; the files are in the system's cache. The ratio is the median over rounds. Processor time per image, of workers
and the process that takes the batches together, is said too: it hardly depends on what else the machine does.

    python benchmarks/image_folder.py [--workers 2] [--rounds 5] [--images 5000] [--root DIR] [--json]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from record import Record, ratio
from tombola.data.config import Augment, DataSpec
from tombola.data.feed import feed
from tombola.data.registry import load_data
from tombola.data.splits import Splits

CLASSES, PICTURES, BATCH, SIDE = 10, 250, 64, 224
CROP = Augment(flip=True, zoom=0.08)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make(root: Path, count: int) -> None:
    """Pictures with soft shapes and some noise, about 55 KB each, as photographs of that size have."""
    draw = torch.Generator().manual_seed(0)
    first = [root / "train" / f"class{i % CLASSES}" / f"{i:05}.jpg" for i in range(min(PICTURES, count))]
    for path in first:
        path.parent.mkdir(parents=True, exist_ok=True)
        soft = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 16, generator=draw), (375, 500), mode="bicubic")[0]
        pixels = (255 * soft + 12 * torch.randn(3, 375, 500, generator=draw)).clamp(0, 255).byte()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, quality=85)
    for i in range(len(first), count):
        (root / "train" / f"class{i % CLASSES}" / f"{i:05}.jpg").write_bytes(first[i % len(first)].read_bytes())
    for i in range(CLASSES):
        path = root / "val" / f"class{i}" / "0.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(first[i].read_bytes())


def loader(root: Path, workers: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """torchvision's side."""
    change = v2.Compose(
        [
            v2.RandomResizedCrop(SIDE, scale=(CROP.zoom, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return DataLoader(
        ImageFolder(str(root / "train"), change), BATCH, shuffle=True, num_workers=workers, drop_last=True
    )


@dataclass(frozen=True)
class Epoch:
    """Images a second, and milliseconds of processor time per image."""

    speed: float
    cpu: float


def plain(root: Path, workers: int) -> Epoch:
    """An epoch of torchvision's side."""
    return _timed(iter(loader(root, workers)))


def ours(splits: Splits, epoch: int) -> Epoch:
    """An epoch of Tombola's side."""
    source = feed(splits.train, batch_size=BATCH, augment=splits.augment, normalisation=splits.normalisation)
    return _timed(source.epoch(0, epoch))


def _timed(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Epoch:
    begun, before, count = time.perf_counter(), sum(os.times()[:4]), 0
    for x, _ in batches:
        assert x.shape[1:] == (3, SIDE, SIDE)
        count += len(x)
    seconds = time.perf_counter() - begun
    del batches  # its workers end, and their time counts
    return Epoch(count / seconds, 1e3 * (sum(os.times()[:4]) - before) / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1, help="of the process that takes the batches")
    parser.add_argument("--root", help="where the images lie, or are to be made (default: made and removed)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of all figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = Record("image_folder", args.threads, args.rounds)
    print(record.head())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(args.root or folder)
        if not (root / "val").exists():
            make(root, args.images)
        spec = DataSpec(
            "folder", root=str(root), image_size=SIDE, augment=CROP, in_memory_limit=0.0, workers=args.workers
        )
        splits = load_data(spec)
        epochs: dict[str, list[Epoch]] = {"torchvision": [], "tombola": []}
        for number in range(args.rounds + 1):  # the first warms up
            row = {"torchvision": plain(root, args.workers), "tombola": ours(splits, number)}
            told = ", ".join(f"{name} {one.speed:.0f} ({one.cpu:.2f} ms)" for name, one in row.items())
            print(f"round {number}: {told} images a second (processor time per image)", flush=True)
            if number:
                for name, one in row.items():
                    epochs[name].append(one)
    faster = ratio([one.speed for one in epochs["tombola"]], [one.speed for one in epochs["torchvision"]])
    less = ratio([one.cpu for one in epochs["torchvision"]], [one.cpu for one in epochs["tombola"]])
    print(f"ratio {faster}, of processor time {less}")
    record.figures["tombola/torchvision"] = faster.as_dict()["median"]
    record.rows.append(
        {
            "images": args.images,
            "workers": args.workers,
            "images_per_second": {k: round(statistics.median(e.speed for e in v), 1) for k, v in epochs.items()},
            "cpu_ms": {k: round(statistics.median(e.cpu for e in v), 3) for k, v in epochs.items()},
            "ratio": faster.as_dict(),
            "cpu_ratio": less.as_dict(),
        }
    )
    record.finish(args.json)


if __name__ == "__main__":
    main()
