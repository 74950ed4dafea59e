"""The figures: pure functions from numbers to matplotlib figures. Files and pages are made elsewhere.

Quantities come in the unit they are drawn in (percent where the label says so), densities as fractions 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola.report import style
from tombola.report.aggregate import Curve, Point
from tombola.report.axes import (
    density_axis,
    iterations_axis,
    legend_above,
    log_axis,
    name_rows,
    not_above_100,
    round_ticks,
)
from tombola.report.looks import CONTROLS, Look
from tombola.report.style import plain
from tombola.results.statistics import FEWEST_REPLICATES
from tombola.results.trial import LayerResult
from tombola.results.verification import ClaimResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Series:
    """A line of points over density."""

    label: str
    look: Look
    points: tuple[Point, ...]

    @property
    def shown(self) -> tuple[Point, ...]:
        """Points that a log axis can show, from dense to sparse."""
        return tuple(sorted((p for p in self.points if p.density > 0), key=lambda p: -p.density))


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


MAX_MARKED = 8
"""Curves of at most this many evaluations have a mark at each."""


def band_kind(series: Sequence[Series]) -> str:
    """Which band is shown: ``interval`` (where every point has 3 values or more), ``range`` or ``none``."""
    sizes = [point.spread.n for line in series for point in line.shown]
    if max(sizes, default=0) < 2:
        return "none"
    return "interval" if min(sizes) >= FEWEST_REPLICATES else "range"


def ends_of(point: Point, band: str) -> tuple[float, float]:
    """The ends of a point's band."""
    if band == "interval" and point.spread.interval is not None:
        return point.spread.interval
    return point.spread.low, point.spread.high


def _line(look: Look, **more: Any) -> dict[str, Any]:
    return {"color": look.colour, "linestyle": look.dash, **more}


def density_figure(
    series: Sequence[Series],
    *,
    ylabel: str,
    factor: float = 1.0,
    dense: float | None = None,
    dense_name: str = "Dense",
    window: tuple[float, float] | None = None,
    counts: bool = False,
) -> Figure:
    """A quantity against density, a line per arm with its band; hollow markers where replicates lack a value.

    Args:
        series: at least one, each with at least one point of density > 0.
        ylabel: what the vertical axis shows, with its unit.
        factor: multiplier of the values for display (100 for percent).
        dense: value of the dense network, drawn across as a dotted line, labelled ``dense_name``.
        window: limits of the vertical axis, before ``factor``; None fits all data.
        counts: whole numbers, from 0.
    """
    band = band_kind(series)
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for line in series:
            x = [p.density for p in line.shown]
            y = [factor * p.spread.mean for p in line.shown]
            ends = [tuple(factor * end for end in ends_of(p, band)) for p in line.shown]
            _band(axes, x, y, ends if band != "none" else [], line.look)
            axes.plot(x, y, label=plain(line.label), marker=line.look.marker, **_line(line.look))
            for at, value, point in zip(x, y, line.shown, strict=True):
                if not point.complete:
                    axes.plot([at], [value], line.look.marker, color=line.look.colour, markerfacecolor=style.PAPER)
        if dense is not None:
            axes.axhline(factor * dense, label=plain(dense_name), zorder=1.5, **_line(CONTROLS["dense"], linewidth=1.3))
        density_axis(axes, [p.density for line in series for p in line.shown])
        axes.set_ylabel(ylabel)
        axes.margins(y=0.06)
        round_ticks(axes.yaxis, counts=counts)
        if window is not None:
            axes.set_ylim(factor * window[0], factor * window[1])
        elif counts:
            axes.set_ylim(bottom=0)
        if factor == 100:
            not_above_100(axes, max(factor * p.spread.high for line in series for p in line.shown))
        legend_above(figure, axes)
    return figure


def _band(axes: Axes, x: Sequence[float], y: Sequence[float], ends: Sequence[tuple[float, ...]], look: Look) -> None:
    """The band around a line; a bar at a lone point."""
    if not ends:
        return
    low, high = [pair[0] for pair in ends], [pair[1] for pair in ends]
    if len(x) > 1:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.18, linewidth=0)
    else:
        axes.errorbar(x, y, yerr=[[y[0] - low[0]], [high[0] - y[0]]], fmt="none", ecolor=look.colour, capsize=3)


def layer_figure(
    levels: Sequence[tuple[str, Look, Sequence[LayerResult]]], *, label: str = "Weights of the layer kept (%)"
) -> Figure:
    """Density of each layer (rows, input at the top), a line each; a cross where a layer kept nothing."""
    names = list(dict.fromkeys(layer.name for _, _, layers in levels for layer in layers))
    rows = {name: row for row, name in enumerate(names)}
    known = [layer.density for _, _, layers in levels for layer in layers if layer.density > 0] or [1.0]
    floor = min(known) / 1.6
    tight = len(names) > 24
    with style.styled():
        figure = style.new_figure(min(1.25 + len(names) * (0.15 if tight else 0.34), 9.0))
        axes = figure.add_subplot()
        for name, look, layers in levels:
            x = [layer.density or floor for layer in layers]
            y = [rows[layer.name] for layer in layers]
            size = 3.0 if tight else 5.0
            axes.plot(x, y, label=plain(name), marker=look.marker, markersize=size, **_line(look, linewidth=1))
            empty = [rows[layer.name] for layer in layers if not layer.density]
            axes.plot([floor] * len(empty), empty, "x", color=look.colour, markersize=7, markeredgewidth=2)
        density_axis(axes, [floor if min(known) < 1 else 0.5, 1.0], label)
        name_rows(axes, names, max_length=22, small=tight)
        axes.grid(axis="y", visible=not tight)
        legend_above(figure, axes)
    return figure


