"""The tables of a report: rows of text, ready to be set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tombola.formats import Unit, p_value
from tombola.report import style, words
from tombola.report.aggregate import (
    Point,
    Reading,
    Spread,
    layer_densities,
    levels_of,
    observed_stop,
    points,
    sparsest,
    spread,
    stopped_early,
)
from tombola.report.cost import Measure, cost_of, measure, measure_of
from tombola.report.looks import Look, Looks
from tombola.report.plot import over_replicates, sentences
from tombola.report.read import Run
from tombola.results.search import TICKET, SearchResult
from tombola.results.statistics import FEWEST_REPLICATES
from tombola.results.verification import VerificationResult


@dataclass(frozen=True)
class Cell:
    """A cell with more than a text: a second line in small letters, the look of the arm that it names, a link."""

    text: str
    more: str = ""
    look: Look | None = None
    link: str = ""

    def __str__(self) -> str:
        return f"{self.text}\n{self.more}".strip()


Row = tuple[str | Cell, ...]
MAX_COLUMNS = 13
MAX_OPEN = 20
"""Settings that the page shows unfolded."""
EARLY_STOP = "Early-stop iteration: of the lowest validation loss, where that does not lie in the last evaluations."
STARRED = "* some replicates have no value there."


@dataclass(frozen=True)
class Table:
    """A titled table; the first ``words`` columns are text, the rest numbers (set to the right)."""

    title: str
    head: Row
    rows: tuple[Row, ...]
    note: str = ""
    words: int = 1
    folded: bool = False

    def parts(self, fixed: int) -> list[Table]:
        """The table cut into several of at most 13 columns, each with the first ``fixed`` ones."""
        wide = MAX_COLUMNS - fixed
        count = math.ceil((len(self.head) - fixed) / wide)
        if count < 2:
            return [self]
        step = math.ceil((len(self.head) - fixed) / count)
        return [
            replace(
                self,
                title=f"{self.title} ({index + 1} of {count})",
                head=(*self.head[:fixed], *self.head[at : at + step]),
                rows=tuple((*row[:fixed], *row[at : at + step]) for row in self.rows),
            )
            for index, at in enumerate(range(fixed, len(self.head), step))
        ]


def arm_cell(arm: str, looks: Looks) -> Cell:
    """An arm of a search or a verification, with its look."""
    return Cell(style.arm_name(arm), look=looks.arm(arm))


def mean_cell(unit: Unit, summary: Spread, mark: str = "") -> str | Cell:
    """``98.10 ± 0.05 %``; of two values the mean, and below it their range."""
    if summary.interval is None and summary.n > 1:
        return Cell(unit.show(summary.mean) + mark, unit.ends(summary.low, summary.high))
    return unit.interval(summary.mean, summary.interval) + mark


def _point_cell(unit: Unit, point: Point | None) -> str | Cell:
    """The mean at a level; a star if some replicates have no value there."""
    return words.MISSING if point is None else mean_cell(unit, point.spread, "" if point.complete else "*")


def _by_level(
    find: SearchResult,
    looks: Looks,
    title: str,
    reading: Reading,
    note: str,
    unit: Unit,
    *,
    priced: bool = False,
    from_ticket: bool = False,
) -> Table | None:
    columns = {arm: {p.level: p for p in points(find, arm, reading)} for arm in find.arms}
    columns = {arm: column for arm, column in columns.items() if column}
    if not columns:
        return None
    rows: list[Row] = []
    sizes = {p.spread.n for column in columns.values() for p in column.values()}
    alike = len(sizes) == 1  # then the note gives n once, instead of a column per arm
    numbers = sorted(set().union(*columns.values()))
    by = measure_of(find)
    costs = {number: cost_of(find, "ticket", number, by) for number in numbers} if priced else {}
    known = any(cost is not None for cost in costs.values())
    for number in numbers:
        at = [column[number] for column in columns.values() if number in column]
        row: list[str | Cell] = [
            words.density(at[0].density),
            f"{words.count(at[0].kept)} of {words.count(at[0].total)}",
        ]
        row += [words.count(costs[number])] if known else []
        for column in columns.values():
            point = column.get(number)
            row.append(_point_cell(unit, point))
            if not alike:
                row.append(str(point.spread.n) if point else words.MISSING)
        rows.append(tuple(row))
    heads: list[str | Cell] = []
    for arm in columns:
        cell = arm_cell(arm, looks) if find.pruned else replace(arm_cell(arm, looks), text="Network")
        heads += [cell] if alike else [cell, "n"]
    n = f"n = {sizes.pop()}." if alike and sizes != {1} else ""
    starred = any(not p.complete for column in columns.values() for p in column.values())
    extra = STARRED if starred else ""
    total = _total_note(by, from_ticket) if known else ""
    head = ("Density", "Weights kept", *([by.head] if known else []), *heads)
    return Table(title, head, tuple(rows), sentences(note, n, extra, total), words=0)


def _total_note(by: Measure, from_ticket: bool) -> str:
    start = "; what the ticket that the search started from had cost is not counted" if from_ticket else ""
    return f"{by.head}: of all levels up to this one{by.how}{start}."


def _spread_note(sizes: Iterable[int]) -> str:
    """Explanation of cells with means over replicates."""
    known = set(sizes)
    if known <= {1}:
        return "Each value is of one replicate."
    over = over_replicates(known)
    if min(known) >= FEWEST_REPLICATES:
        return f"Mean over {over} ± half of its 95 % t-interval."
    if max(known) < FEWEST_REPLICATES:
        return f"Mean over {over}; below: lowest to highest."
    return f"Mean over {over} ± half of its 95 % t-interval; of fewer than 3, below: lowest to highest."


def _layers(find: SearchResult) -> list[Table]:
    grouped = {n: levels for n, levels in levels_of(find, "ticket").items() if layer_densities(find, n)}
    pruned = {n: levels for n, levels in grouped.items() if any(level.density < 1 for level in levels)}
    shown = pruned or grouped
    if not shown:
        return []
    sizes = {x.name: x.total for levels in shown.values() for level in levels for x in level.layers}
    columns = [{layer.name: layer for layer in layer_densities(find, n)} for n in shown]
    heads = [words.density(sum(x.density for x in levels) / len(levels)) for levels in shown.values()]
    rows = []
    for name, size in sizes.items():
        cells = [words.density(column[name].density) if name in column else words.MISSING for column in columns]
        rows.append((name, words.count(size), *cells))
    replicates = max(map(len, shown.values()))
    over = ", the mean over replicates" if replicates > 1 else ""
    return Table(
        "Density of each layer",
        ("Layer", "Weights", *heads),
        tuple(rows),
        f"Columns: overall density of the ticket. Cells: share of the layer's weights kept{over}.",
        folded=True,
    ).parts(fixed=2)


def _sizes(find: SearchResult, reading: Reading) -> list[int]:
    return [p.spread.n for arm in find.arms for p in points(find, arm, reading)]


def find_tables(find: SearchResult, looks: Looks, *, from_ticket: bool = False) -> list[Table]:
    """Numbers behind the figures of a search; `from_ticket`: the search started from one."""
    unit, when = Unit(find.metric), " at the end of training" if find.trained else ""
    readings: list[tuple[str, Reading, str, Unit, bool]] = [
        (f"Test {find.metric}{when}", lambda x: x.test_accuracy, "", unit, True),
        (f"Test {find.metric} at early stop", lambda x: x.test_accuracy_early_stop, "", unit, False),
        (
            "Early-stop iteration",
            observed_stop,
            "Iteration of the lowest validation loss, over the replicates in which it was observed.",
            words.ITERATIONS,
            False,
        ),
    ]
    tables = [
        _by_level(
            find,
            looks,
            title,
            read,
            sentences(note, _spread_note(sizes)),
            kind,
            priced=priced,
            from_ticket=from_ticket,
        )
        for title, read, note, kind, priced in readings
        if (sizes := _sizes(find, read))
    ]
    return [*(table for table in tables if table is not None), *_layers(find)]


def _level_cell(find: SearchResult, arm: str, point: Point, looks: Looks) -> Cell:
    """The name of a level's network: an unpruned first one is no ticket, and if it was stopped not dense either."""
    if arm != TICKET or point.level != 0 or point.density != 1:
        return arm_cell(arm, looks)
    if stopped_early(find, 0):
        return replace(arm_cell(arm, looks), text=words.STOPPED)
    return arm_cell("dense", looks)


