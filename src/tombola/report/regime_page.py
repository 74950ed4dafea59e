"""The figure, the table and the key numbers of tickets on their way through the interpolation threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from tombola.formats import MISSING, Fixed, Unit, count, density, number, percent
from tombola.report import style
from tombola.report.axes import legend_above, log_axis, round_ticks
from tombola.report.looks import Look, series_look
from tombola.report.numbers import Number
from tombola.report.plot import Plot, Remark, Shown, sentences
from tombola.report.tables import Row, Table
from tombola.results.record import Figure as Values
from tombola.results.regime import PlacedTicket, RegimeResult
from tombola.results.statistics import FEWEST_REPLICATES, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ERROR, _LENGTH = Unit("accuracy"), Fixed("distance", 2)
"""Errors are printed as accuracies are: shares in percent."""
Group = tuple[PlacedTicket, ...]
"""The tickets of one series that keep equally many weights."""


def regime_plots(result: RegimeResult) -> list[Shown]:
    """Errors and distance over the kept weights; a remark where no ticket keeps any."""
    if not any(ticket.kept for ticket in result.tickets):
        return [Remark("No ticket keeps a weight, so there is no figure.")]
    wrong = any(ticket.memorised is not None for ticket in result.tickets)
    several = any(len(group) > 1 for groups in _groups(result).values() for group in groups)
    caption = sentences(
        "Error on the training (hollow) and the test examples (filled)"
        + (", the share of the wrong training labels that a ticket gives (hollow squares)" if wrong else "")
        + ", and the distance of its parameters from the first ones, over kept weights / n K.",
        f"Dashed: the threshold, the fewest weights up to which the training error is at most "
        f"{percent(result.tolerance)}.",
        "Lines through the means over replicates." if several else "",
    )
    return [Plot("regime", "Tickets on the curve", caption, regime_figure(result, wrong))]


def _groups(result: RegimeResult) -> dict[str, tuple[Group, ...]]:
    """Every series' tickets by what they keep, from dense to sparse."""
    return {
        name: tuple(
            tuple(one for one in tickets if one.kept == kept) for kept in dict.fromkeys(one.kept for one in tickets)
        )
        for name, tickets in result.series.items()
    }


def regime_figure(result: RegimeResult, wrong: bool) -> Figure:
    """Panels of errors, wrong labels (if `wrong`) and distance, over one axis of kept weights / n K."""
    moved = any(ticket.distance is not None for ticket in result.tickets)
    with style.styled():
        names = ["Error (%)", *(["Wrong labels\ngiven (%)"] if wrong else []), *(["Distance"] if moved else [])]
        drawn = style.new_figure(1.6 * len(names) + 0.7)
        panels = drawn.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        rows = dict(zip(names, panels, strict=True))
        for index, (name, groups) in enumerate(_groups(result).items()):
            look, shown = series_look(index), [group for group in groups if group[0].kept]
            _line(rows["Error (%)"], shown, lambda one: _percent(one.test_error), look, name, filled=True)
            _line(rows["Error (%)"], shown, lambda one: _percent(one.train_error), look, None, filled=False)
            if wrong:
                _line(rows[names[1]], shown, lambda one: _percent(one.memorised), look, None, filled=False)
            if moved:
                _line(rows["Distance"], shown, lambda one: one.distance, look, None, filled=True)
            threshold = result.threshold_of(name).ratio
            for axes in panels if threshold is not None else ():
                axes.axvline(threshold, color=look.colour, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1.5)
        for label, axes in rows.items():
            axes.set_ylabel(label)
            axes.set_ylim(bottom=0.0)
            round_ticks(axes.yaxis, max_ticks=5)
        ratios = [ticket.ratio for ticket in result.tickets if ticket.kept]
        if max(ratios) > 10 * min(ratios):
            log_axis(panels[-1].xaxis, ratios)
        panels[-1].set_xlabel("Kept weights / n K")
        if len(result.thresholds) > 1:
            legend_above(drawn, panels[0])
    return drawn


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _line(
    axes: Axes,
    groups: Sequence[Group],
    value: Callable[[PlacedTicket], float | None],
    look: Look,
    label: str | None,
    *,
    filled: bool,
) -> None:
    """A line through the means of the groups, and every ticket's own mark."""
    known = [(group[0].ratio, [number for one in group if (number := value(one)) is not None]) for group in groups]
    places = [(ratio, fmean(values)) for ratio, values in known if values]
    axes.plot(
        [ratio for ratio, _ in places],
        [mean for _, mean in places],
        label=None if label is None else style.plain(label),
        color=look.colour,
        linestyle=look.dash if filled else "-",
        linewidth=1.4 if filled else 0.9,
        marker=look.marker,
        markersize=4,
        markerfacecolor=look.colour if filled else style.PAPER,
    )
    for ratio, values in known:
        if len(values) > 1:
            axes.plot([ratio] * len(values), values, look.marker, color=look.colour, alpha=0.4, markersize=2.2)


def regime_tables(result: RegimeResult) -> list[Table]:
    """A table for every series: what its tickets keep, their errors, distance and side."""
    return [_table(result, name, groups) for name, groups in _groups(result).items()]


def _table(result: RegimeResult, series: str, groups: Sequence[Group]) -> Table:
    wrong = any(one.memorised is not None for group in groups for one in group)

    def row(group: Group) -> Row:
        first = group[0]
        return (
            density(first.density),
            count(first.kept),
            number(first.ratio, 3),
            _cell([one.train_error for one in group], _ERROR),
            _cell([one.test_error for one in group], _ERROR),
            *([_cell([one.memorised for one in group], _ERROR)] if wrong else []),
            _cell([one.distance for one in group], _LENGTH),
            _cell([one.relative_distance for one in group], _LENGTH),
            first.side,
        )

    most = max(len(group) for group in groups)
    means = f"Means over {most} replicates" if most > 1 else ""
    head: Row = (
        "Density",
        "Kept weights",
        "/ n K",
        "Training error",
        "Test error",
        *(["Wrong labels given"] if wrong else []),
        "Distance",
        "Relative",
        "Side",
    )
    note = sentences(
        f"n = {count(result.examples)} training examples, K = {result.outputs} outputs.",
        "Distance: Euclidean norm of how training changed the parameters; relative: over the norm of the first ones.",
        "Wrong labels given: share of the mislabelled training examples that get their wrong label." if wrong else "",
        f"{means} ± half of the 95 % t-interval." if most >= FEWEST_REPLICATES else f"{means}." if means else "",
    )
    return Table(f"Tickets of {series}", head, tuple(map(row, groups)), note)


def _cell(values: Sequence[float | None], unit: Unit | Fixed) -> str:
    known: Values = figure(list(values))
    return MISSING if known.mean is None else unit.interval(known.mean, known.interval)


def regime_numbers(result: RegimeResult) -> tuple[Number, ...]:
    """The threshold of the first series, and how many tickets lie on either side."""
    first = result.thresholds[0]
    above = sum(ticket.side == "above" for ticket in result.tickets)
    found = (
        [Number("Threshold", count(first.kept), f"kept weights, {number(first.ratio or 0, 3)} n K")]
        if first.kept is not None
        else []
    )
    return (
        *found,
        Number("Tickets above", str(above), "fit the training examples"),
        Number("Tickets below", str(len(result.tickets) - above), "do not"),
        Number("n K", count(result.examples * result.outputs), f"{count(result.examples)} × {result.outputs}"),
    )
