"""The figures of a study of the overlap of two masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tombola.formats import Unit, density
from tombola.report import figures, style
from tombola.report.aggregate import pick
from tombola.report.axes import EQUAL_DENSITIES, alike, legend_above, name_rows, round_ticks
from tombola.report.inputs import overlap_inputs
from tombola.report.looks import Look, Looks
from tombola.report.plot import Plot, Remark, Shown, direction_caption, sentences
from tombola.results.overlap import OverlapResult
from tombola.results.record import Figure as Number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LAYERS = 30


def overlap_plots(study: OverlapResult, looks: Looks) -> list[Shown]:
    """Accuracy of the masks untrained and trained, overlap against chance, input coverage, densities by layer."""
    return [*_accuracy(study, looks), *_ratios(study), *overlap_inputs(study), *_densities(study, looks)]


def _accuracy(study: OverlapResult, looks: Looks) -> list[Shown]:
    masks = study.accuracy
    numbers = [number for mask_result in masks for number in (mask_result.untrained, mask_result.trained)]
    if alike(value for number in numbers for value in number.known):
        return []
    unit = Unit(study.metric)
    series = (
        ("untrained", False, [mask_result.untrained for mask_result in masks]),
        ("weights trained under it", True, [mask_result.trained for mask_result in masks]),
    )
    figure = paired_figure(
        [mask_result.mask for mask_result in masks],
        [looks.arm(mask_result.mask) for mask_result in masks],
        series,
        xlabel=unit.axis("Test"),
        factor=unit.factor,
    )
    if unit.percent:
        figure.axes[0].set_xlim(-2, 102)
    return [
        Plot(
            "overlap-accuracy",
            "The masks untrained and trained",
            sentences(
                f"Test {study.metric} of every mask on the same first weights: as they are (hollow), and trained under "
                "the mask (filled).",
                direction_caption(study.better, study.metric),
                mark_caption(numbers),
            ),
            figure,
        )
    ]


def mark_caption(numbers: Sequence[Number]) -> str:
    """Legend of bars and small marks, if there are any."""
    bars = "Bars: 95 % t-intervals." if any(number.interval for number in numbers) else ""
    several = any(len(number.known) > 1 for number in numbers)
    return sentences(bars, "Small marks: single replicates." if several else "Each mark is of one replicate.")


def _ratios(study: OverlapResult) -> list[Shown]:
    defined = [layer for layer in study.layers if layer.ratio.mean is not None]
    if not defined:
        return []
    shown = [defined[index] for index in pick(range(len(defined)), MAX_LAYERS)]
    rows = [*shown, study.whole]
    kinds = (
        ("same densities", True, [row.ratio for row in rows]),
        ("same densities and sizes", False, [row.ratio_same_sizes for row in rows]),
    )
    series = [line for line in kinds if any(number.mean is not None for number in line[2])]
    numbers = [number for _, _, line in series for number in line]
    ink = Look(style.INK)
    names = [row.name for row in rows]
    figure = paired_figure(names, [ink] * len(rows), series, xlabel="Shared weights / expected by chance")
    figure.axes[0].axvline(1, color=style.MUTED, linewidth=1)
    sizes = " (filled), and such that also keep as many weights of each initial size (hollow)" if series[1:] else ""
    return [
        Plot(
            "overlap-ratio",
            "Overlap against chance",
            sentences(
                "Weights that both masks keep, over those that random masks would share (the line at 1): random masks "
                f"of the same layer densities{sizes}.",
                mark_caption(numbers),
                f"{len(shown)} of {len(defined)} layers." if len(shown) < len(defined) else "",
            ),
            figure,
        )
    ]


def _densities(study: OverlapResult, looks: Looks) -> list[Shown]:
    columns = [
        (name, looks.arm(name), [layer.kept_by(side) for layer in study.layers])
        for side, name in enumerate(study.names)
    ]
    if len(study.layers) < 2:
        return []
    if all(alike((layer.density for layer in layers), EQUAL_DENSITIES) for _, _, layers in columns):
        shares = "; ".join(f"{name}: {density(layers[0].density)}" for name, _, layers in columns)
        return [Remark(f"Where each mask keeps its weights: the same share of every layer ({shares}).")]
    means = "; means over replicates" if study.replicates > 1 else ""
    return [
        Plot(
            "overlap-density",
            "Where each mask keeps its weights",
            f"Share of each layer's weights that is kept, input at the top{means}.",
            figures.layer_figure(columns),
        )
    ]


def paired_figure(
    labels: Sequence[str],
    looks: Sequence[Look],
    series: Sequence[tuple[str, bool, Sequence[Number]]],
    *,
    xlabel: str,
    factor: float = 1.0,
) -> Figure:
    """Rows with a mark per series, filled or hollow: mean, 95 % interval, and single replicates as faint marks."""
    with style.styled():
        figure = style.new_figure(min(1.15 + (0.5 if len(labels) <= 12 else 0.3) * len(labels), 11.0))
        axes = figure.add_subplot()
        for index, (label, filled, numbers) in enumerate(series):
            offset = 0.28 * (index - (len(series) - 1) / 2)
            face = style.INK if filled else style.PAPER
            axes.plot([], [], "o", color=style.INK, markerfacecolor=face, markersize=6.5, label=label)
            for row, (number, look) in enumerate(zip(numbers, looks, strict=True)):
                if number.mean is None:
                    continue
                at = row + offset
                if number.interval is not None:
                    axes.plot([factor * end for end in number.interval], [at, at], color=look.colour, linewidth=2.2)
                values = [factor * value for value in number.known] if len(number.known) > 1 else []
                axes.plot(values, [at] * len(values), look.marker, color=look.colour, alpha=0.45, markersize=3.2)
                face = look.colour if filled else style.PAPER
                mean = [factor * number.mean]
                axes.plot(mean, [at], look.marker, color=look.colour, markerfacecolor=face, markersize=6.5)
        name_rows(axes, labels, max_length=24, edge=0.5)
        round_ticks(axes.xaxis)
        axes.set_xlabel(xlabel)
        legend_above(figure, axes)
    return figure
