"""The figures: pure functions from numbers to matplotlib figures. Files and pages are made elsewhere.

Quantities come in the unit they are drawn in (percent where the label says so), densities as fractions 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola.report import style
from tombola.report.aggregate import Curve, Point
from tombola.report.levels import FEWEST, Layer
from tombola.report.style import Look, plain
from tombola.report.summary import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """A line of points over density."""

    label: str
    look: Look
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Trace:
    """A line over iterations."""

    label: str
    look: Look
    curve: Curve


@dataclass(frozen=True)
class Row:
    """Results of one arm: single replicates, their mean and its 95 % interval."""

    label: str
    look: Look
    values: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None


def band_kind(series: Sequence[Series]) -> str:
    """Which band is shown: ``interval`` (where every point has 3 values or more), ``range`` or ``none``."""
    sizes = [point.spread.n for line in series for point in line.points]
    if max(sizes, default=0) < 2:
        return "none"
    return "interval" if min(sizes) >= FEWEST else "range"


def _ends(point: Point, band: str) -> tuple[float, float]:
    if band == "interval" and point.spread.interval is not None:
        return point.spread.interval
    return point.spread.low, point.spread.high


def percent_ticks(low: float, high: float, most: int = 8) -> tuple[float, ...]:
    """Round densities in [low, high] for a log axis, at most ``most`` where that is possible."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) <= most:
            break
    return tuple(ticks) if len(ticks) >= 2 else (low, high) if high > 1.2 * low else (math.sqrt(low * high),)


def percent_label(density: float) -> str:
    return f"{100 * density:.3g}"


def count_label(value: float, _position: object = None) -> str:
    """12000 -> 12k, so that ticks stay short."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _density_axis(axes: Axes, densities: Sequence[float]) -> None:
    """A log axis in percent that falls from dense on the left to sparse on the right."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(densities), max(densities)
    pad = max((high / low) ** 0.04, 1.05)
    ticks = percent_ticks(low, high)
    axes.set_xscale("log")
    axes.set_xlim(high * pad, low / pad)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), [percent_label(t) for t in ticks])
    axes.set_xlabel("Weights kept (%)")


def legend_above(figure: Figure, axes: Axes) -> None:
    """Above the axes, in columns that fit the narrow figure."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) < 2:
        return
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(52 / (longest + 9))))
    if len(labels) == columns + 1 or (len(labels) == 4 and columns == 3):
        columns = math.ceil(len(labels) / 2)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _line(look: Look, **more: Any) -> dict[str, Any]:
    return {"color": look.colour, "linestyle": look.dash, **more}


def density_figure(
    series: Sequence[Series],
    *,
    ylabel: str,
    factor: float = 1.0,
    dense: float | None = None,
    window: tuple[float, float] | None = None,
    counts: bool = False,
) -> Figure:
    """A quantity against density, a line per arm with its band; hollow markers where replicates lack a value.

    Args:
        series: at least one, each with at least one point of density > 0.
        ylabel: what the vertical axis shows, with its unit.
        factor: what values are multiplied by for display (100 for percent).
        dense: value of the dense network, drawn across as a dotted line.
        window: limits of the vertical axis, before ``factor``; None fits all data.
        counts: print ticks as 12k and start at 0.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    band = band_kind(series)
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for line in series:
            shown = sorted((p for p in line.points if p.density > 0), key=lambda p: -p.density)
            x = [p.density for p in shown]
            y = [factor * p.spread.mean for p in shown]
            ends = [_ends(p, band) for p in shown]
            look = line.look
            if band != "none" and len(shown) > 1:
                axes.fill_between(
                    x,
                    [factor * a for a, _ in ends],
                    [factor * b for _, b in ends],
                    color=look.colour,
                    alpha=0.18,
                    linewidth=0,
                )
            elif band != "none":
                reach = [[y[0] - factor * ends[0][0]], [factor * ends[0][1] - y[0]]]
                axes.errorbar(x, y, yerr=reach, fmt="none", ecolor=look.colour, capsize=3)
            axes.plot(x, y, label=plain(line.label), marker=look.marker, **_line(look))
            part = [(a, b) for a, b, p in zip(x, y, shown, strict=True) if not p.complete]
            if part:
                axes.plot(
                    [a for a, _ in part],
                    [b for _, b in part],
                    marker=look.marker,
                    markerfacecolor=style.PAPER,
                    markeredgecolor=look.colour,
                    linestyle="none",
                )
        if dense is not None:
            look = style.ARM_LOOKS["dense"]
            axes.axhline(factor * dense, label="Dense", zorder=1.5, **_line(look, linewidth=1.3))
        _density_axis(axes, [p.density for line in series for p in line.points if p.density > 0])
        axes.set_ylabel(ylabel)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        if window is not None:
            axes.set_ylim(factor * window[0], factor * window[1])
        elif counts:
            axes.set_ylim(bottom=0)
        if counts:
            axes.yaxis.set_major_formatter(FuncFormatter(count_label))
        axes.margins(y=0.06)
        legend_above(figure, axes)
    return figure


