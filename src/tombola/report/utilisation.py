"""How much of each layer a network uses: masked shares by layer, by layer size, and over training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.formats import percent
from tombola.report import style
from tombola.report.aggregate import pick
from tombola.report.axes import (
    EQUAL_DENSITIES,
    alike,
    iterations_axis,
    legend_above,
    log_axis,
    name_rows,
    round_ticks,
)
from tombola.report.looks import Look, shades
from tombola.report.plot import Plot, Remark, Shown, sentences
from tombola.report.style import plain
from tombola.results.trial import LayerResult, LevelResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LAYERS = 6
Course = Mapping[str, Mapping[int, float]]
"""Layer -> iteration -> density."""


@dataclass(frozen=True)
class Used:
    """Layer use of one search, means over replicates: counts at the end, densities over training."""

    label: str
    look: Look
    layers: tuple[LayerResult, ...]
    course: Course


def used_weights(replicates: Sequence[Sequence[LevelResult]]) -> tuple[tuple[LayerResult, ...], Course] | None:
    """Layer counts and courses of the last level that recorded them, over replicates; None if no replicate did."""
    logged = [[level for level in levels if level.utilisation] for levels in replicates]
    last = [levels[-1] for levels in logged if levels]
    kept: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for level in last:
        for layer in level.layers:
            kept[layer.name] += layer.kept
            total[layer.name] += layer.total
        for at in level.utilisation or ():
            for name, density in at.densities.items():
                values[name][at.step].append(density)
    if not total:
        return None
    layers = tuple(
        LayerResult(name=name, kept=round(kept[name] / len(last)), total=round(total[name] / len(last)))
        for name in total
    )
    course = {
        name: {step: math.fsum(densities) / len(densities) for step, densities in sorted(steps.items())}
        for name, steps in values.items()
    }
    return layers, course


def utilisation_plots(used: Sequence[Used], *, ends: bool = True) -> list[Shown]:
    """Layer use of several searches: by layer (``ends``), by layer size, and over training.

    If all layers are used equally, a remark replaces the first two; masks that do not change have no course.
    """
    if not used:
        return []
    drawn = [one for one in used if not all(alike(steps.values(), EQUAL_DENSITIES) for steps in one.course.values())]
    return [*_at_the_end(used, ends), *(_course(one, index, len(used) > 1) for index, one in enumerate(drawn))]


def _at_the_end(used: Sequence[Used], ends: bool) -> list[Shown]:
    if all(len(one.layers) < 2 for one in used):
        return []
    if all(alike((layer.density for layer in one.layers), EQUAL_DENSITIES) for one in used):
        shares = "; ".join(f"{one.label}: {percent(1 - one.layers[0].density)}" for one in used)
        return [Remark(f"Masked share of each layer: the same in all layers ({shares}).")] if ends else []
    masked = "the share of its weights that the mask leaves out at the end"
    plots: list[Shown] = []
    if ends:
        drawn = bars_figure(used)
        caption = f"A mark per layer, input at the top: {masked}."
        plots.append(Plot("masked-layers", "Masked share of each layer", caption, drawn))
    if len({layer.total for one in used for layer in one.layers}) > 1:
        caption = f"A mark per layer: how many weights it has, and {masked}."
        plots.append(Plot("masked-size", "Masked share against layer size", caption, size_figure(used)))
    return plots


def _course(one: Used, index: int, named: bool) -> Plot:
    shown = pick(range(len(one.course)), MAX_LAYERS)
    some = f"{len(shown)} of {len(one.course)} layers." if len(shown) < len(one.course) else ""
    lead = "Share of each layer's weights that the mask leaves out, from one evaluation to the next."
    title = f"Masked share over training{f', {one.label}' if named else ''}"
    name = f"masked-training{f'-{index + 1}' if index else ''}"
    return Plot(name, title, sentences(lead, some), course_figure(one.course, one.look))


def bars_figure(used: Sequence[Used]) -> Figure:
    """Masked share of each layer (rows, input at the top): a mark per search."""
    names = list(dict.fromkeys(layer.name for one in used for layer in one.layers))
    rows = {name: row for row, name in enumerate(names)}
    tight = len(names) > 24
    with style.styled():
        figure = style.new_figure(min(1.25 + len(names) * (0.15 if tight else 0.34), 9.0))
        axes = figure.add_subplot()
        for one in used:
            at = [rows[layer.name] for layer in one.layers]
            look = {"color": one.look.colour, "linestyle": one.look.dash, "marker": one.look.marker}
            size = 3.0 if tight else 5.0
            axes.plot(_masked(one.layers), at, label=plain(one.label), linewidth=1, markersize=size, **look)
        name_rows(axes, names, max_length=22, small=tight)
        axes.grid(axis="y", visible=not tight)
        axes.set_xlim(*_limits(share for one in used for share in _masked(one.layers)))
        round_ticks(axes.xaxis)
        axes.set_xlabel("Weights of the layer masked (%)")
        legend_above(figure, axes)
    return figure


def size_figure(used: Sequence[Used]) -> Figure:
    """Masked share against the number of weights of a layer, on a log axis."""
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for one in used:
            sizes = [layer.total for layer in one.layers]
            axes.plot(sizes, _masked(one.layers), one.look.marker, color=one.look.colour, label=plain(one.label))
        log_axis(axes.xaxis, (layer.total for one in used for layer in one.layers))
        axes.margins(x=0.08)
        axes.set_ylim(*_limits(share for one in used for share in _masked(one.layers)))
        round_ticks(axes.yaxis)
        axes.set_xlabel("Weights of the layer")
        axes.set_ylabel("Masked (%)")
        legend_above(figure, axes)
    return figure


def course_figure(course: Course, look: Look) -> Figure:
    """Masked share of some layers over iterations: the first, the last, and evenly between, in shades of the look."""
    names = [list(course)[index] for index in pick(range(len(course)), MAX_LAYERS)]
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for name, shade in zip(names, shades(look, len(names)), strict=True):
            masked = [100 * (1 - density) for density in course[name].values()]
            lone = look.marker if len(masked) == 1 else "none"
            axes.plot(
                list(course[name]),
                masked,
                color=shade.colour,
                linestyle=shade.dash,
                marker=lone,
                label=plain(name, 22),
            )
        iterations_axis(axes, max(step for name in names for step in course[name]))
        axes.set_ylim(*_limits(100 * (1 - density) for name in names for density in course[name].values()))
        round_ticks(axes.yaxis)
        axes.set_ylabel("Masked (%)")
        legend_above(figure, axes)
    return figure


def _limits(shares: Iterable[float]) -> tuple[float, float]:
    """Limits of a percent axis: from just below 0 to 100, or to 10 or 25 if all shares are small (dense supermasks)."""
    highest = max(shares, default=100.0)
    top = next(top for top in (10.0, 25.0, 100.0) if highest <= 0.95 * top or top == 100.0)
    return -0.03 * top, 1.03 * top


def _masked(layers: Sequence[LayerResult]) -> list[float]:
    return [100 * (1 - layer.density) for layer in layers]
