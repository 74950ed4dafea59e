"""The tables of a study that compares arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tombola.formats import BITS, MISSING, Unit, count, density, plural
from tombola.report.aggregate import spread
from tombola.report.cost_tables import study_cost_table
from tombola.report.draws import drawn_table
from tombola.report.grid_tables import grid_tables
from tombola.report.looks import Looks
from tombola.report.plot import sentences
from tombola.report.study_plots import arm_cost, measure_of
from tombola.report.tables import Cell, Row, Table
from tombola.results.comparison import GAP, SHIFT, ArmContrast, ArmDifference, ComparisonResult
from tombola.results.statistics import FEWEST_REPLICATES
from tombola.results.verification import SEEDS

HEADS = {
    "test_accuracy": "Test {}",
    "val_accuracy": "Val {}",
    "train_accuracy_eval": "Train {}",
    GAP: "Train − val",
    SHIFT: "Val − test",
    "train_accuracy": "Train {}, running mean",
    "test_accuracy_sampled": "Test {}, sampled masks",
    "val_accuracy_sampled": "Val {}, sampled masks",
    "bits_per_weight": "Bits per weight",
}
"""Figures of an arm -> heads of their columns."""


def study_tables(study: ComparisonResult, looks: Looks) -> list[Table]:
    """Arms of a study, differences from the first or another, and costs; of curves over density first a grid."""
    columns = [figure for figure in HEADS if any(arm.values(figure) for arm in study.arms)]
    differing = [figure for figure in columns if any(figure in x.differences for x in study.comparisons)]
    contrasts = _differences(study, looks, differing).parts(fixed=1) if differing else []
    costs = study_cost_table(study, looks)
    drawn = drawn_table(study, looks)
    listed = [*_arms(study, looks, columns).parts(fixed=1), *contrasts, *drawn, *([costs] if costs is not None else [])]
    if not study.references:
        return listed
    grid = grid_tables(study, looks, _means(study), pairing(study.comparisons))
    return [*grid, *(replace(table, folded=True) for table in listed)]


def _arms(study: ComparisonResult, looks: Looks, columns: list[str]) -> Table:
    unit = Unit(study.metric)
    by = measure_of(study)
    costs = {arm.name: arm_cost(arm, by) for arm in study.arms}
    known = any(cost is not None for cost in costs.values())
    rows: list[Row] = [
        (
            Cell(arm.name, look=looks.arm(arm.name)),
            density(arm.density),
            *([count(costs[arm.name])] if known else []),
            *(_study_cell(unit, figure, arm.values(figure)) for figure in columns),
        )
        for arm in study.arms
    ]
    heads = ("Arm", "Density", *([by.head] if known else []), *_heads(study, columns))
    total = f"{by.head}: of all levels of one search{by.how}." if known else ""
    return Table("The arms", heads, tuple(rows), sentences(_means(study), *_column_notes(study, columns), total))


def _heads(study: ComparisonResult, columns: list[str]) -> list[str]:
    return [HEADS[figure].format(study.metric) for figure in columns]


def _means(study: ComparisonResult) -> str:
    over = f"Means over {plural(study.replicates, 'replicate')}"
    if study.replicates < 2:
        return "Each value is of one replicate."
    below = "± half of their 95 % t-interval" if study.replicates >= FEWEST_REPLICATES else "lowest to highest"
    return f"{over}; below: {below}."


def _column_notes(study: ComparisonResult, columns: list[str]) -> list[str]:
    """Explanations of the columns present."""
    tested = [name for name in ("train_accuracy_eval", "val_accuracy", "test_accuracy") if name in columns]
    shown = " and ".join(", ".join(name.split("_")[0] for name in tested).rsplit(", ", 1)).capitalize()
    notes = {
        GAP: "Train − val: the generalisation gap.",
        SHIFT: "Val − test: how much lower an arm is on the test split.",
        "train_accuracy": "Running mean: over the last batches of training, in training mode.",
        "test_accuracy_sampled": "Sampled masks: the mean over masks drawn from the learned probabilities.",
        "bits_per_weight": "Bits per weight: what a ticket file must hold of the masked layers, over their weights.",
    }
    final = f"{shown} {study.metric}: of the final network, in evaluation mode, on unaugmented examples."
    return [final] * bool(tested) + [text for name, text in notes.items() if name in columns]


def _differences(study: ComparisonResult, looks: Looks, columns: list[str]) -> Table:
    unit = Unit(study.metric)
    others = list(dict.fromkeys(x.against for x in study.comparisons))
    several = len(others) > 1
    rows: list[Row] = [
        (
            Cell(x.arm, f"minus {x.against}" if several else "", looks.arm(x.arm)),
            *(_difference_cell(unit, figure, x.differences.get(figure)) for figure in columns),
        )
        for x in study.comparisons
    ]
    barred = any(difference.interval for x in study.comparisons for difference in x.differences.values())
    points = f"{study.metric.capitalize()} in points." if unit.percent else ""
    note = sentences(
        "" if several else f"Each arm minus {others[0]}.",
        points,
        pairing(study.comparisons),
        "Below: 95 % intervals, each on its own." if barred else "",
        _covered(study) if barred else "",
    )
    title = "Differences between arms" if several else "Differences from the first arm"
    return Table(title, ("Arm", *_heads(study, columns)), tuple(rows), note)


def _covered(study: ComparisonResult) -> str:
    """Sources of variation that the intervals of differences cover."""
    covers = list(dict.fromkeys(x.test_accuracy.covers for x in study.comparisons))
    if covers == [SEEDS]:
        return f"They are over {SEEDS}, the test examples as given."
    return f"Those of the test {study.metric} are over {' or '.join(covers)}, all others over {SEEDS}."


def pairing(contrasts: Sequence[ArmContrast]) -> str:
    """How the differences were taken: paired by replicate, Welch's, or which of them how."""
    unpaired = [x.arm for x in contrasts if not x.paired]
    if not unpaired:
        return "Paired by replicate."
    if len(unpaired) == len(contrasts):
        return "Unpaired (Welch's t): the arms began with other weights."
    return f"Paired by replicate, but for {', '.join(unpaired)}, which began with other weights (Welch's t)."


def _study_cell(unit: Unit, figure: str, values: tuple[float, ...]) -> str | Cell:
    summary = spread(values)
    if summary is None:
        return MISSING
    if figure == "bits_per_weight":  # hardly varies: an interval would be noise of rounding
        return BITS.bare(summary.mean)
    kind = unit.differences if figure in (GAP, SHIFT) else unit
    below = kind.half(summary.mean, summary.interval)
    if summary.interval is None and summary.n > 1:
        below = kind.ends(summary.low, summary.high)
    # the unit stands above: at the end of a range it would wrap to a line of its own in a narrow terminal
    return Cell(kind.show(summary.mean), below.removesuffix(kind.sign))


def _difference_cell(unit: Unit, figure: str, result: ArmDifference | None) -> str | Cell:
    if result is None or result.difference is None:
        return MISSING
    if figure == "bits_per_weight":
        return BITS.difference(result.difference)
    ends = unit.differences.ends(*result.interval) if result.interval else ""
    return Cell(unit.difference(result.difference), ends)