def layer_figure(levels: Sequence[tuple[str, Look, Sequence[Layer]]]) -> Figure:
    """Density of each layer (rows, input at the top) at a few levels; a cross where a layer kept nothing."""
    names = list(dict.fromkeys(layer.name for _, _, layers in levels for layer in layers))
    rows = {name: row for row, name in enumerate(names)}
    known = [layer.density for _, _, layers in levels for layer in layers if layer.density > 0] or [1.0]
    floor = min(known) / 1.6
    tight = len(names) > 24
    with style.styled():
        figure = style.new_figure(min(1.25 + len(names) * (0.15 if tight else 0.34), 9.0))
        axes = figure.add_subplot()
        for label, look, layers in levels:
            x = [layer.density or floor for layer in layers]
            y = [rows[layer.name] for layer in layers]
            axes.plot(
                x,
                y,
                label=label,
                marker=look.marker,
                markersize=3.0 if tight else 5.0,
                **_line(look, linewidth=1),
            )
            empty = [rows[layer.name] for layer in layers if not layer.density]
            axes.plot([floor] * len(empty), empty, "x", color=look.colour, markersize=7, markeredgewidth=2)
        _density_axis(axes, [floor if min(known) < 1 else 0.5, 1.0])
        axes.set_xlabel("Weights of the layer kept (%)")
        every = math.ceil(len(names) / 60)
        axes.set_yticks(
            range(0, len(names), every),
            [plain(name, 22) for name in names[::every]],
            fontsize=6.5 if tight else 8.5,
        )
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(axis="y", visible=not tight)
        legend_above(figure, axes)
    return figure


def trace_figure(
    traces: Sequence[Trace], *, ylabel: str, factor: float = 1.0, log: bool = False, window: bool = False
) -> Figure:
    """A quantity against the iteration: mean line and a band from the least to the greatest log.

    Args:
        traces: at least one.
        ylabel: what the vertical axis shows, with its unit.
        factor: what values are multiplied by for display.
        log: logarithmic vertical axis (for losses; ignored if a value is not positive).
        window: leave out the steep start: the axis begins at the lowest value of the last three quarters.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for trace in traces:
            curve, look = trace.curve, trace.look
            if curve.n > 1:
                axes.fill_between(
                    curve.steps,
                    [factor * v for v in curve.low],
                    [factor * v for v in curve.high],
                    color=look.colour,
                    alpha=0.15,
                    linewidth=0,
                )
            axes.plot(curve.steps, [factor * v for v in curve.mean], label=plain(trace.label), **_line(look))
        lows = [factor * v for t in traces for v in t.curve.low[len(t.curve.low) // 4 :]]
        highs = [factor * v for t in traces for v in t.curve.high]
        if log and min(min(t.curve.low) for t in traces) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            if max(highs) < 300 * min(lows):
                axes.yaxis.set_minor_formatter(FuncFormatter(_few_minor))
            else:
                axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            if window and max(highs) > min(lows):
                room = 0.06 * (max(highs) - min(lows))
                axes.set_ylim(min(lows) - room, max(highs) + room)
        last = max(t.curve.steps[-1] for t in traces)
        axes.set_xlim(0, 1.02 * last)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(count_label))
        axes.set_xlabel("Training iterations")
        axes.set_ylabel(ylabel)
        legend_above(figure, axes)
    return figure


def _few_minor(value: float, _position: object = None) -> str:
    """Minor labels of a log axis at 2 and 5 of a decade only."""
    lead = round(value / 10 ** math.floor(math.log10(value)), 6) if value > 0 else 0
    return f"{value:g}" if lead in (2, 5) else ""


def arms_figure(rows: Sequence[Row], *, xlabel: str, factor: float = 1.0) -> Figure:
    """Results of several arms: replicates as faint dots, mean and 95 % interval bold."""
    with style.styled():
        figure = style.new_figure(0.85 + (0.42 if len(rows) <= 12 else 0.3) * len(rows))
        axes = figure.add_subplot()
        for at, row in enumerate(rows):
            look = row.look
            values = [factor * v for v in row.values]
            axes.plot(values, [at + 0.24] * len(values), look.marker, color=look.colour, alpha=0.45, markersize=3.2)
            if row.interval is not None:
                axes.plot([factor * e for e in row.interval], [at, at], color=look.colour, linewidth=2.4)
            if row.mean is not None:
                axes.plot([factor * row.mean], [at], look.marker, color=look.colour, markersize=7)
        _rows(axes, [plain(row.label, 26) for row in rows])
        axes.set_xlabel(xlabel)
    return figure


def differences_figure(
    comparisons: Mapping[str, Comparison], *, margin: float | None, xlabel: str, factor: float = 1.0
) -> Figure:
    """Ticket minus each rival with its 95 % interval; a tick at the one-sided lower bound that decides."""
    with style.styled():
        figure = style.new_figure(1.05 + 0.42 * len(comparisons))
        axes = figure.add_subplot()
        axes.axvline(0, color=style.MUTED, linewidth=1)
        for row, (name, item) in enumerate(comparisons.items()):
            look = style.arm_look(name)
            if item.interval is not None:
                axes.plot([factor * e for e in item.interval], [row, row], color=look.colour, linewidth=2.4)
            if item.lower is not None:
                axes.plot([factor * item.lower], [row], "|", color=look.colour, markersize=13, markeredgewidth=2)
            if item.difference is not None:
                axes.plot([factor * item.difference], [row], look.marker, color=look.colour, markersize=7)
            if name == "dense" and margin is not None:
                axes.plot([-factor * margin] * 2, [row - 0.42, row + 0.42], color=style.INK, linestyle=(0, (2, 1.5)))
        _rows(axes, [f"against {style.arm_name(name).lower()}" for name in comparisons])
        axes.set_xlabel(xlabel)
    return figure


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), list(labels))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