def levels_table(find: SearchResult, looks: Looks) -> Table:
    """A search in one table for the terminal: a row for each level of each arm, means over its replicates."""
    unit = Unit(find.metric)
    readings: list[tuple[Unit, Reading]] = [
        (unit, lambda x: x.val_accuracy),
        (unit, lambda x: x.test_accuracy),
        *([(words.ITERATIONS, observed_stop)] if find.trained else []),
    ]
    by = measure_of(find)
    barred = any(x.barred_kept for rep in find.replicates for levels in rep.arms.values() for x in levels)
    rows: list[Row] = []
    averaged: list[Point] = []
    for arm in find.arms:
        columns = [(kind, {p.level: p for p in points(find, arm, reading)}) for kind, reading in readings]
        averaged += [p for _, column in columns for p in column.values()]
        barred_at = {p.level: p.spread.mean for p in points(find, arm, lambda x: x.barred_kept)}
        for point in points(find, arm, lambda x: x.density):
            number = point.level
            row: Row = (_level_cell(find, arm, point, looks), str(number))
            row += (words.density(point.density), words.count(point.kept))
            row += tuple(_point_cell(kind, column.get(number)) for kind, column in columns)
            row += (words.count(cost_of(find, arm, number, by)),)
            rows.append((*row, words.count(barred_at[number])) if barred else row)
    head: Row = ("Network", "Level", "Density", "Weights kept", f"Val {find.metric}", f"Test {find.metric}")
    head += (*(("Early-stop iteration",) if find.trained else ()), by.head, *(("Barred",) if barred else ()))
    over = f", means of {len(find.replicates)} searches" if len(find.replicates) > 1 else ""
    note = sentences(
        _spread_note(sizes) if (sizes := {p.spread.n for p in averaged} - {1}) else "",
        STARRED if any(not p.complete for p in averaged) else "",
        EARLY_STOP if find.trained else "",
        f"{by.head}: the network's training and the search for its mask{by.how}.",
        "Barred: weights kept although the criterion bars them, since it leaves too few others." if barred else "",
    )
    return Table(f"{find.method} on {find.data} with {find.model}{over}", head, tuple(rows), note)


