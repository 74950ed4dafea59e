"""The figure of a curve of double descent: errors, losses and norm over the size of the model, one above the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tombola.report import style
from tombola.report.axes import density_axis, legend_above, log_axis, round_ticks
from tombola.report.descent_tables import HEADS, size_head
from tombola.report.looks import Look, series_look
from tombola.report.plot import Plot, Remark, Shown, sentences
from tombola.results.double_descent import DescentPoint, DescentResult, Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = ("test_error", "test_loss", "norm", "train_loss")
OF_NETWORKS = ("test_error", "memorised", "distance", "test_loss")
"""Panels where it was measured how far training moved the parameters."""
SHARES = ("train_error", "test_error", "memorised")
LOGARITHMIC = ("test_loss", "norm")
HEIGHT = 1.45
"""Of a panel, in inches."""
_NAME_SIZE = 7.5
"""Of the phases' names, in points."""


def descent_plots(result: DescentResult) -> list[Shown]:
    """One figure with a panel for every measure that there is; a remark if there is a single size."""
    if len({point.size(result.axis) for point in result.curve}) < 2:
        return [Remark("The curve has a single size, so there is no figure.")]
    panels = OF_NETWORKS if any(point.distance is not None for point in result.curve) else PANELS
    shown = [name for name in panels if any(getattr(point, name) is not None for point in result.curve)]
    band = "Band: 95 % t-interval of the mean." if any(point.intervals for point in result.curve) else ""
    size = size_head(result).lower()
    caption = sentences(
        f"{', '.join(_label(name).lower() for name in shown)} against {size}.".capitalize(),
        "Training error is drawn with the test error, as hollow marks." if "test_error" in shown else "",
        f"Dashed: the threshold, from which on every training example can be fitted ({result.loss})."
        if result.threshold is not None
        else "",
        "Shaded: every other phase that is seen, named above the first panel." if _seen(result) else "",
        band,
        f"Logarithmic axes of {' and '.join(_label(name).lower() for name in shown if name in LOGARITHMIC)}."
        if set(shown) & set(LOGARITHMIC)
        else "",
    )
    return [Plot("double-descent", "Double descent", caption, descent_figure(result, shown))]


def _label(measure: str) -> str:
    return f"{HEADS[measure]} (%)" if measure in SHARES else HEADS[measure]


def _seen(result: DescentResult) -> list[Phase]:
    """Phases that are seen, from dense to sparse."""
    return [phase for phase in result.phases if phase.densest is not None]


def _shade(panels: Sequence[Axes], result: DescentResult) -> None:
    """The phases between the midpoints of the densities, on a logarithmic axis; every other one is shaded.

    Their names stand above the first panel, in as many rows as keep them apart.
    """
    places = sorted({point.density for point in result.curve if point.density}, reverse=True)
    top = panels[0]
    width = top.get_window_extent().width * 72 / top.figure.dpi
    ends: list[float] = []  # of the names in each row above the panel, in points from its left
    for index, phase in enumerate(_seen(result)):
        own = [at for at, place in enumerate(places) if phase.has(place)]
        if not own:
            continue
        first, last = own[0], own[-1]
        left = math.sqrt(places[first] * places[first - 1]) if first else places[0]
        right = math.sqrt(places[last] * places[last + 1]) if last + 1 < len(places) else places[-1]
        for axes in panels if index % 2 else ():
            axes.axvspan(right, left, color=style.MUTED, alpha=0.13, linewidth=0, zorder=0)
        middle = math.sqrt(left * right)
        at = width * (top.transData - top.transAxes).transform((middle, 0))[0]
        half = 0.3 * _NAME_SIZE * len(phase.name) + 2
        row = next((row for row, end in enumerate(ends) if end <= at - half), len(ends))
        ends[row:] = [at + half, *ends[row + 1 :]]
        top.annotate(
            phase.name,
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2 + row * (_NAME_SIZE + 1)),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=_NAME_SIZE,
            color=style.MUTED,
        )


def descent_figure(result: DescentResult, measures: Sequence[str]) -> Figure:
    """A panel for each measure, over the same axis of sizes; the threshold dashed."""
    with style.styled():
        figure = style.new_figure(HEIGHT * len(measures) + 0.55)
        panels = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
        sizes = [point.size(result.axis) for point in result.curve]
        for axes, measure in zip(panels, measures, strict=True):
            for index, (name, points) in enumerate(result.series.items()):
                _draw(axes, points, result, measure, series_look(index), name)
            if result.threshold is not None:
                axes.axvline(result.threshold, color=style.MUTED, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1.5)
            axes.set_ylabel(_label(measure).replace(" labels ", " labels\n"))
            if measure in LOGARITHMIC:
                log_axis(axes.yaxis, [v for point in result.curve if (v := getattr(point, measure)) is not None])
            else:
                axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
                round_ticks(axes.yaxis, max_ticks=5)
        _size_axis(panels[-1], sizes, result)
        _shade(list(panels), result)
        figure.align_ylabels(panels)
        if len(result.series) > 1:
            legend_above(figure, panels[0])
    return figure


def _size_axis(axes: Axes, sizes: Sequence[float], result: DescentResult) -> None:
    label = size_head(result)
    if result.axis == "density":
        density_axis(axes, sizes)
        return
    if max(sizes) > 10 * min(sizes):
        log_axis(axes.xaxis, sizes)
    else:
        round_ticks(axes.xaxis, counts=True)
    axes.set_xlabel(label)


def _draw(
    axes: Axes, points: Sequence[DescentPoint], result: DescentResult, measure: str, look: Look, name: str
) -> None:
    """A measure's line with its band; of the test error also that of training, with hollow marks."""
    factor = 100.0 if measure in SHARES else 1.0
    known = sorted(
        (
            (point.size(result.axis), factor * value, point)
            for point in points
            if (value := getattr(point, measure)) is not None
        ),
        key=lambda one: one[:2],  # a tree that fits everything with fewer leaves than it may have occurs twice
    )
    x, y = [size for size, _, _ in known], [value for _, value, _ in known]
    axes.plot(x, y, label=style.plain(name), color=look.colour, linestyle=look.dash, marker=look.marker, markersize=3.4)
    ends = [point.intervals.get(measure) for _, _, point in known]
    if all(end is not None for end in ends):
        low, high = ([factor * end[side] for end in ends if end is not None] for side in (0, 1))
        if measure in LOGARITHMIC:
            low = [max(value, 0.5 * min(y)) for value in low]
        axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
    if measure == "test_error":
        train = [(size, factor * point.train_error) for size, _, point in known if point.train_error is not None]
        axes.plot(
            [size for size, _ in train],
            [value for _, value in train],
            color=look.colour,
            linestyle="-",
            linewidth=1.0,
            marker=look.marker,
            markersize=3.4,
            markerfacecolor=style.PAPER,
        )
