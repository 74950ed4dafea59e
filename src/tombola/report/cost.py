"""Cost of results in training iterations, or where masks were tried in forward passes, and results against cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from tombola.formats import density
from tombola.report import style
from tombola.report.aggregate import Spread, levels_of, spread
from tombola.report.axes import iterations_axis, legend_above, not_above_100, round_ticks
from tombola.report.labels import Spot, free_positions
from tombola.report.looks import Look
from tombola.report.style import plain
from tombola.results.cost import begins_at
from tombola.results.search import TICKET, SearchResult
from tombola.results.statistics import FEWEST_REPLICATES
from tombola.results.trial import LevelResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTED = "each level with its whole length, iterations before a rewind point included"
SEARCHED = ("ticket", "reinit")
"""Arms whose mask takes a search; a random mask needs none."""


@dataclass(frozen=True)
class Priced:
    """A result at its cost, with the name that is printed beside its mark (or none)."""

    cost: float
    result: Spread
    name: str = ""


@dataclass(frozen=True)
class PricedSeries:
    """Results of one arm, or of a family of arms with ``looks`` of their own; ``joined`` by a line in their order."""

    label: str
    look: Look
    points: tuple[Priced, ...]
    joined: bool = True
    looks: tuple[Look, ...] = ()


def total(steps: Iterable[int | None]) -> int | None:
    """Training iterations of all the levels; None where one did not record how many it had."""
    known = list(steps)
    return None if None in known else sum(step for step in known if step is not None)


def counted_steps(levels: Sequence[LevelResult]) -> list[tuple[int, int]]:
    """Numbers of levels, and the iterations that each counts: its whole length, or where it goes on, what it adds."""
    return [(level.level, level.steps - start) for level, start in zip(levels, begins_at(levels), strict=True)]


def counted_passes(levels: Sequence[LevelResult]) -> list[tuple[int, int | None]]:
    """Numbers of levels, and the examples that each passed forward; None where that was not recorded."""
    return [(level.level, None if level.cost is None else level.cost.forward_passes) for level in levels]


@dataclass(frozen=True)
class Measure:
    """What the cost of a search is counted in: the head of a column, the label of an axis, in a sentence, its end."""

    head: str
    axis: str
    words: str
    how: str
    counted: Callable[[Sequence[LevelResult]], Sequence[tuple[int, int | None]]]


ITERATIONS = Measure(
    "Total iterations", "Training iterations of the search", "training iterations", f", {COUNTED}", counted_steps
)
PASSES = Measure(
    "Forward passes", "Forward passes of the search", "forward passes", ", counted in examples", counted_passes
)


def measure(levels: Iterable[LevelResult]) -> Measure:
    """Training iterations; forward passes where some of the levels tried masks and trained nothing."""
    return PASSES if any(level.tried_masks for level in levels) else ITERATIONS


def measure_of(find: SearchResult) -> Measure:
    """What the cost of a search is counted in."""
    return measure(level for replicate in find.replicates for levels in replicate.arms.values() for level in levels)


def total_of(arm: str, own: int | None, before: Iterable[int | None]) -> int | None:
    """What an arm's network of one level costs; None where they are not known.

    The ticket costs all levels up to its own. A reinitialised network needs the ticket's mask, so it costs the
    ticket's search and its own training; a random mask needs no search and costs its own training alone. Every
    level counts with its whole length: iterations before a rewind point count.

    Args:
        own: of the network's own level.
        before: of the ticket's levels before this one.
    """
    return total([*(before if arm in SEARCHED else ()), own])


def cost_of(find: SearchResult, arm: str, number: int, by: Measure = ITERATIONS) -> float | None:
    """Mean over replicates of what an arm's network of a level costs; see `total_of`."""
    costs = []
    for replicate in find.replicates:
        counted = by.counted(replicate.arms.get(arm, ()))
        before = [steps for n, steps in by.counted(replicate.arms.get(TICKET, ())) if n < number]
        costs += [total_of(arm, steps, before) for n, steps in counted if n == number]
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(costs) else None


