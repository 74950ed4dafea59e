"""What a result costs: training iterations of the search so far, and results against them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.formats import density
from tombola.report import style
from tombola.report.aggregate import Spread, levels_of, spread
from tombola.report.axes import iterations_axis, legend_above, not_above_100, round_ticks
from tombola.report.levels import FEWEST
from tombola.report.looks import Look
from tombola.report.style import plain
from tombola.report.summary import Find

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTED = "each level with its whole length, iterations before a rewind point included"
SEARCHED = ("ticket", "reinit")
"""Arms whose mask a search must find first; a random mask needs none."""


@dataclass(frozen=True)
class Priced:
    """A result at its cost in training iterations, with the name that is printed beside its mark (or none)."""

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


def total_of(arm: str, own: int | None, before: Iterable[int | None]) -> int | None:
    """Training iterations that an arm's network of one level costs; None where they are not known.

    The ticket costs all levels up to its own. A reinitialised network needs the ticket's mask, so it costs what the
    ticket does, but for its own training; a random mask needs no search and costs its own training alone. Every
    level counts with its whole length: iterations before a rewind point count.

    Args:
        own: iterations of the network's own training.
        before: iterations of the ticket's levels before this one.
    """
    return total([*(before if arm in SEARCHED else ()), own])


def cost_of(find: Find, arm: str, number: int) -> float | None:
    """Mean training iterations over replicates that an arm's network of a level costs; see `total_of`."""
    found = []
    for replicate in find.replicates:
        own = [level for level in replicate.arms.get(arm, ()) if level.level == number]
        before = [level.steps for level in replicate.arms.get("ticket", ()) if level.level < number]
        found += [total_of(arm, level.steps, before) for level in own]
    known = [cost for cost in found if cost is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(found) else None


def find_series(find: Find, looks: Sequence[tuple[str, Look]]) -> tuple[PricedSeries, ...]:
    """Test results of each arm against its cost, from dense to sparse; the ticket's marks named by density."""
    series = []
    for arm, look in looks:
        found = []
        for number, levels in levels_of(find, arm).items():
            result = spread(level.test_accuracy for level in levels if level.test_accuracy is not None)
            cost = cost_of(find, arm, number)
            if result is not None and cost is not None:
                name = density(math.fsum(level.density for level in levels) / len(levels)) if arm == "ticket" else ""
                found.append(Priced(cost, result, name))
        if found:
            series.append(PricedSeries(style.arm_name(arm), look, tuple(found), joined=arm in SEARCHED))
    return tuple(series)


def cost_figure(series: Sequence[PricedSeries], *, ylabel: str, factor: float = 1.0) -> Figure:
    """Results over training iterations: a mark each, bars where there are several replicates."""
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
                low, high = point.result.low, point.result.high
                if interval and point.result.interval is not None:
                    low, high = point.result.interval
                if point.result.n > 1:
                    reach = [[value - factor * low], [factor * high - value]]
                    axes.errorbar([at], [value], reach, fmt="none", ecolor=look.colour, alpha=0.6, linewidth=1.2)
                axes.plot([at], [value], look.marker, color=look.colour)
        iterations_axis(axes, max(p.cost for line in series for p in line.points), "Training iterations of the search")
        axes.set_ylabel(ylabel)
        axes.margins(y=0.12)
        round_ticks(axes.yaxis)
        if factor == 100:
            not_above_100(axes, max(factor * p.result.high for line in series for p in line.points))
        _print_names(axes, series, factor)
        legend_above(figure, axes)
    return figure


def bars(series: Sequence[PricedSeries]) -> str:
    """Which bars the marks have: ``interval`` (where every mark has 3 values or more), ``range`` or ``none``."""
    sizes = [point.result.n for line in series for point in line.points]
    if max(sizes, default=0) < 2:
        return "none"
    return "interval" if min(sizes) >= FEWEST else "range"


def _print_names(axes: Axes, series: Sequence[PricedSeries], factor: float) -> None:
    """Names above the marks, the last of every line first, as long as they do not cover one another."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for point in sorted((p for line in series for p in line.points if p.name), key=lambda p: -p.cost):
        x, y = (point.cost - left) / (right - left), (factor * point.result.mean - bottom) / (top - bottom)
        if all(abs(x - a) > 0.15 or abs(y - b) > 0.09 for a, b in taken):
            taken.append((x, y))
            at = (point.cost, factor * point.result.mean)
            axes.annotate(point.name, at, (0, 6), textcoords="offset points", ha="center", fontsize=7)
