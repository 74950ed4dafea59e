"""Choices by measurement: every candidate of every layer runs on this machine, and the fastest is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from tombola.bench.timing import WALL, Clock
from tombola.deploy.jit.program import Program
from tombola.deploy.kernels.sparse.candidates import candidates, guess, splits
from tombola.deploy.kernels.sparse.choices import Choice, Choices, Split, layers
from tombola.deploy.kernels.sparse.driver import ChunkDriver
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.kernels.sparse.region import NativeRegion, make
from tombola.deploy.ops import Conv, Linear, Region

_LAYER, _WHOLE = 0.001, 0.004  # seconds that a layer and a region are timed in one round
_ROUGH, _FINE = 3, 12  # rounds: of all candidates, and of the best of them
_FINAL = 4  # candidates that come into the second round


@dataclass(frozen=True)
class Measured:
    """The fastest choices, and their times."""

    choices: Choices
    seconds: float
    """The region, one call of the batch."""
    layers: dict[str, float]
    """Target of a layer → its approximate seconds of one call."""


def build(region: Region, batch: int, threads: int, choices: Choices | None = None) -> NativeRegion:
    """The region compiled; without choices they are guessed.

    Raises:
        TombolaError: as NativeRegion.
    """
    return NativeRegion(region, batch, threads, guess(region, batch, threads) if choices is None else choices)


Known = dict[object, tuple[Choice, float]]
"""What was measured: of a layer, a split and threads, the fastest kernel and seconds of one turn."""


def measure(region: Region, batch: int, threads: int, clock: Clock = WALL, known: Known | None = None) -> Measured:
    """The fastest choices for calls of `batch` images on `threads` threads.

    Args:
        known: of layers of other regions, which is added to; layers like those are not measured again.

    Raises:
        TombolaError: an operation that cannot be compiled, fewer than 1 thread.
    """
    known = {} if known is None else known
    tuned = [_tuned(region, split, batch, threads, clock, known) for split in splits(region, batch, threads)]
    draw = torch.Generator().manual_seed(0)
    shapes = [(batch, *shape) for shape in region.inputs.values()]
    inputs = [torch.rand(shape, generator=draw, dtype=torch.float32, device="cpu") for shape in shapes]
    built = [build(region, batch, threads, one.choices) for one in tuned]
    seconds = clock.fastest([partial(native, *inputs) for native in built], seconds=_WHOLE, rounds=_FINE)
    best = min(range(len(tuned)), key=lambda i: seconds[i])
    return replace(tuned[best], seconds=seconds[best])


def _tuned(region: Region, split: Split, batch: int, threads: int, clock: Clock, known: Known) -> Measured:
    """The fastest candidate of each layer under one split; equal layers are measured once."""
    chunks = -(-batch // split.images)
    turns = chunks if split.by == "rows" else -(-chunks // threads)
    shapes = shapes_of(region)
    chosen: dict[str, Choice] = {}
    seconds: dict[str, float] = {}
    for op in layers(region):
        key = (_likeness(op), shapes[op.source], shapes[op.target], split, threads)
        if key not in known:
            known[key] = _best(region, op, split, threads, clock)
        chosen[op.target], once = known[key]
        seconds[op.target] = once * turns
    return Measured(Choices(split, chosen), 0.0, seconds)


def _likeness(op: Conv | Linear) -> object:
    kind = (op.stride, op.padding, op.after, op.dilation, op.groups) if isinstance(op, Conv) else ()
    groups = op.groups if isinstance(op, Conv) else 1
    shared = tuple(round(min(9.0, op.nonzeros.waste(rows, groups)), 1) for rows in (4, 2))
    fused = op.activation, op.residual is None
    return type(op), tuple(op.weight.shape), kind, fused, round(10 * op.nonzeros.density**0.5), shared


def _best(region: Region, op: Conv | Linear, split: Split, threads: int, clock: Clock) -> tuple[Choice, float]:
    """(the fastest candidate, seconds of one chunk, or of a chunk on each thread)."""
    shapes = shapes_of(region)
    names = {name: shapes[name] for name in (op.source, op.residual) if name is not None}
    alone = Region(dict(names), (op,), (op.target,))
    tried = candidates(op, shapes[op.target], split)
    runs = [_layer_run(alone, op, split, choice, threads) for choice in tried]
    rough = clock.fastest(runs, seconds=_LAYER, rounds=_ROUGH)
    final = sorted(range(len(tried)), key=lambda i: rough[i])[:_FINAL]
    fine = clock.fastest([runs[i] for i in final], seconds=_LAYER, rounds=_FINE)
    seconds, best = min(zip(fine, final, strict=True))
    return tried[best], seconds


def _layer_run(alone: Region, op: Conv | Linear, split: Split, choice: Choice, threads: int) -> Callable[[], object]:
    """One run of the layer's own steps, without the copies of its inputs and outputs."""
    templates, arenas, *_ = make(alone, Choices(split, {op.target: choice}), threads)
    own = [template for template in templates if template.label == op.target]
    if split.by == "rows":
        return Program([arenas[0].step(template) for template in own], threads).run
    driver = ChunkDriver(own, arenas)
    program = Program([driver.step], threads)

    def run() -> None:
        driver.begin(threads)
        program.run()

    return run
