"""The tables of a study whose arms are curves over density: a row for each curve, a column for each density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tombola.formats import MISSING, Unit, density
from tombola.report.aggregate import spread
from tombola.report.looks import Looks
from tombola.report.plot import sentences
from tombola.report.tables import Cell, Row, Table
from tombola.results.comparison import ArmContrast, ComparedArm, ComparisonResult
from tombola.results.statistics import FEWEST_REPLICATES


def grid_tables(study: ComparisonResult, looks: Looks, means: str, pairing: str) -> list[Table]:
    """The test metric of every curve at every density, and its difference from the reference at the same density.

    `means` and `pairing` say how means and differences were taken.
    """
    curves = {name: arms for name, arms in study.families.items() if not all(arm.dense for arm in arms)}
    unit, contrasts = Unit(study.metric), {x.arm: x for x in study.comparisons}
    dense = next((spread(arm.test_accuracy.known) for arm in study.arms if arm.dense), None)
    tested = _table(f"Test {study.metric} against density", curves, looks, lambda arm: _tested(unit, arm))
    across = f"Dense: {unit.interval(dense.mean, dense.interval)}." if dense is not None else ""
    tables = [*_chosen(study, looks), replace(tested, note=sentences(means, across))]
    for reference in study.references:
        others = {name: arms for name, arms in curves.items() if study.reference_of(name) == reference}
        points = f"Difference in test {study.metric}{', in points' if unit.percent else ''}. "
        below = (
            "Below: ± half of their 95 % intervals, each on its own." if study.replicates >= FEWEST_REPLICATES else ""
        )
        table = _table(
            f"Differences from {reference}", others, looks, lambda arm: _difference(unit, contrasts.get(arm.name))
        )
        tables.append(replace(table, note=sentences(f"{points}{pairing}", below)))
    return [part for table in tables for part in table.parts(fixed=1)]


def _chosen(study: ComparisonResult, looks: Looks) -> list[Table]:
    """Every curve's best density by the validation split, where the study has chosen."""
    unit, contrasts = Unit(study.metric), {x.arm: x for x in study.comparisons}
    chosen = [arm for arm in study.arms if arm.name in study.chosen]
    if not chosen:
        return []
    rows: list[Row] = [
        (
            Cell(arm.series, look=looks.families.get(arm.series)),
            density(arm.plotted),
            _tested(unit, arm),
            MISSING if arm.series in study.references else _difference(unit, contrasts.get(arm.name)),
        )
        for arm in chosen
    ]
    note = "The density with the best mean on the validation split; the test split had no part in the choice."
    against = f"Difference: from {' or '.join(study.references)} at its density." if study.references else ""
    head = ("Arm", "Density", f"Test {study.metric}", "Difference")
    return [Table("Best density by validation", head, tuple(rows), sentences(note, against))]


def _table(
    title: str,
    curves: Mapping[str, tuple[ComparedArm, ...]],
    looks: Looks,
    cell: Callable[[ComparedArm], str | Cell],
) -> Table:
    densities = sorted({arm.plotted for arms in curves.values() for arm in arms}, reverse=True)
    rows: list[Row] = []
    for name, arms in curves.items():
        at = {arm.plotted: cell(arm) for arm in arms}
        rows.append((Cell(name, look=looks.families.get(name)), *(at.get(one, MISSING) for one in densities)))
    return Table(title, ("Arm", *map(density, densities)), tuple(rows))


def _tested(unit: Unit, arm: ComparedArm) -> str | Cell:
    summary = spread(arm.test_accuracy.known)
    if summary is None:
        return MISSING
    below = unit.half(summary.mean, summary.interval)
    if summary.interval is None and summary.n > 1:
        below = unit.ends(summary.low, summary.high)
    return Cell(unit.show(summary.mean), below.removesuffix(unit.sign))


def _difference(unit: Unit, contrast: ArmContrast | None) -> str | Cell:
    tested = None if contrast is None else contrast.differences.get("test_accuracy")
    if tested is None or tested.difference is None:
        return MISSING
    return Cell(unit.difference(tested.difference), unit.differences.half(tested.difference, tested.interval))
