"""Choices by measurement: every candidate of every layer runs on this machine, and the fastest is taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from tombola.deploy.budget import NO_LIMIT, Budget
from tombola.deploy.jit.program import Program
from tombola.deploy.kernels.sparse.candidates import candidates, guess, splits
from tombola.deploy.kernels.sparse.choices import Choice, Choices, Split, layers
from tombola.deploy.kernels.sparse.driver import ChunkDriver
from tombola.deploy.kernels.sparse.geometry import shapes_of
from tombola.deploy.kernels.sparse.region import NativeRegion, make
from tombola.deploy.ops import Conv, Linear, Region

_LAYER, _WHOLE = 0.001, 0.004  # seconds that a layer and a region are timed in one round
_FINE = 12  # rounds of the best
_SLOWER = 1.5  # a candidate whose first calls take that much longer than the best's is out
_FINAL = 4  # candidates that come into the second round


@dataclass(frozen=True)
class Measured:
    """The fastest choices that were found, and their times."""

    choices: Choices
    layers: dict[str, float]
    """Target of a layer → its approximate seconds of one call."""
    cut: tuple[str, ...] = ()
    """Targets of the layers of which the budget left candidates untried."""


def build(region: Region, batch: int, threads: int, choices: Choices | None = None) -> NativeRegion:
    """The region compiled; without choices they are guessed.

    Raises:
        TombolaError: as NativeRegion.
    """
    return NativeRegion(region, batch, threads, guess(region, batch, threads) if choices is None else choices)


@dataclass(frozen=True)
class Tuned:
    """The fastest kernel of a layer, its seconds of one turn, and whether all candidates were tried."""

    choice: Choice
    seconds: float
    whole: bool


Known = dict[object, Tuned]
"""What was measured, of a layer, a split and threads."""


def measure(
    region: Region, batch: int, threads: int, budget: Budget = NO_LIMIT, known: Known | None = None
) -> Measured:
    """The fastest choices for calls of `batch` images on `threads` threads that are found within a budget.

    Args:
        known: of layers of other regions, which is added to; layers like those are not measured again.

    Raises:
        TombolaError: an operation that cannot be compiled, fewer than 1 thread.
    """
    known = {} if known is None else known
    tuned: list[Measured] = []
    ways = splits(region, batch, threads)
    for number, split in enumerate(ways):
        if tuned and budget.spent:
            break
        tuned.append(_tuned(region, split, batch, threads, budget.part(1, len(ways) - number), known))
    if len(tuned) == 1:
        return tuned[0]
    draw = torch.Generator().manual_seed(0)
    shapes = [(batch, *shape) for shape in region.inputs.values()]
    inputs = [torch.rand(shape, generator=draw, dtype=torch.float32, device="cpu") for shape in shapes]
    built = [build(region, batch, threads, one.choices) for one in tuned]
    seconds = budget.clock.fastest([partial(native, *inputs) for native in built], seconds=_WHOLE, rounds=_FINE)
    return tuned[min(range(len(tuned)), key=lambda i: seconds[i])]


def _tuned(region: Region, split: Split, batch: int, threads: int, budget: Budget, known: Known) -> Measured:
    """The fastest candidate of each layer under one split; equal layers are measured once.

    A layer has the part of the budget that its multiplications are of those left.
    """
    chunks = -(-batch // split.images)
    turns = chunks if split.by == "rows" else -(-chunks // threads)
    shapes = shapes_of(region)
    chosen: dict[str, Choice] = {}
    seconds: dict[str, float] = {}
    cut: list[str] = []
    work = {op.target: op.nonzeros.count * math.prod(shapes[op.target][1:]) + 1 for op in layers(region)}
    ahead = sum(work.values())
    for op in layers(region):
        key = (_likeness(op), shapes[op.source], shapes[op.target], split, threads)
        if key not in known:
            budget.tell(op.name)
            known[key] = _best(region, op, split, threads, budget.part(work[op.target], ahead))
        ahead -= work[op.target]
        chosen[op.target] = known[key].choice
        seconds[op.target] = known[key].seconds * turns
        cut += [] if known[key].whole else [op.target]
    return Measured(Choices(split, chosen), seconds, tuple(cut))


def _likeness(op: Conv | Linear) -> object:
    kind = (op.stride, op.padding, op.after, op.dilation, op.groups) if isinstance(op, Conv) else ()
    groups = op.groups if isinstance(op, Conv) else 1
    shared = tuple(round(min(9.0, op.nonzeros.waste(rows, groups)), 1) for rows in (4, 2))
    fused = op.activation, op.residual is None
    return type(op), tuple(op.weight.shape), kind, fused, round(10 * op.nonzeros.density**0.5), shared


def _best(region: Region, op: Conv | Linear, split: Split, threads: int, budget: Budget) -> Tuned:
    """The fastest candidate, and its seconds of one chunk, or of a chunk on each thread.

    Of each a few calls are timed at first, and only those near the best stay: compiling takes most of the time.
    """
    shapes = shapes_of(region)
    names = {name: shapes[name] for name in (op.source, op.residual) if name is not None}
    alone = Region(dict(names), (op,), (op.target,))
    tried = candidates(op, shapes[op.target], split)
    left: list[tuple[float, Choice, Callable[[], object]]] = []
    untried = iter(tried)
    for choice in untried:
        run = _layer_run(alone, op, split, choice, threads)
        (once,) = budget.clock.fastest([run], seconds=_LAYER, rounds=1)
        left.append((once, choice, run))
        least = min(time for time, _, _ in left)
        left = [one for one in left if one[0] <= _SLOWER * least]
        if budget.spent:
            break
    whole = next(untried, None) is None
    final = sorted(left, key=lambda one: one[0])[:_FINAL]
    if len(final) > 1 and not budget.spent:
        fine = budget.clock.fastest([run for _, _, run in final], seconds=_LAYER, rounds=_FINE)
        final = [(time, choice, run) for time, (_, choice, run) in zip(fine, final, strict=True)]
    seconds, choice, _ = min(final, key=lambda one: one[0])
    return Tuned(choice, seconds, whole)


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
