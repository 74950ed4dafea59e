"""The figures of a study of what two masks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tombola.report import figures, style
from tombola.report.aggregate import pick
from tombola.report.figures import legend_above
from tombola.report.overlap import Figure as Number
from tombola.report.overlap import MaskOverlap
from tombola.report.plot import Plot
from tombola.report.style import Look, plain
from tombola.report.words import Unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LAYERS = 30


def overlap_plots(study: MaskOverlap) -> list[Plot]:
    """Overlap against chance and densities by layer, and how the masks do untrained and trained."""
    return [*_accuracy(study), *_ratios(study), *_densities(study)]


def _accuracy(study: MaskOverlap) -> list[Plot]:
    masks = study.accuracy
    if not masks:
        return []
    unit = Unit(study.metric)
    series = (
        ("untrained", style.RUN_LOOKS[1], [tried.untrained for tried in masks]),
        ("weights trained under it", style.RUN_LOOKS[0], [tried.trained for tried in masks]),
    )
    figure = paired_figure([tried.mask for tried in masks], series, xlabel=unit.axis("Test"), factor=unit.factor)
    if unit.percent:
        figure.axes[0].set_xlim(-2, 102)
    return [
        Plot(
            "overlap-accuracy",
            "The masks untrained and trained",
            f"Test {study.metric} of every mask on the same first weights: as they are, and trained under the mask."
            f"{_marks(study)}",
            figure,
        )
    ]


def _marks(study: MaskOverlap) -> str:
    """What bars and small marks are, where there are any."""
    bars = " Bars: 95 % t-intervals." if study.whole.shared["ratio"].interval else ""
    return f"{bars} Small marks: single replicates." if study.replicates > 1 else bars


def _ratios(study: MaskOverlap) -> list[Plot]:
    told = [layer for layer in study.layers if layer.shared["ratio"].mean is not None]
    if not told:
        return []
    shown = [told[index] for index in pick(range(len(told)), MOST_LAYERS)]
    rows = [*shown, study.whole]
    kinds = (
        ("same densities", style.RUN_LOOKS[0], "ratio"),
        ("same densities and sizes", style.RUN_LOOKS[1], "ratio_same_sizes"),
    )
    series = [(label, look, [row.shared[part] for row in rows]) for label, look, part in kinds]
    series = [line for line in series if any(number.mean is not None for number in line[2])]
    figure = paired_figure([row.name for row in rows], series, xlabel="Shared weights / expected by chance")
    figure.axes[0].axvline(1, color=style.MUTED, linewidth=1)
    some = f" {len(shown)} of {len(told)} layers." if len(shown) < len(told) else ""
    return [
        Plot(
            "overlap-ratio",
            "Overlap against chance",
            "Weights that both masks keep, over those that random masks would share (the line at 1): random masks of "
            "the same layer densities, and such that also keep as many weights of each initial size."
            f"{_marks(study)}{some}",
            figure,
        )
    ]


def _densities(study: MaskOverlap) -> list[Plot]:
    columns = [
        (name, look, [layer.layer(side) for layer in study.layers])
        for side, (name, look) in enumerate(zip(study.names, style.RUN_LOOKS, strict=False))
    ]
    return [
        Plot(
            "overlap-density",
            "Where each mask keeps its weights",
            "Share of each layer's weights that is kept, input at the top; means over replicates.",
            figures.layer_figure(columns),
        )
    ]


def paired_figure(
    labels: Sequence[str],
    series: Sequence[tuple[str, Look, Sequence[Number]]],
    *,
    xlabel: str,
    factor: float = 1.0,
) -> Figure:
    """Rows with a mark per series: mean, 95 % interval, and single replicates as faint dots."""
    with style.styled():
        figure = style.new_figure(min(1.15 + (0.5 if len(labels) <= 12 else 0.3) * len(labels), 11.0))
        axes = figure.add_subplot()
        for index, (label, look, numbers) in enumerate(series):
            offset = 0.28 * (index - (len(series) - 1) / 2)
            known = [(row + offset, number) for row, number in enumerate(numbers) if number.mean is not None]
            means = [factor * (number.mean or 0.0) for _, number in known]
            axes.plot(means, [at for at, _ in known], look.marker, color=look.colour, markersize=6.5, label=label)
            for at, number in known:
                values = [factor * value for value in number.values]
                axes.plot(values, [at] * len(values), look.marker, color=look.colour, alpha=0.45, markersize=3.2)
                if number.interval is not None:
                    axes.plot([factor * end for end in number.interval], [at, at], color=look.colour, linewidth=2.4)
        axes.set_yticks(range(len(labels)), [plain(label, 24) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)
        legend_above(figure, axes)
    return figure
