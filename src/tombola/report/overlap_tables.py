"""The tables of a study of the overlap of two masks."""

from __future__ import annotations

from tombola.formats import MISSING, Fixed, Unit, plural
from tombola.report import words
from tombola.report.looks import Looks
from tombola.report.plot import sentences
from tombola.report.tables import Cell, Row, Table
from tombola.results.overlap import OverlapResult, PairOverlap, SharedLayer
from tombola.results.record import Figure
from tombola.results.statistics import FEWEST_REPLICATES

PERCENT, RATIO = Unit("accuracy"), Fixed("ratio", 3)


def overlap_tables(study: OverlapResult, looks: Looks) -> list[Table]:
    """Accuracy by mask, differences, and what is shared and kept of each layer."""
    shared = mask_tables(study, study.names, study.replicates, looks)
    return [*_accuracy(study, looks), *_differences(study), *shared]


def mask_tables(pair: PairOverlap[Figure], names: tuple[str, str], replicates: int, looks: Looks) -> list[Table]:
    """Overlap of two masks, and which weights each keeps, layer by layer."""
    return [_shared(pair, names, replicates, looks), _kept(pair, names, replicates, looks)]


def _cell(figure: Figure | None, unit: Unit, *, bare: bool = False) -> str:
    """Mean and half the 95 % interval, where there is one; ``bare``: the mean alone."""
    return (
        MISSING
        if figure is None or figure.mean is None
        else unit.interval(figure.mean, None if bare else figure.interval)
    )


def _difference(unit: Unit, figure: Figure) -> str | Cell:
    if figure.mean is None:
        return MISSING
    return Cell(unit.difference(figure.mean), unit.differences.ends(*figure.interval) if figure.interval else "")


def _means(replicates: int) -> str:
    """Explanation of cells with means over replicates."""
    if replicates < 2:
        return "Each value is of one replicate."
    over = f"Means over {plural(replicates, 'replicate')}"
    return f"{over} ± half of the 95 % t-interval." if replicates >= FEWEST_REPLICATES else f"{over}."


def _accuracy(study: OverlapResult, looks: Looks) -> list[Table]:
    if not study.accuracy:
        return []
    unit = Unit(study.metric)
    rows: list[Row] = [
        (
            Cell(mask_result.mask, look=looks.arm(mask_result.mask)),
            words.density(mask_result.density),
            *(_cell(figure, unit) for figure in (mask_result.untrained, mask_result.trained, mask_result.searched)),
        )
        for mask_result in study.accuracy
    ]
    note = (
        f"Test {study.metric}. {_means(study.replicates)} All masks of a replicate lie on the same first weights, and "
        "train in the same data order. Its search: where the search that found the mask ended."
    )
    head = ("Mask", "Density", "Untrained", "Weights trained under it", "Its search")
    return [Table("Each mask by the other's kind of training", head, tuple(rows), note)]


def _differences(study: OverlapResult) -> list[Table]:
    if not study.differences:
        return []
    unit = Unit(study.metric)
    rows: list[Row] = [
        (f"{change.of} − {change.against}", _difference(unit, change.untrained), _difference(unit, change.trained))
        for change in study.differences
    ]
    what = f"Test {study.metric}{' in points' if unit.percent else ''}, paired by replicate."
    barred = any(figure.interval for change in study.differences for figure in (change.untrained, change.trained))
    note = sentences(what, "Below: 95 % intervals over training seeds alone, each on its own." if barred else "")
    return [
        Table("Differences between masks", ("Difference", "Untrained", "Weights trained under it"), tuple(rows), note)
    ]


def _shared(pair: PairOverlap[Figure], names: tuple[str, str], replicates: int, looks: Looks) -> Table:
    def row(layer: SharedLayer[Figure]) -> tuple[str, ...]:
        return (
            layer.name,
            words.count(layer.total),
            *(words.density(side.density.mean) for side in layer.sides),
            _cell(layer.both, Fixed("weights")),
            _cell(layer.expected, Fixed("weights", 1), bare=True),
            *(_cell(ratio, RATIO) for ratio in (layer.ratio, layer.ratio_same_inputs, layer.ratio_same_sizes)),
            _cell(layer.jaccard, RATIO, bare=True),
            _cell(layer.z, Fixed("z", 1).differences, bare=True),
        )

    note = (
        "By chance: what independent random masks with these counts in every layer share (hypergeometric). z: standard "
        "deviations of that above it. Same inputs, same sizes: the ratio against random masks that also keep as many "
        "weights of every input unit, or of every twentieth of the weights by initial size, as each mask does. "
        "Jaccard: kept by both over kept by either. "
    ) + _means(replicates)
    head: Row = (
        "Layer",
        "Weights",
        *(Cell(name, look=looks.arm(name)) for name in names),
        "Shared",
        "By chance",
        "Ratio",
        Cell("Ratio", "same inputs"),
        Cell("Ratio", "same sizes"),
        "Jaccard",
        "z",
    )
    return Table("What the masks share", head, tuple(map(row, (*pair.layers, pair.whole))), note)


def _kept(pair: PairOverlap[Figure], names: tuple[str, str], replicates: int, looks: Looks) -> Table:
    def row(layer: SharedLayer[Figure]) -> tuple[str, ...]:
        sides = layer.sides
        chance = sides[0].positive_by_chance.mean
        return (
            layer.name,
            *(_cell(side.positive, PERCENT) for side in sides),
            PERCENT.show(chance),
            *(_cell(side.magnitude, Fixed("size", 2)) for side in sides),
            *(_cell(side.flipped, PERCENT) for side in sides),
        )

    note = (
        "Positive: share of the kept weights above 0 before training. Size: their mean |weight| before training over "
        "that of the layer, 1 by chance. Sign changed: share of them whose sign training under the mask changed. "
    ) + _means(replicates)

    def heads(what: str) -> list[Cell]:
        return [Cell(what, name, looks.arm(name)) for name in names]

    head: Row = (
        "Layer",
        *heads("Positive"),
        Cell("Positive", "by chance"),
        *heads("Size"),
        *heads("Sign changed"),
    )
    return Table("Which weights each mask keeps", head, tuple(map(row, (*pair.layers, pair.whole))), note)