def trace_window(traces: Sequence[Trace], better: str | None) -> tuple[float, float] | None:
    """Limits without the steep start, where that takes a third of the axis or more; None where it does not.

    The start is cut off below for a metric that is better when ``better`` is "higher", above for "lower".
    """
    if better is None:
        return None
    lows = [v for t in traces for v in t.curve.low[len(t.curve.low) // 4 :]]
    highs = [v for t in traces for v in t.curve.high[len(t.curve.high) // 4 :]]
    bottom, top = min(v for t in traces for v in t.curve.low), max(v for t in traces for v in t.curve.high)
    low, high = (min(lows), top) if better == "higher" else (bottom, max(highs))
    room = 0.06 * (high - low)
    if high <= low or (high - low) + 2 * room > (top - bottom) * 2 / 3:
        return None
    return low - room, high + room


def trace_figure(
    traces: Sequence[Trace],
    *,
    ylabel: str,
    xlabel: str = "Training iterations",
    factor: float = 1.0,
    log: bool = False,
    window: tuple[float, float] | None = None,
) -> Figure:
    """A quantity against the iteration: mean line and a min-max band over the logs; a single value is a point.

    Args:
        traces: at least one.
        ylabel: what the vertical axis shows, with its unit.
        factor: multiplier of the values for display.
        log: logarithmic vertical axis; all values must be positive.
        window: limits of the vertical axis, before ``factor``; None fits all data.
    """
    marked = len({trace.look.marker for trace in traces}) > 1
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for number, trace in enumerate(traces):
            curve, look = trace.curve, trace.look
            y = [factor * v for v in curve.mean]
            ends = [(factor * a, factor * b) for a, b in zip(curve.low, curve.high, strict=True)]
            _band(axes, curve.steps, y, ends if curve.n > 1 else [], look)
            step = max(1, len(y) // 6)
            positions = slice(min(number * step // len(traces), len(y) - 1), None, step)
            marker = look.marker if marked or len(y) <= MAX_MARKED else "none"
            more = {"marker": marker, "markevery": positions, "markersize": 4.0 if len(y) > 1 else 5.5}
            axes.plot(curve.steps, y, label=plain(trace.label), **_line(look, **more))
        if log:
            log_axis(axes.yaxis, [factor * v for t in traces for v in (*t.curve.low, *t.curve.high)])
        else:
            round_ticks(axes.yaxis)
            if window is not None:
                axes.set_ylim(factor * window[0], factor * window[1])
        if factor == 100:
            not_above_100(axes, 100.0)
        iterations_axis(axes, max(t.curve.steps[-1] for t in traces), xlabel)
        axes.set_ylabel(ylabel)
        legend_above(figure, axes)
    return figure


def arms_figure(rows: Sequence[Row], *, xlabel: str, factor: float = 1.0) -> Figure:
    """Results of several arms: replicates as faint marks, mean and 95 % interval bold."""
    with style.styled():
        figure = style.new_figure(0.85 + (0.42 if len(rows) <= 12 else 0.3) * len(rows))
        axes = figure.add_subplot()
        for at, row in enumerate(rows):
            look = row.look
            values = [factor * v for v in row.values] if len(row.values) > 1 else []
            axes.plot(values, [at + 0.24] * len(values), look.marker, color=look.colour, alpha=0.45, markersize=3.2)
            if row.interval is not None:
                axes.plot([factor * e for e in row.interval], [at, at], color=look.colour, linewidth=2.4)
            if row.mean is not None:
                axes.plot([factor * row.mean], [at], look.marker, color=look.colour, markersize=7)
        name_rows(axes, [row.label for row in rows])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        round_ticks(axes.xaxis)
        axes.set_xlabel(xlabel)
    return figure


def differences_figure(
    comparisons: Mapping[str, ClaimResult],
    looks: Mapping[str, Look],
    *,
    margin: float | None,
    xlabel: str,
    factor: float = 1.0,
) -> Figure:
    """The ticket against each control with its 95 % interval; a tick at the one-sided lower bound that decides."""
    with style.styled():
        figure = style.new_figure(1.05 + 0.42 * len(comparisons))
        axes = figure.add_subplot()
        axes.axvline(0, color=style.MUTED, linewidth=1)
        for row, (name, item) in enumerate(comparisons.items()):
            look = looks[name]
            if item.interval is not None:
                axes.plot([factor * e for e in item.interval], [row, row], color=look.colour, linewidth=2.4)
            if item.lower_holm is not None:
                axes.plot([factor * item.lower_holm], [row], "|", color=look.colour, markersize=13, markeredgewidth=2)
            if item.difference is not None:
                axes.plot([factor * item.difference], [row], look.marker, color=look.colour, markersize=7)
            if name == "dense" and margin is not None:
                axes.plot([-factor * margin] * 2, [row - 0.42, row + 0.42], color=style.INK, linestyle=(0, (2, 1.5)))
        name_rows(axes, [f"against {style.arm_name(name).lower()}" for name in comparisons])
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.08)
        round_ticks(axes.xaxis)
        axes.set_xlabel(xlabel)
    return figure
