"""Densities per layer at a given total: one for all, by a common level of error, or by evolution.

An allocation is a number of kept weights for each layer, whose sum is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from tombola.errors import TombolaError

Counts = dict[str, int]
"""Layer -> how many of its weights are kept, at least one."""


def uniform(sizes: Mapping[str, int], total: int) -> Counts:
    """The same density in every layer."""
    share = total / sum(sizes.values())
    return rounded({name: share * size for name, size in sizes.items()}, sizes, total)


def by_error(
    sizes: Mapping[str, int], densities: Sequence[float], losses: Mapping[str, Sequence[float]], total: int
) -> Counts:
    """The densities at which all layers, each pruned alone, lose the same.

    Between the densities that were tried, losses are interpolated over the logarithm of the density, and never fall as
    it does. Below the least of them nothing is known: what is to be sparser is so by one factor for all.

    Args:
        densities: those tried, falling, in (0, 1].
        losses: layer -> its loss at each.
        total: weights kept.
    """
    curves = {name: _Curve(densities, losses[name]) for name in sizes}

    def kept(level: float) -> dict[str, float]:
        return {name: size * curves[name].at(level) for name, size in sizes.items()}

    low, high = 0.0, max(curve.largest for curve in curves.values())
    least, most = sum(kept(high).values()), sum(kept(low).values())
    if total <= least:
        return rounded({name: value * total / least for name, value in kept(high).items()}, sizes, total)
    if total >= most:  # no layer loses anything yet: what may be kept besides goes to all alike
        room = (total - most) / max(1.0, sum(sizes.values()) - most)
        return rounded({n: value + room * (sizes[n] - value) for n, value in kept(low).items()}, sizes, total)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle).values()) > total else (low, middle)
    return rounded(kept(high), sizes, total)


class _Curve:
    """The density at which a layer loses so much; see `by_error`."""

    def __init__(self, densities: Sequence[float], losses: Sequence[float]) -> None:
        self._logs, self._levels = [0.0], [0.0]
        for density, loss in zip(densities, losses, strict=True):
            if density < 1:
                self._logs.append(math.log(density))
                self._levels.append(max(self._levels[-1], loss if math.isfinite(loss) else 0.0))
        self.largest = self._levels[-1]

    def at(self, level: float) -> float:
        """The least density whose loss is at most `level`."""
        if level >= self.largest:
            return math.exp(self._logs[-1])
        after = next(i for i, known in enumerate(self._levels) if known > level)
        low, high = self._levels[after - 1], self._levels[after]
        part = (level - low) / (high - low)
        return math.exp(self._logs[after - 1] + part * (self._logs[after] - self._logs[after - 1]))


def rounded(wanted: Mapping[str, float], sizes: Mapping[str, int], total: int) -> Counts:
    """Whole numbers from 1 to a layer's size that sum to `total`, near those wanted: the largest remainders go up.

    Raises:
        TombolaError: there are more layers than weights to keep.
    """
    if not len(sizes) <= total <= sum(sizes.values()):
        raise TombolaError(f"{total:,} weights cannot be kept of {len(sizes)} layers, at least one of each")
    counts = {name: min(size, max(1, math.floor(wanted[name]))) for name, size in sizes.items()}
    while (missing := total - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        open_ = [name for name, size in sizes.items() if 1 <= counts[name] + step <= size]
        open_.sort(key=lambda name: step * (counts[name] - wanted[name]))
        if abs(missing) <= len(open_):
            for name in open_[: abs(missing)]:
                counts[name] += step
        else:  # bounds were in the way: in proportion, then again
            share = abs(missing) // len(open_)
            for name in open_:
                room = sizes[name] - counts[name] if step > 0 else counts[name] - 1
                counts[name] += step * min(room, max(1, share))
    return counts


# ---- evolution -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evolution:
    """The search of EvoPress (Sieberling et al. 2024, arXiv:2410.14649): one parent, and offspring of the same total.

    Args:
        generations: how often offspring are drawn.
        offspring: in each generation.
        most_switches: at most so many level switches make an offspring; the number is the lesser of two uniform draws.
        stages: (survivors, share of the data) of each round of selection. The last has one survivor, and there the
            parent competes too, so that no generation is worse.
    """

    generations: int = 40
    offspring: int = 16
    most_switches: int = 3
    stages: tuple[tuple[int, float], ...] = ((4, 0.125), (2, 0.5), (1, 1.0))

    def __post_init__(self) -> None:
        if min(self.generations, self.offspring, self.most_switches) < 1:
            raise TombolaError("generations, offspring and most_switches must be at least 1")
        if not self.stages or self.stages[-1][0] != 1:
            raise TombolaError(f"stages is {self.stages!r}; the last must have one survivor")


def evolve(
    start: Counts,
    sizes: Mapping[str, int],
    error: Callable[[Counts, float], float],
    settings: Evolution,
    generator: torch.Generator,
) -> Iterator[tuple[Counts, float]]:
    """(counts, their error over all data), generation by generation; each total is that of the start.

    A level switch moves weights from one layer to another: between 1/64 and 1/4 of what the one has and the other
    lacks, whichever is less.

    Args:
        error: of counts over a share of the data; the less, the better.
        generator: draws everything.
    """
    parent = dict(start)
    for _ in range(settings.generations):
        crowd = [_mutated(parent, sizes, settings, generator) for _ in range(settings.offspring)]
        for survivors, share in settings.stages:
            if survivors == 1:
                crowd.append(parent)
            errors = [error(one, share) for one in crowd]
            order = sorted(range(len(crowd)), key=lambda i: (errors[i], i))[:survivors]
            crowd, best = [crowd[i] for i in order], errors[order[0]]
        parent = crowd[0]
        yield dict(parent), best


def _mutated(parent: Counts, sizes: Mapping[str, int], settings: Evolution, draw: torch.Generator) -> Counts:
    child, names = dict(parent), list(sizes)
    switches = 1 + min(_below(settings.most_switches, draw), _below(settings.most_switches, draw))
    for _ in range(switches if len(names) > 1 else 0):
        giver = _below(len(names), draw)
        taker = (giver + 1 + _below(len(names) - 1, draw)) % len(names)
        most = min(child[names[giver]] - 1, sizes[names[taker]] - child[names[taker]])
        part = 2.0 ** -(2 + 4 * float(torch.rand((), generator=draw, dtype=torch.float64, device="cpu")))
        moved = min(most, math.ceil(part * most))
        child[names[giver]] -= moved
        child[names[taker]] += moved
    return child


def _below(count: int, draw: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draw, device="cpu"))
