"""The table of a reproduction: what was published, what was found, and whether they agree."""

from __future__ import annotations

from tombola.formats import MISSING, Fixed, Unit, multiple, plural
from tombola.report.tables import Cell, Row, Table
from tombola.results.reproduction import Finding, ReproducedRun, ReproductionResult

_UNITS = {"iterations": Fixed("iterations"), "ratio": Fixed("ratio", 2)}


def reproduction_tables(result: ReproductionResult) -> list[Table]:
    """The claims with their verdicts, and the commands that were run."""
    return [_claims(result), _commands(result)]


def found_in_words(finding: Finding) -> str:
    """An estimate with its interval: "98.12 ± 0.10 %", "+0.31 points (+0.12 to +0.50)", "0.62 × (0.50 to 0.77)"."""
    mean, ends = finding.found.mean, finding.found.interval
    unit = _UNITS.get(finding.unit) or Unit(finding.unit)
    if mean is None:
        return MISSING
    if finding.other is None:
        return unit.interval(mean, ends)
    if finding.ratio:
        return f"{multiple(mean)}{f' ({unit.ends(*ends)})' if ends else ''}"
    return f"{unit.difference(mean)}{unit.points}{f' ({unit.differences.ends(*ends)})' if ends else ''}"


def _claims(result: ReproductionResult) -> Table:
    rows: list[Row] = [
        (Cell(one.what, one.measured), one.published, found_in_words(one), Cell(one.verdict, _why(one)))
        for one in result.findings
    ]
    note = (
        "Below a claim: what is measured. Ours: with 95 % t-intervals over training seeds, each on its own. A claim "
        "agrees where the interval lies in the range below the verdict, differs where it lies outside, and is not "
        "decidable otherwise, or where fewer than three replicates have a value. Published numbers are compared in the "
        "full form alone."
    )
    return Table("Claims", ("Claim", "Published", "Ours", "Verdict"), tuple(rows), note, words=4)


def _why(finding: Finding) -> str:
    return f"agrees if {finding.rule}"


def _runs(one: ReproducedRun) -> str:
    repeated = f"{len(one.runs)} times, each with a seed of its own: " if len(one.runs) > 1 else ""
    return f"{repeated}{', '.join(one.runs)}"


def _commands(result: ReproductionResult) -> Table:
    rows: list[Row] = [
        (Cell(one.command, _runs(one)), one.model or MISSING, one.data or MISSING, str(one.replicates))
        for one in result.commands
    ]
    note = f"Seed {result.seed}. {plural(len(rows), 'command')}; below, the run directories that they wrote."
    return Table("Commands", ("Command", "Network", "Data", "Replicates"), tuple(rows), note, words=3)
