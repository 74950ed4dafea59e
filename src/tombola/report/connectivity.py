"""The page of a study of connectivity: error along the lines, barriers against step and density, and their tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from tombola.formats import MISSING, Fixed, Unit, count, plural
from tombola.report import style, words
from tombola.report.axes import density_axis, legend_above, round_ticks
from tombola.report.looks import CONTROLS, Look, series_look
from tombola.report.numbers import Number
from tombola.report.plot import Plot, Shown, sentences
from tombola.report.tables import Cell, Row, Table
from tombola.results.connectivity import STABLE, Connected, ConnectivityResult, LineSplit
from tombola.results.record import Figure as Values
from tombola.results.statistics import FEWEST_REPLICATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSS, _DISTANCE = Fixed("loss", 3), Fixed("distance", 2)
_MAX_STEPS = 3
"""Steps whose lines have a figure of their own; of more, the first, a middle and the last."""


def connectivity_plots(study: ConnectivityResult) -> list[Shown]:
    """Barriers against step and density, then the metric along the lines of the sparsest level."""
    return [*_against_step(study), *_against_density(study), *_along(study)]


def connectivity_numbers(study: ConnectivityResult) -> tuple[Number, ...]:
    """The barriers of the sparsest level from the last step."""
    unit, level, step = Unit(study.metric), study.levels[-1], study.from_steps[-1]
    shown = [pair for pair in study.pairs if (pair.level, pair.from_step) == (level, step)]
    numbers = [
        Number(style.arm_name(pair.arm), _cell(pair.test_barrier, unit), f"barrier{unit.points}", _look(pair.arm))
        for pair in shown
    ]
    where = Number("Weights kept", words.density(shown[0].density), f"from {_from(step)}")
    return (where, *numbers, Number("Replicates", str(study.replicates), "of everything"))


def connectivity_tables(study: ConnectivityResult) -> list[Table]:
    """Every pair, and the ticket against its controls."""
    return [_pairs(study), *_differences(study)]


# -- tables


def _cell(figure: Values, unit: Unit) -> str:
    """Mean and half the interval, without a sign of percent: barriers are in points."""
    if figure.mean is None:
        return MISSING
    half = f" ± {unit.bare((figure.interval[1] - figure.interval[0]) / 2)}" if figure.interval else ""
    return f"{unit.bare(figure.mean)}{half}"


def _from(step: int) -> str:
    return f"iteration {step:,}" if step else "initialisation"


def _look(arm: str) -> Look:
    return CONTROLS.get(arm) or series_look(0)


def _means(replicates: int) -> str:
    if replicates < 2:
        return "Each value is of one replicate."
    over = f"Means over {plural(replicates, 'replicate')}"
    return f"{over} ± half of the 95 % t-interval." if replicates >= FEWEST_REPLICATES else f"{over}."


def _pairs(study: ConnectivityResult) -> Table:
    unit = Unit(study.metric)
    rows: list[Row] = [
        (
            count(pair.from_step),
            Cell(style.arm_name(pair.arm), look=_look(pair.arm)),
            words.density(pair.density),
            _cell(pair.test_barrier, unit),
            _cell(pair.train_barrier, unit),
            _cell(pair.test_loss_barrier, _LOSS),
            _cell(pair.train_loss_barrier, _LOSS),
            MISSING if pair.accuracy.mean is None else unit.interval(pair.accuracy.mean, pair.accuracy.interval),
            _cell(pair.distance, _DISTANCE),
        )
        for pair in study.pairs
    ]
    head: Row = (
        Cell("From", "iteration"),
        "Network",
        "Density",
        Cell("Barrier", f"test{unit.points and ', points'}"),
        Cell("Barrier", f"train{unit.points and ', points'}"),
        Cell("Loss barrier", "test"),
        Cell("Loss barrier", "train"),
        Cell("Ends", f"test {study.metric}"),
        "Distance",
    )
    note = (
        f"Two trainings from one network with other data orders; {study.points} points on the line between their ends, "
        "norm statistics taken anew at each. Barrier: the worst point against the mean of the ends. Distance: between "
        f"the ends, over all trained parameters. {_means(study.replicates)}"
    )
    return Table("Barriers between two trainings", head, tuple(rows), note, words=2)


def _differences(study: ConnectivityResult) -> list[Table]:
    if not study.differences:
        return []
    unit = Unit(study.metric)

    def cell(figure: Values) -> str | Cell:
        if figure.mean is None:
            return MISSING
        return Cell(unit.difference(figure.mean), unit.differences.ends(*figure.interval) if figure.interval else "")

    densities = {pair.level: pair.density for pair in study.pairs}
    rows: list[Row] = [
        (
            count(change.from_step),
            f"ticket − {change.against}",
            words.density(densities[change.level]),
            cell(change.test),
            cell(change.train),
        )
        for change in study.differences
    ]
    note = sentences(
        f"Barrier of the ticket minus that of the control{unit.points and ', in points'}; below 0 the ticket is the "
        "more stable.",
        "Below: 95 % intervals over replicates, paired, each on its own."
        if study.replicates >= FEWEST_REPLICATES
        else "",
    )
    head: Row = (Cell("From", "iteration"), "Difference", "Density", "Test", "Train")
    return [Table("Tickets against their controls", head, tuple(rows), note, words=2)]


# -- figures


def _mark(axes: Axes, look: Look, x: Sequence[float], values: Sequence[Values], factor: float, label: str) -> None:
    """A line with a mark and, from three replicates on, a bar at every point."""
    known = [(at, value.mean, value.interval) for at, value in zip(x, values, strict=True) if value.mean is not None]
    y = [factor * mean for _, mean, _ in known]
    low = [factor * (mean - band[0]) if band else 0.0 for _, mean, band in known]
    high = [factor * (band[1] - mean) if band else 0.0 for _, mean, band in known]
    axes.errorbar(
        [at for at, _, _ in known],
        y,
        yerr=[low, high] if any(band for _, _, band in known) else None,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        capsize=2.5,
        elinewidth=1.0,
        label=style.arm_name(label),
    )


def _barriers(
    study: ConnectivityResult,
    arms: Mapping[str, Sequence[Connected]],
    place: Callable[[Connected], float],
    dress: Callable[[Axes], None],
) -> Figure:
    unit = Unit(study.metric)
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        if unit.percent:
            axes.axhline(100 * STABLE, color=style.MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        for arm, pairs in arms.items():
            _mark(axes, _look(arm), [place(pair) for pair in pairs], [p.test_barrier for p in pairs], unit.factor, arm)
        axes.set_ylabel(f"Barrier in test {study.metric}{' (points)' if unit.percent else ''}")
        dress(axes)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        round_ticks(axes.yaxis)
        legend_above(figure, axes)
    return figure


def _bars(study: ConnectivityResult) -> str:
    stable = "Dotted: 2 points, below which a network is called stable." if Unit(study.metric).percent else ""
    bars = "Bars: 95 % t-intervals." if study.replicates >= FEWEST_REPLICATES else ""
    return sentences(bars, stable)


def _arms(pairs: Iterable[Connected]) -> dict[str, list[Connected]]:
    """The pairs of every arm."""
    arms: dict[str, list[Connected]] = {}
    for pair in pairs:
        arms.setdefault(pair.arm, []).append(pair)
    return arms


def _sparsest(study: ConnectivityResult) -> str:
    """The density of the last level, and whether the dense network is shown beside it."""
    last = study.levels[-1]
    kept = next(pair.density for pair in study.pairs if pair.level == last)
    return f"{words.density(kept)} of the weights{', and dense' if last and 0 in study.levels else ''}"


def _against_step(study: ConnectivityResult) -> list[Shown]:
    """Of the dense network and of the sparsest level."""
    if len(study.from_steps) < 2:
        return []
    later = [step for step in study.from_steps if step]

    def dress(axes: Axes) -> None:
        if max(later) > 4 * min(later):
            axes.set_xscale("symlog", linthresh=min(later))
        axes.set_xticks(list(study.from_steps), [f"{step:,}" for step in study.from_steps])
        axes.minorticks_off()
        axes.set_xlabel("Iteration at which the two trainings part")

    caption = sentences(
        f"Barrier against the step from which both trainings go on, at {_sparsest(study)}.", _bars(study)
    )
    shown = _arms(pair for pair in study.pairs if pair.level in (0, study.levels[-1]))
    drawn = _barriers(study, shown, lambda pair: pair.from_step, dress)
    return [Plot("connectivity-step", "Barrier against the step", caption, drawn)]


def _against_density(study: ConnectivityResult) -> list[Shown]:
    """One figure for every step; the dense network stands at 100 %."""
    if len(study.levels) < 2:
        return []
    densities = [pair.density for pair in study.pairs]

    def dress(axes: Axes) -> None:
        density_axis(axes, densities)

    plots: list[Shown] = []
    for step in _some(study.from_steps):
        caption = sentences(f"Barrier against density, both trainings going on from {_from(step)}.", _bars(study))
        shown = _arms(pair for pair in study.pairs if pair.from_step == step)
        drawn = _barriers(study, shown, lambda pair: pair.density, dress)
        title = f"Barrier against density, from {_from(step)}"
        plots.append(Plot(f"connectivity-density-{step}", title, caption, drawn))
    return plots


def _some(steps: Sequence[int]) -> list[int]:
    if len(steps) <= _MAX_STEPS:
        return list(steps)
    return [steps[0], steps[len(steps) // 2], steps[-1]]


def _along(study: ConnectivityResult) -> list[Shown]:
    plots: list[Shown] = []
    for step in _some(study.from_steps):
        there = [pair for pair in study.pairs if pair.from_step == step and pair.level in (0, study.levels[-1])]
        caption = sentences(
            f"Test {study.metric} on the straight line between the ends of two trainings that part at {_from(step)}: "
            f"at {_sparsest(study)}.",
            f"Means over {plural(study.replicates, 'replicate')}." if study.replicates > 1 else "",
        )
        title = f"Along the line, from {_from(step)}"
        plots.append(Plot(f"connectivity-line-{step}", title, caption, _lines(study, there)))
    return plots


def _lines(study: ConnectivityResult, pairs: Sequence[Connected]) -> Figure:
    unit = Unit(study.metric)
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for pair in pairs:
            y = [unit.factor * value for value in _mean_line([line.test for line in pair.lines])]
            look = _look(pair.arm)
            label = style.arm_name(pair.arm)
            axes.plot(pair.lines[0].positions, y, color=look.colour, linestyle=look.dash, label=label)
        axes.set_xlabel("Position on the line between the two networks")
        axes.set_ylabel(unit.axis("Test"))
        round_ticks(axes.yaxis)
        legend_above(figure, axes)
    return figure


def _mean_line(splits: Sequence[LineSplit | None]) -> list[float]:
    """Means over the replicates at every position; not a number where one has none."""
    known = [split.metric for split in splits if split is not None]
    return [fmean(math.nan if value is None else value for value in at) for at in zip(*known, strict=True)]
