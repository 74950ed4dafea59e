"""The page of a study of masks at initialisation: how well each statistic tells what a mask will reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tombola.formats import MISSING, Fixed, Unit, plural, significant
from tombola.report import style, words
from tombola.report.axes import alike, legend_above, log_axis, round_ticks
from tombola.report.looks import CONTROLS, Look, series_look
from tombola.report.numbers import Number
from tombola.report.overlap_plots import paired_figure
from tombola.report.plot import Plot, Remark, Shown, sentences
from tombola.report.tables import Cell, Row, Table
from tombola.results.landscape import DENSITY, LandscapeResult, MaskPoint, Rank
from tombola.results.landscape import STATISTIC_NAMES as NAMES
from tombola.results.record import Figure as Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK = Fixed("rank correlation", 2)
_DECADE = 10.0
"""Statistics that span more are drawn over a log axis."""


def landscape_plots(study: LandscapeResult) -> list[Shown]:
    """All correlations, then every statistic against the accuracy."""
    return [*_correlations(study), *(shown for one in study.correlations for shown in _scatter(study, one.statistic))]


def landscape_numbers(study: LandscapeResult) -> tuple[Number, ...]:
    """How many masks, and the statistic that tells most at equal density."""
    rated = [one for one in study.correlations if one.within_density.value is not None]
    best = max(rated, key=lambda one: abs(one.within_density.value or 0.0), default=None)
    numbers = [Number("Masks", str(len(study.masks)), f"of {plural(len(_levels(study)), 'level')}")]
    if best is not None:
        rank = best.within_density
        numbers.append(Number(NAMES[best.statistic], _value(rank), f"{_ends(rank)}, at equal density"))
    return (*numbers, Number("Replicates", str(study.replicates), "of everything"))


def landscape_tables(study: LandscapeResult) -> list[Table]:
    """Correlations by statistic; statistics by mask."""
    return [_ranks(study), _masks(study)]


def _levels(study: LandscapeResult) -> list[int]:
    return sorted({mask.level for mask in study.masks})


# -- tables


def _value(rank: Rank) -> str:
    return MISSING if rank.value is None else RANK.differences.bare(rank.value)


def _ends(rank: Rank) -> str:
    return "" if rank.interval is None else RANK.differences.ends(*rank.interval)


def _ranks(study: LandscapeResult) -> Table:
    rows: list[Row] = [
        (
            NAMES[one.statistic],
            *(Cell(_value(rank), _ends(rank)) for rank in (one.within_density, one.against_shuffled, one.overall)),
        )
        for one in study.correlations
    ]
    note = (
        f"Spearman's rank correlation with the final test {study.metric} of {len(study.masks)} masks. Within density: "
        "among masks of one density, then the mean. Against shuffled: of the difference from the layer-shuffled "
        f"control with the same difference of the {study.metric}. Below: 95 % bootstrap intervals over masks, each "
        f"on its own. Statistics are of {study.examples:,} training examples, before any training."
    )
    head = ("Statistic", "Within density", "Against shuffled", "Overall")
    return Table("What a statistic tells of the final result", head, tuple(rows), note)


def _masks(study: LandscapeResult) -> Table:
    unit = Unit(study.metric)
    names = [one.statistic for one in study.correlations if one.statistic != DENSITY]

    def number(value: Values) -> str:
        return MISSING if value.mean is None else significant(value.mean, 3)

    rows: list[Row] = [
        (
            Cell(mask.name, look=_look(study, mask)),
            words.density(mask.density),
            MISSING if mask.accuracy.mean is None else unit.interval(mask.accuracy.mean, mask.accuracy.interval),
            *(number(mask.statistics[name]) for name in names),
        )
        for mask in study.masks
    ]
    head: Row = ("Mask", "Density", f"Test {study.metric}", *(NAMES[name] for name in names))
    note = f"Statistics before training{', means over replicates' if study.replicates > 1 else ''}."
    return Table("Every mask", head, tuple(rows), note, folded=True)


# -- figures


def _look(study: LandscapeResult, mask: MaskPoint) -> Look:
    sources = [source for source in dict.fromkeys(one.source for one in study.masks) if source != "random"]
    return CONTROLS["random"] if mask.source == "random" else series_look(sources.index(mask.source))


def _correlations(study: LandscapeResult) -> list[Shown]:
    shown = [one for one in study.correlations if one.statistic != DENSITY]  # which is the same within

    def numbers(kind: str) -> list[Values]:
        ranks = [getattr(one, kind) for one in shown]
        return [Values(mean=rank.value, interval=rank.interval, values=()) for rank in ranks]

    series = (
        ("within density", True, numbers("within_density")),
        ("against shuffled", False, numbers("against_shuffled")),
    )
    if not any(value.mean is not None for _, _, line in series for value in line):
        return [Remark("There are too few masks for a rank correlation.")]
    ink = Look(style.INK)
    names = [NAMES[one.statistic] for one in shown]
    figure = paired_figure(names, [ink] * len(names), series, xlabel="Rank correlation with the final result")
    figure.axes[0].axvline(0, color=style.MUTED, linewidth=1)
    caption = (
        f"Spearman's rank correlation of every statistic before training with the final test {study.metric}: among "
        "masks of one density (filled), and of differences from the layer-shuffled control (hollow). Bars: 95 % "
        "bootstrap intervals over masks."
    )
    return [Plot("landscape-correlations", "What a statistic tells", caption, figure)]


def _scatter(study: LandscapeResult, name: str) -> list[Shown]:
    if name == DENSITY:
        return []
    points = [
        (mask, x, y)
        for mask in study.masks
        for x, y in zip(mask.statistics[name].values, mask.accuracy.values, strict=True)
        if x is not None and y is not None
    ]
    if alike(x for _, x, _ in points):
        return [Remark(f"{NAMES[name]} is the same for all masks, or there is none.")]
    rank = next(one.within_density for one in study.correlations if one.statistic == name)
    told = f"Rank correlation within density: {_value(rank)}{f' ({_ends(rank)})' if rank.interval else ''}."
    caption = sentences(
        f"{NAMES[name]} before training against the final test {study.metric}, a mark for every mask"
        f"{' and replicate' if study.replicates > 1 else ''}; hollow: layer-shuffled; larger: denser.",
        told,
    )
    return [Plot(f"landscape-{name.replace('_', '-')}", NAMES[name], caption, _drawn(study, name, points))]


def _drawn(study: LandscapeResult, name: str, points: Sequence[tuple[MaskPoint, float, float]]) -> Figure:
    unit, levels = Unit(study.metric), _levels(study)
    low, high = min(x for _, x, _ in points), max(x for _, x, _ in points)
    with style.styled():
        figure = style.new_figure(3.1)
        axes = figure.add_subplot()
        labelled: set[str] = set()
        for mask, x, y in points:
            look = _look(study, mask)
            new = mask.source not in labelled and not mask.shuffled
            labelled |= {mask.source} if new else set()
            axes.plot(
                [x],
                [unit.factor * y],
                look.marker,
                color=look.colour,
                markerfacecolor=style.PAPER if mask.shuffled else look.colour,
                markersize=7.0 - 3.5 * levels.index(mask.level) / max(1, len(levels) - 1),
                alpha=0.85,
                label=mask.source if new else None,
            )
        if low > 0 and high > _DECADE * low:
            log_axis(axes.xaxis, [x for _, x, _ in points])
        else:
            round_ticks(axes.xaxis, max_ticks=5)
        axes.set_xlabel(f"{NAMES[name]} before training")
        axes.set_ylabel(unit.axis("Test"))
        round_ticks(axes.yaxis)
        legend_above(figure, axes)
    return figure
