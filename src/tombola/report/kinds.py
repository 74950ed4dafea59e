"""Kinds of figure that several pages share: against density, against cost, over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tombola.formats import Unit
from tombola.report import cost, figures
from tombola.report.axes import alike
from tombola.report.figures import Series, Trace
from tombola.report.plot import (
    Plot,
    Remark,
    Shown,
    band_caption,
    close_up,
    close_up_caption,
    cut_caption,
    direction_caption,
    sentences,
    trace_caption,
)


def worth_drawing(series: Sequence[Series]) -> bool:
    """Whether there are values at several densities; a single one is in the tables."""
    return len({p.density for line in series for p in line.shown}) > 1


def flat(series: Sequence[Series]) -> bool:
    """Whether all values are the same, so that a figure would show a flat line."""
    return alike(value for line in series for p in line.shown for value in (p.spread.low, p.spread.high))


def against_density(
    series: Sequence[Series],
    *,
    slug: str,
    title: str,
    lead: str,
    unit: Unit,
    better: str | None,
    dense: float | None,
    dense_name: str = "Dense",
) -> list[Shown]:
    """A metric against density, and a close-up where the whole range hides detail; a remark if all are equal."""
    if not worth_drawing(series):
        return []
    if flat(series) and dense in (None, series[0].points[0].spread.mean):
        return [Remark(f"{title}: {unit.show(series[0].points[0].spread.mean)} at every density.")]
    label, bands = unit.axis("Test"), band_caption(series)
    across: dict[str, Any] = {"dense": dense, "dense_name": dense_name}
    dotted = "Dotted: the dense network." if dense is not None else ""
    caption = sentences(
        f"{lead}, from dense (left) to sparse (right).", direction_caption(better, unit.metric), bands, dotted
    )
    drawings: list[Shown] = [
        Plot(slug, title, caption, figures.density_figure(series, ylabel=label, factor=unit.factor, **across))
    ]
    window = close_up(series, dense) if unit.percent else None
    if window is not None:
        drawn = figures.density_figure(series, ylabel=label, factor=unit.factor, window=window, **across)
        caption = sentences(close_up_caption(window, series, unit), bands, dotted)
        drawings.append(Plot(f"{slug}-close", f"{title}, close up", caption, drawn))
    return drawings


def against_cost(
    series: Sequence[cost.PricedSeries],
    *,
    name: str,
    title: str,
    lead: str,
    unit: Unit,
    better: str | None,
    by: cost.Measure,
) -> list[Shown]:
    """A metric against what it cost; nothing if all costs, or all values, are equal."""
    if alike(p.cost for line in series for p in line.points) or alike(
        end for line in series for p in line.points for end in (p.result.low, p.result.high)
    ):
        return []
    kind = cost.bars(series)
    barred = {
        "none": "",
        "interval": "Bars: 95 % t-interval of the mean.",
        "range": "Bars: lowest to highest replicate.",
    }
    caption = sentences(lead, direction_caption(better, unit.metric), barred[kind])
    drawn = cost.cost_figure(series, ylabel=unit.axis("Test"), factor=unit.factor, by=by)
    return [Plot(name, title, caption, drawn)]


def trace_plots(
    traces: Sequence[Trace],
    *,
    loss: bool,
    unit: Unit,
    better: str | None,
    name: str,
    title: str,
    lead: str,
    note: str = "",
    ylabel: str = "",
    tried: bool = False,
) -> list[Shown]:
    """Curves of training, or of a search that tried masks, without the steep start where that hides the rest.

    A remark if nothing changes.
    """
    if not traces:
        return []
    values = [v for trace in traces for v in (*trace.curve.low, *trace.curve.high)]
    printed = Unit("loss") if loss else unit
    lone = sum(len(trace.curve.steps) for trace in traces) == 1
    if lone or alike(values):
        first = f"{traces[0].curve.steps[0]:,}"
        when = f"after {first} masks" if tried else f"at iteration {first}"
        at = f"{when}, the only evaluation" if lone else "at every evaluation"
        return [Remark(f"{title}: {printed.show(traces[0].curve.mean[0])} {at}.")]
    log = loss and min(values) > 0 and max(values) > 3 * min(values)
    window = None if loss else figures.trace_window(traces, better)
    drawn = figures.trace_figure(
        traces,
        xlabel="Masks tried" if tried else "Training iterations",
        ylabel=ylabel or ("Validation loss" if loss else unit.axis("Validation")),
        factor=printed.factor,
        log=log,
        window=window,
    )
    points = "One evaluation each: a mark." if all(len(trace.curve.steps) == 1 for trace in traces) else ""
    scale = "Logarithmic axis." if log else ""
    cut = cut_caption(window, traces, printed)
    direction = "" if loss else direction_caption(better, unit.metric)
    return [Plot(name, title, sentences(lead, note, direction, scale, cut, points, trace_caption(traces)), drawn)]


def metric_or_loss(column: str, unit: Unit) -> str:
    """Quantity in a column of the training log."""
    return "loss" if column == "val_loss" else unit.metric
