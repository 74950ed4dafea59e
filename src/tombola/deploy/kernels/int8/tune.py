"""Choices for a region in 8 bits: a few for the whole region, of which the fastest on this machine is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from tombola.bench.timing import WALL, Clock
from tombola.deploy.jit.emitter import LANES
from tombola.deploy.kernels.int8.choices import Int8Choices, Tile, Words, unsupported
from tombola.deploy.kernels.int8.region import Int8Region, in_words, word_shapes
from tombola.deploy.kernels.int8.scales import Scale
from tombola.deploy.kernels.sparse.candidates import blocks_of, runs_of, splits
from tombola.deploy.kernels.sparse.choices import Flat, Lanes, Split, layers
from tombola.deploy.kernels.sparse.geometry import Shape
from tombola.deploy.ops import Conv, Linear, Region
from tombola.errors import TombolaError

_ROOM = (8, 4, 12)  # accumulators
_SECONDS, _ROUNDS = 0.004, 12


@dataclass(frozen=True)
class Measured:
    """The fastest choices, and seconds of one call of the batch."""

    choices: Int8Choices
    seconds: float


def variants(region: Region, batch: int, threads: int, scales: Mapping[str, Scale]) -> Iterator[Int8Choices]:
    """Choices worth trying, the most promising first; none for a region without 8-bit kernels."""
    if unsupported(region):
        return
    words = in_words(region)
    shapes = word_shapes(region)
    tried: list[Int8Choices] = []
    for room in _ROOM:
        for split in splits(words, batch, threads):
            tiles = {op.target: _tile(op, shapes[op.target], split, room) for op in layers(words)}
            choices = Int8Choices(split, tiles, scales)
            if choices not in tried:
                tried.append(choices)
                yield choices


def measure(
    region: Region, batch: int, threads: int, scales: Mapping[str, Scale], clock: Clock = WALL
) -> tuple[Measured, Int8Region]:
    """The fastest of `variants`, and the region compiled with it.

    Raises:
        TombolaError: there are none, or the weights have no 8-bit numbers.
    """
    reason = unsupported(region)
    if reason:
        raise TombolaError(f"no 8-bit kernels: {reason}")
    draw = torch.Generator().manual_seed(0)
    shapes = [(batch, *shape) for shape in region.inputs.values()]
    inputs = [torch.rand(shape, generator=draw, dtype=torch.float32, device="cpu") for shape in shapes]
    built = [Int8Region(region, batch, threads, choices) for choices in variants(region, batch, threads, scales)]
    seconds = clock.fastest([partial(one, *inputs) for one in built], seconds=_SECONDS, rounds=_ROUNDS)
    best = min(range(len(built)), key=seconds.__getitem__)
    return Measured(built[best].choices, seconds[best]), built[best]


def _tile(op: Conv | Linear, shape: Shape, split: Split, room: int) -> Tile:
    _, h, w = shape
    vectors = split.images // LANES
    if split.images == 1:
        return Words() if isinstance(op, Linear) else Flat(runs_of(h * (w + 1) - 1, room)[0])
    if isinstance(op, Linear) or h == w == 1:
        return Lanes(1, 1, max(v for v in range(1, min(room, vectors) + 1) if vectors % v == 0))
    return Lanes(*blocks_of(h, w, vectors, room)[0])