def _iterations(values: tuple[int | None, ...]) -> str:
    known = spread(float(v) for v in values if v is not None)
    if known is None:
        return words.MISSING
    text = words.mean_of(words.ITERATIONS, known)
    if known.n == len(values):
        return text
    part = f"{known.n} of {len(values)}"
    return f"{text[:-1]}; {part})" if text.endswith(")") else f"{text} ({part})"


def verify_tables(verify: VerificationResult, looks: Looks) -> list[Table]:
    """Numbers behind the figures of a verification."""
    unit = Unit(verify.metric)
    tables = []
    rows: list[Row] = []
    for name, arm in verify.arms.items():
        ends = arm.interval
        rows.append(
            (
                arm_cell(name, looks),
                unit.show(arm.mean),
                unit.ends(*ends) if ends else words.MISSING,
                str(len(arm.tested)),
                _iterations(arm.observed_stops),
                _iterations(arm.iterations_to_dense_loss),
            )
        )
    if rows:
        head: Row = ("Arm", f"Test {verify.metric}", "95 % interval", "n")
        head += ("Early-stop iteration", "Iterations to the dense loss")
        note = f"The interval of the mean covers {verify.covers}. "
        note += f"{EARLY_STOP} "
        note += "Iterations to the dense loss: until the dense arm's mean lowest validation loss is reached."
        note += words.actions(verify)
        tables.append(Table("Arms of the verification", head, tuple(rows), note))
    if verify.comparisons:
        tables.append(_claims(verify, looks))
    return tables


