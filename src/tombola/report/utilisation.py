"""What a network uses of each layer: masked shares by layer, by layer size, and over training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.report import style
from tombola.report.aggregate import pick
from tombola.report.figures import count_label, legend_above
from tombola.report.levels import Layer, Level
from tombola.report.plot import Plot
from tombola.report.style import Look, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LAYERS = len(style.RUN_LOOKS)
Course = Mapping[str, Mapping[int, float]]
"""Layer -> iteration -> density."""


@dataclass(frozen=True)
class Used:
    """What one search used: counts of each layer at the end, and densities over training, means over replicates."""

    label: str
    look: Look
    layers: tuple[Layer, ...]
    course: Course


def used_weights(replicates: Sequence[Sequence[Level]]) -> tuple[tuple[Layer, ...], Course] | None:
    """Counts and courses of the last level of each replicate that tells them; None where none does."""
    told = [[level for level in levels if level.utilisation] for levels in replicates]
    last = [levels[-1] for levels in told if levels]
    kept: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    values: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for level in last:
        for layer in level.layers:
            kept[layer.name] += layer.kept
            total[layer.name] += layer.total
        for at in level.utilisation:
            for name, density in at.densities.items():
                values[name][at.step].append(density)
    if not total:
        return None
    layers = tuple(Layer(name, round(kept[name] / len(last)), round(total[name] / len(last))) for name in total)
    course = {
        name: {step: math.fsum(found) / len(found) for step, found in sorted(steps.items())}
        for name, steps in values.items()
    }
    return layers, course


def utilisation_plots(used: Sequence[Used]) -> list[Plot]:
    """The figures of what each of some searches used, at least one of each kind where there is anything to draw."""
    if not used:
        return []
    plots = [
        Plot(
            "masked-layers",
            "Masked share of each layer",
            "Share of each layer's weights that the mask leaves out at the end, input at the top.",
            bars_figure(used),
        ),
        Plot(
            "masked-size",
            "Masked share against layer size",
            "A mark per layer: how many weights it has, and the share of them that the mask leaves out.",
            size_figure(used),
        ),
    ]
    for index, one in enumerate(used):
        if any(len(steps) > 1 for steps in one.course.values()):
            shown = pick(range(len(one.course)), MOST_LAYERS)
            some = f" {len(shown)} of {len(one.course)} layers." if len(shown) < len(one.course) else ""
            plots.append(
                Plot(
                    f"masked-training{f'-{index + 1}' if index else ''}",
                    f"Masked share over training{f', {one.label}' if len(used) > 1 else ''}",
                    f"Share of each layer's weights that the mask leaves out, from one evaluation to the next.{some}",
                    course_figure(one.course),
                )
            )
    return plots


def bars_figure(used: Sequence[Used]) -> Figure:
    """Masked share of each layer (rows, input at the top): a bar per search."""
    names = list(dict.fromkeys(layer.name for one in used for layer in one.layers))
    rows = {name: row for row, name in enumerate(names)}
    thick = 0.8 / len(used)
    tight = len(names) > 24
    with style.styled():
        figure = style.new_figure(min(1.0 + len(names) * (0.15 if tight else 0.2 + 0.12 * len(used)), 9.0))
        axes = figure.add_subplot()
        for index, one in enumerate(used):
            at = [rows[layer.name] - 0.4 + thick * (index + 0.5) for layer in one.layers]
            axes.barh(at, _masked(one.layers), height=0.92 * thick, color=one.look.colour, label=plain(one.label))
        every = math.ceil(len(names) / 60)
        axes.set_yticks(
            range(0, len(names), every),
            [plain(name, 22) for name in names[::every]],
            fontsize=6.5 if tight else 8.5,
        )
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, _top(share for one in used for share in _masked(one.layers)))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("Weights of the layer masked (%)")
        legend_above(figure, axes)
    return figure


def size_figure(used: Sequence[Used]) -> Figure:
    """Masked share against the number of weights of a layer, on a log axis."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for one in used:
            sizes = [layer.total for layer in one.layers]
            axes.plot(sizes, _masked(one.layers), one.look.marker, color=one.look.colour, label=plain(one.label))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(count_label))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.08)
        top = _top(share for one in used for share in _masked(one.layers))
        axes.set_ylim(-0.04 * top, 1.04 * top)
        axes.set_xlabel("Weights of the layer")
        axes.set_ylabel("Masked (%)")
        legend_above(figure, axes)
    return figure


def course_figure(course: Course) -> Figure:
    """Masked share of some layers over iterations: the first, the last, and evenly between."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    names = list(course)
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for number, index in enumerate(pick(range(len(names)), MOST_LAYERS)):
            look, steps = style.series_look(number), course[names[index]]
            masked = [100 * (1 - density) for density in steps.values()]
            axes.plot(list(steps), masked, color=look.colour, linestyle=look.dash, label=plain(names[index], 22))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(count_label))
        axes.set_ylim(0, _top(100 * (1 - density) for steps in course.values() for density in steps.values()))
        axes.set_xlabel("Training iterations")
        axes.set_ylabel("Masked (%)")
        legend_above(figure, axes)
    return figure


def _top(shares: Iterable[float]) -> float:
    """Where an axis of percentages ends: at 100, or at 10 or 25 where all are small, as dense supermasks' are."""
    most = max(shares, default=100.0)
    return next(top for top in (10.0, 25.0, 100.0) if most <= 0.95 * top or top == 100.0)


def _masked(layers: Sequence[Layer]) -> list[float]:
    return [100 * (1 - layer.density) for layer in layers]