def find_series(
    find: SearchResult, looks: Sequence[tuple[str, Look]], by: Measure = ITERATIONS
) -> tuple[PricedSeries, ...]:
    """Test results of each arm against its cost, from dense to sparse; the ticket's marks named by density."""
    series = []
    for arm, look in looks:
        priced = []
        for number, levels in levels_of(find, arm).items():
            result = spread(level.test_accuracy for level in levels if level.test_accuracy is not None)
            cost = cost_of(find, arm, number, by)
            if result is not None and cost is not None:
                name = density(math.fsum(level.density for level in levels) / len(levels)) if arm == "ticket" else ""
                priced.append(Priced(cost, result, name))
        if priced:
            series.append(PricedSeries(style.arm_name(arm), look, tuple(priced), joined=arm in SEARCHED))
    return tuple(series)


def cost_figure(
    series: Sequence[PricedSeries], *, ylabel: str, factor: float = 1.0, by: Measure = ITERATIONS
) -> Figure:
    """Results over cost: a mark each, bars where there are several replicates."""
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        interval = bars(series) == "interval"
        for line in series:
            x, y = [p.cost for p in line.points], [factor * p.result.mean for p in line.points]
            looks = line.looks or (line.look,) * len(x)
            dash = line.look.dash if line.joined else "none"
            axes.plot(x, y, label=plain(line.label), marker=line.look.marker, color=line.look.colour, linestyle=dash)
            for at, value, look, point in zip(x, y, looks, line.points, strict=True):
                low, high = _ends(point, interval)
                if point.result.n > 1:
                    reach = [[value - factor * low], [factor * high - value]]
                    axes.errorbar([at], [value], reach, fmt="none", ecolor=look.colour, alpha=0.6, linewidth=1.2)
                axes.plot([at], [value], look.marker, color=look.colour)
        iterations_axis(axes, max(p.cost for line in series for p in line.points), by.axis)
        axes.set_ylabel(ylabel)
        axes.margins(y=0.12)
        round_ticks(axes.yaxis)
        if factor == 100:
            not_above_100(axes, max(factor * p.result.high for line in series for p in line.points))
        legend_above(figure, axes)
        _print_names(figure, axes, series, factor)
    return figure


def bars(series: Sequence[PricedSeries]) -> str:
    """Which bars the marks have: ``interval`` (where every mark has 3 values or more), ``range`` or ``none``."""
    sizes = [point.result.n for line in series for point in line.points]
    if max(sizes, default=0) < 2:
        return "none"
    return "interval" if min(sizes) >= FEWEST_REPLICATES else "range"


def _ends(point: Priced, interval: bool) -> tuple[float, float]:
    """The ends of a mark's bar."""
    bounds = point.result.interval if interval else None
    return (point.result.low, point.result.high) if bounds is None else bounds


_SIZE = 7
"""Of names, in points."""


def _print_names(figure: Figure, axes: Axes, series: Sequence[PricedSeries], factor: float) -> None:
    """Names beside the marks, the last of every line first, where there is room for them."""
    figure.draw_without_rendering()  # the layout positions the axes
    scale = 72 / figure.dpi

    def at(point: Priced, value: float) -> Spot:
        x, y = axes.transData.transform((point.cost, factor * value))
        return scale * float(x), scale * float(y)

    every = [point for line in series for point in line.points]
    named = sorted((point for point in every if point.name), key=lambda point: -point.cost)
    interval = bars(series) == "interval"
    strokes = [(at(p, low), at(p, high)) for p in every if p.result.n > 1 for low, high in (_ends(p, interval),)]
    for line in series:
        strokes += pairwise(at(p, p.result.mean) for p in line.points) if line.joined else ()
    marks = [at(point, point.result.mean) for point in named]
    sizes = [(0.58 * _SIZE * len(point.name), 1.1 * _SIZE) for point in named]
    others = [at(p, p.result.mean) for p in every if not p.name]
    left, bottom, right, top = (scale * float(end) for end in axes.bbox.extents)
    positions = free_positions(marks, sizes, others, strokes, (left, bottom, right, top))
    for point, mark, position in zip(named, marks, positions, strict=True):
        if position is not None:
            offset = position[0] - mark[0], position[1] - mark[1]
            spot = (point.cost, factor * point.result.mean)
            axes.annotate(
                point.name, spot, offset, textcoords="offset points", ha="center", va="center", fontsize=_SIZE
            )
