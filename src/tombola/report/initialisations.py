"""The page of a study of initialisations: accuracies by scheme, overlaps by kind of pair, masks on other weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tombola.formats import MISSING, Fixed, Unit, plural
from tombola.report import style, words
from tombola.report.axes import legend_above, name_rows, round_ticks
from tombola.report.looks import CONTROLS, Look, series_look
from tombola.report.numbers import Number
from tombola.report.plot import Plot, Remark, Shown, sentences, slug
from tombola.report.tables import Cell, Row, Table
from tombola.results.initialisations import KINDS, Agreement, InitialisationsResult, MaskPairs, Transfer
from tombola.results.record import Figure as Values
from tombola.results.statistics import FEWEST_REPLICATES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATIO, _SHARE, _CORRELATION = Fixed("ratio", 2), Fixed("share", 3), Fixed("correlation", 2)
_Series = tuple[str, Look, Sequence[Values | None]]


def init_plots(study: InitialisationsResult) -> list[Shown]:
    """Accuracy by scheme, overlap by kind of pair, and masks on the weights of other schemes."""
    return [_accuracy(study), *_overlaps(study), *_transfers(study)]


def init_numbers(study: InitialisationsResult) -> tuple[Number, ...]:
    """The best and the worst scheme of each search."""
    unit, numbers = Unit(study.metric), [Number("Schemes", str(len(study.inits)), "")]
    for mask in study.masks:
        rated = [one for one in study.accuracy if one.mask == mask and one.accuracy.mean is not None]
        rated.sort(key=lambda one: one.accuracy.mean or 0.0, reverse=study.higher_is_better)
        if rated:
            best, last = rated[0], rated[-1]
            text = f"{best.init}; {unit.show(last.accuracy.mean)} under {last.init}" if last != best else best.init
            numbers.append(Number(_capital(mask), unit.show(best.accuracy.mean), text))
    return (*numbers, Number("Replicates", str(study.replicates), "of everything"))


def init_tables(study: InitialisationsResult) -> list[Table]:
    """Accuracies, overlaps as a whole, masks on other weights; overlaps layer by layer."""
    return [_searched(study), _shared(study), *_transferred(study), _by_layer(study)]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _look(study: InitialisationsResult, mask: str) -> Look:
    return CONTROLS["dense"] if mask == "dense" else series_look(study.masks.index(mask))


# -- tables


def _cell(value: Values | None, unit: Unit) -> str:
    return MISSING if value is None or value.mean is None else unit.interval(value.mean, value.interval)


def _change(value: Values | None, unit: Unit) -> str | Cell:
    if value is None or value.mean is None:
        return MISSING
    return Cell(unit.difference(value.mean), unit.differences.ends(*value.interval) if value.interval else "")


def _means(study: InitialisationsResult) -> str:
    if study.replicates < 2:
        return "Each value is of one replicate."
    over = f"Means over {plural(study.replicates, 'replicate')}"
    return f"{over} ± half of the 95 % interval." if study.replicates >= FEWEST_REPLICATES else f"{over}."


def _searched(study: InitialisationsResult) -> Table:
    unit = Unit(study.metric)
    rows: list[Row] = [
        (
            one.init,
            Cell(one.mask, look=_look(study, one.mask)),
            words.density(one.density),
            _cell(one.accuracy, unit),
            _change(one.against_first, unit),
        )
        for one in study.accuracy
    ]
    note = (
        f"Test {study.metric} at the end of each search; the supermask's weights are untrained. Against "
        f"{study.inits[0]}: paired by replicate, with 95 % intervals, each on its own. {_means(study)}"
    )
    head: Row = ("Initialisation", "Network", "Density", f"Test {study.metric}", f"Against {study.inits[0]}")
    return Table("What the searches end with", head, tuple(rows), note, words=2)


def _between(pairs: MaskPairs) -> tuple[str, str]:
    """Which masks, and under which schemes, in words."""
    return " and ".join(dict.fromkeys(pairs.masks)), " and ".join(dict.fromkeys(pairs.inits))


def _alike(found: Agreement) -> tuple[str, ...]:
    ratios = (_cell(ratio, _RATIO) for ratio in (found.ratio, found.ratio_same_inputs, found.ratio_same_sizes))
    return *ratios, _cell(found.jaccard, _SHARE), _cell(found.jaccard_by_chance.replace(interval=None), _SHARE)


_HEAD: Row = (
    "Ratio",
    Cell("Ratio", "same inputs"),
    Cell("Ratio", "same sizes"),
    "Jaccard",
    Cell("Jaccard", "by chance"),
)


def _shared(study: InitialisationsResult) -> Table:
    rows: list[Row] = []
    for pairs in study.overlaps:
        weights = pairs.weights.mean if pairs.weights is not None else None
        correlation = MISSING if weights is None else _CORRELATION.bare(weights)
        rows.append((KINDS[pairs.kind], *_between(pairs), *_alike(pairs.whole), correlation))
    note = (
        "Pairs: what differs, all else being equal. Ratio: weights that both masks keep over those that random masks "
        "of the same layer densities would share. Same inputs, same sizes: against random masks that also keep as many "
        "weights of every input unit, or of every twentieth of the weights by initial size. Jaccard: kept by both over "
        "kept by either. First weights: the "
        f"correlation of the two networks' weights within layers; 0 at two seeds. {_means(study)}"
    )
    head: Row = ("Pairs", "Masks", "Initialisations", *_HEAD, "First weights")
    return Table("How alike the masks are", head, tuple(rows), note, words=3)


def _by_layer(study: InitialisationsResult) -> Table:
    rows: list[Row] = [
        (KINDS[pairs.kind], *_between(pairs), layer.name, words.count(layer.total), *_alike(layer))
        for pairs in study.overlaps
        for layer in pairs.layers
    ]
    head: Row = ("Pairs", "Masks", "Initialisations", "Layer", "Weights", *_HEAD)
    return Table("How alike the masks are, layer by layer", head, tuple(rows), _means(study), words=4, folded=True)


def _transferred(study: InitialisationsResult) -> list[Table]:
    if not study.transfer:
        return []
    unit = Unit(study.metric)
    rows: list[Row] = [
        (
            one.mask,
            one.found,
            one.on,
            _cell(one.untrained, unit),
            _cell(one.trained, unit),
            *(_change(value, unit) for value in _against(one)),
        )
        for one in study.transfer
    ]
    note = (
        f"Test {study.metric} of every mask on the weights of each scheme of its seed: as they were drawn, and trained "
        "under the mask in the same order of the data. Against own: minus the mask that was found on those weights; "
        f"against random: minus a random mask of that one's layer densities; paired by replicate. {_means(study)}"
    )
    head: Row = (
        "Mask",
        "Found under",
        "On weights of",
        "Untrained",
        "Trained",
        Cell("Against own", "untrained"),
        Cell("Against own", "trained"),
        Cell("Against random", "untrained"),
        Cell("Against random", "trained"),
    )
    return [Table("Masks on the weights of other schemes", head, tuple(rows), note, words=3)]


def _against(one: Transfer) -> tuple[Values | None, ...]:
    return (
        one.against_own_untrained,
        one.against_own_trained,
        one.against_random_untrained,
        one.against_random_trained,
    )


# -- figures


def _accuracy(study: InitialisationsResult) -> Shown:
    unit = Unit(study.metric)
    series = [
        (mask, _look(study, mask), [one.accuracy for one in study.accuracy if one.mask == mask])
        for mask in dict.fromkeys(one.mask for one in study.accuracy)
    ]
    caption = sentences(f"Test {study.metric} at the end of each search.", _bars(study))
    drawn = _rows(study.inits, series, unit.axis("Test"), factor=unit.factor)
    return Plot("initialisations-accuracy", "How good the tickets are", caption, drawn)


def _bars(study: InitialisationsResult) -> str:
    return "Bars: 95 % intervals." if study.replicates >= FEWEST_REPLICATES else ""


def _overlaps(study: InitialisationsResult) -> list[Shown]:
    shown: list[Shown] = []
    for kind, what in KINDS.items():
        pairs = [one for one in study.overlaps if one.kind == kind]
        if all(one.whole.ratio.mean is None for one in pairs):
            continue
        rows = dict.fromkeys(_between(one)[1] for one in pairs)
        series = [
            (name, _look(study, name) if name in study.masks else Look(style.INK), _picked(pairs, name, rows))
            for name in dict.fromkeys(_between(one)[0] for one in pairs)
        ]
        drawn = _rows(list(rows), series, "Shared / by chance", line=1.0)
        caption = sentences(f"Pairs of masks of {what}, all else being equal; the line is chance.", _bars(study))
        shown.append(Plot(f"initialisations-{slug(kind)}", f"How alike the masks are: {what}", caption, drawn))
    return shown or [Remark("No mask keeps anything that another could share.")]


def _picked(pairs: Iterable[MaskPairs], name: str, rows: Iterable[str]) -> list[Values | None]:
    found = {_between(one): one.whole.ratio for one in pairs}
    return [found.get((name, row)) for row in rows]


def _transfers(study: InitialisationsResult) -> list[Shown]:
    shown: list[Shown] = []
    unit = Unit(study.metric)
    for mask, trained in zip(study.masks, (True, False), strict=True):
        cells = {(one.found, one.on): one for one in study.transfer if one.mask == mask}
        chance = {one.on: one for one in study.transfer if one.mask == f"random as {mask}"}
        if not cells:
            continue

        def value(one: Transfer, trained: bool = trained) -> Values:
            return one.trained if trained else one.untrained

        series: list[_Series] = [
            (f"mask of {found}", series_look(index), [value(cells[found, on]) for on in study.inits])
            for index, found in enumerate(study.inits)
        ]
        series.append(("random mask", CONTROLS["random"], [value(chance[on]) for on in study.inits]))
        how = "trained under it" if trained else "untrained"
        drawn = _rows(study.inits, series, unit.axis("Test"), factor=unit.factor, ylabel="Weights of")
        caption = sentences(
            f"The mask of the {mask} found under each scheme, on the weights of every scheme of the same seed, {how}.",
            _bars(study),
        )
        shown.append(Plot(f"initialisations-transfer-{slug(mask)}", f"{_capital(mask)}: masks move", caption, drawn))
    return shown


def _rows(
    rows: Sequence[str],
    series: Sequence[_Series],
    xlabel: str,
    *,
    factor: float = 1.0,
    line: float | None = None,
    ylabel: str = "",
) -> Figure:
    """A row for each name, with a mark and a bar for each series beside one another."""
    with style.styled():
        figure = style.new_figure(min(1.2 + (0.25 + 0.15 * len(series)) * len(rows), 11.0))
        axes = figure.add_subplot()
        if line is not None:
            axes.axvline(line, color=style.MUTED, linewidth=1)
        for index, (label, look, values) in enumerate(series):
            offset = 0.7 / len(series) * (index - (len(series) - 1) / 2)
            known = [(row + offset, value) for row, value in enumerate(values) if value and value.mean is not None]
            for at, value in known:
                if value.interval is not None:
                    axes.plot([factor * end for end in value.interval], [at, at], color=look.colour, linewidth=2.0)
            means = [factor * value.mean for _, value in known if value.mean is not None]
            axes.plot(means, [at for at, _ in known], look.marker, color=look.colour, markersize=6.0, label=label)
        name_rows(axes, rows, max_length=40, edge=0.5)
        round_ticks(axes.xaxis)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if len(series) > 1:
            legend_above(figure, axes)
    return figure