def _claims(verify: VerificationResult, looks: Looks) -> Table:
    """The claims with their bounds and p-values; older runs have no corrected ones."""
    unit, items = Unit(verify.metric), list(verify.comparisons.items())

    def ends(interval: tuple[float, float] | None) -> str:
        return words.MISSING if interval is None else unit.differences.ends(*interval)

    corrected = any(item.p_holm is not None for _, item in items)
    head: Row = ("Claim", "Verdict", f"Difference ({'points' if unit.percent else verify.metric})")
    head += ("Lower bound", "95 % interval", *(("Seeds alone", "p", "p, Holm") if corrected else ()))
    rows: list[Row] = [
        (
            Cell(item.claim or f"against {style.arm_name(name).lower()}", look=looks.arm(name)),
            item.verdict,
            unit.difference(item.difference),
            unit.difference(item.lower_holm, -(verify.margin or 0.0) if name == "dense" else 0.0),
            ends(item.interval),
            *((ends(item.seeds_alone.interval), p_value(item.p), p_value(item.p_holm)) if corrected else ()),
        )
        for name, item in items
    ]
    note = "A control is beaten if the lower bound is above 0"
    if verify.margin is not None:
        note += f"; dense is matched if it is at least {unit.difference(-verify.margin)}"
    note += f". Bounds and intervals cover {verify.covers}"
    if corrected:
        note += (
            f"; seeds alone: the 95 % interval with the test examples as given. p is one-sided, of each claim alone; "
            f"Holm's correction is for the {len(items)} claims together, and the lower bound and the verdict follow it"
        )
    return Table("Claims and verdicts", head, tuple(rows), note + ".", words=2)


def flatten(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names and JSON values; short lists stay on one line."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from flatten(item, f"{prefix}[{index}]")
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield prefix or "value", text


def config_table(run: Run) -> Table | None:
    """The settings of the run; None where it has none."""
    rows = () if not run.record.config else tuple(flatten(run.record.config))
    return Table("Configuration", ("Setting", "Value"), rows, words=2, folded=len(rows) > MAX_OPEN) if rows else None


def other_table(run: Run, max_rows: int = 300) -> Table | None:
    """Results of an unknown kind, listed as name and value."""
    rows = tuple(flatten(run.other)) if run.other else ()
    note = "" if len(rows) <= max_rows else f"The first {max_rows} of {len(rows)} values; result.json holds all."
    return Table("Results as found", ("Value", "As found"), rows[:max_rows], note, words=2) if rows else None


def provenance_table(run: Run) -> Table | None:
    """Versions and seeds."""
    rows = [(name, str(value)) for name, value in run.record.versions.items()]
    if run.find is not None:
        rows += [
            (f"seed of replicate {rep.replicate}", str(rep.seed)) for rep in run.find.replicates if rep.seed is not None
        ]
        rows += [(f"ticket of replicate {r.replicate}", r.ticket) for r in run.find.replicates if r.ticket]
    if run.study is not None:
        rows += [(f"seed of replicate {index}", str(seed)) for index, seed in enumerate(run.study.seeds)]
    return Table("Versions and seeds", ("What", "Value"), tuple(rows), words=2) if rows else None


def runs_table(runs: Sequence[Run], looks: Sequence[Looks]) -> Table:
    """One row per run, for reports of several."""
    rows: list[Row] = []
    by = measure(level for run in runs if run.find for rep in run.find.replicates for level in rep.levels)
    for run, look in zip(runs, looks, strict=True):
        last = best = dense = spent = words.MISSING
        if run.find is not None:
            unit = Unit(run.find.metric)
            tickets = points(run.find, "ticket", lambda level: level.test_accuracy)
            if tickets:
                point = sparsest(tickets)
                last = f"{words.density(point.density)}: {words.mean_of(unit, point.spread)}"
                spent = words.count(cost_of(run.find, "ticket", point.level, by))
            keeps = words.sparsest_that_keeps_up(run.find)
            best = words.density(keeps.density) if keeps else words.MISSING
            whole = words.dense_point(run.find)
            dense = words.mean_of(unit, whole.spread) if whole else words.MISSING
        size = str(len(run.find.replicates)) if run.find else words.MISSING
        name = Cell(run.name, words.subtitle(run), look.arm("ticket") if run.find is not None else None)
        rows.append((name, size, dense, last, spent, best))
    head = ("Run", "n", "Dense", "Sparsest: result", by.head, "Keeps up down to")
    total = f"{by.head}: of one search down to its sparsest ticket{by.how}."
    if all(row[-1] == words.MISSING for row in rows):
        return Table("The runs in numbers", head[:-1], tuple(row[:-1] for row in rows), total)
    keeps_up = "Keeps up down to: the lowest density to which every mean stays within 0.2 points of dense."
    return Table("The runs in numbers", head, tuple(rows), f"{total} {keeps_up}")
