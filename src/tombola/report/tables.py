"""The tables of a report: rows of text, ready to be set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tombola.report import style, words
from tombola.report.aggregate import Reading, layer_densities, levels_of, observed_stop, points, spread
from tombola.report.comparison import GAP, SHIFT, Difference, Study
from tombola.report.summary import Find, Run, Verify
from tombola.report.words import Unit

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


@dataclass(frozen=True)
class Table:
    """A titled table; the first ``words`` columns are text, the rest numbers (set to the right)."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    words: int = 1
    folded: bool = False


def _by_level(find: Find, title: str, reading: Reading, note: str, unit: Unit) -> Table | None:
    columns = {arm: {p.level: p for p in points(find, arm, reading)} for arm in find.arms}
    columns = {arm: found for arm, found in columns.items() if found}
    if not columns:
        return None
    rows = []
    sizes = {p.spread.n for found in columns.values() for p in found.values()}
    alike = len(sizes) == 1  # then the note says n once, instead of a column for each arm
    for number in sorted(set().union(*columns.values())):
        at = [found[number] for found in columns.values() if number in found]
        row = [words.density(at[0].density), f"{words.count(at[0].kept)} of {words.count(at[0].total)}"]
        for found in columns.values():
            point = found.get(number)
            text = words.mean_of(unit, point.spread) if point else words.MISSING
            row.append(text + ("" if point is None or point.complete else "*"))
            if not alike:
                row.append(str(point.spread.n) if point else words.MISSING)
        rows.append(tuple(row))
    heads = [text for arm in columns for text in (style.arm_name(arm), "n")[: 1 if alike else 2]]
    note += f" n = {sizes.pop()}." if alike else ""
    starred = any(not p.complete for found in columns.values() for p in found.values())
    extra = " * some replicates have no value there." if starred else ""
    return Table(title, ("Density", "Weights kept", *heads), tuple(rows), note + extra, words=0)


def _layers(find: Find) -> Table | None:
    grouped = {n: found for n, found in levels_of(find, "ticket").items() if layer_densities(find, n)}
    pruned = {n: found for n, found in grouped.items() if any(level.density < 1 for level in found)}
    shown = pruned or grouped
    if not shown:
        return None
    sizes = {x.name: x.total for found in shown.values() for level in found for x in level.layers}
    columns = [{layer.name: layer for layer in layer_densities(find, n)} for n in shown]
    heads = [words.density(sum(x.density for x in found) / len(found)) for found in shown.values()]
    rows = []
    for name, size in sizes.items():
        cells = [words.density(column[name].density) if name in column else words.MISSING for column in columns]
        rows.append((name, words.count(size), *cells))
    replicates = max(map(len, shown.values()))
    over = "the mean over replicates" if replicates > 1 else "the one replicate"
    return Table(
        "Density of each layer",
        ("Layer", "Weights", *heads),
        tuple(rows),
        f"Columns: overall density of the ticket. Cells: share of the layer's weights kept, {over}.",
        folded=True,
    )


def find_tables(find: Find) -> list[Table]:
    """Numbers behind the figures of a search."""
    unit = Unit(find.metric)
    how = "Mean ± half of its 95 % t-interval over n replicates;"
    how += " fewer than 3: lowest to highest."
    found = [
        _by_level(find, f"Test {find.metric} at the end of training", lambda x: x.test_accuracy, how, unit),
        _by_level(find, f"Test {find.metric} at early stop", lambda x: x.test_accuracy_early_stop, how, unit),
        _by_level(
            find,
            "Early-stop iteration",
            observed_stop,
            "Mean ± half of its 95 % t-interval over the n replicates in which it was observed.",
            words.ITERATIONS,
        ),
        _layers(find),
    ]
    return [table for table in found if table is not None]


def _iterations(values: tuple[int | None, ...]) -> str:
    known = spread(float(v) for v in values if v is not None)
    if known is None:
        return words.MISSING
    text = words.mean_of(words.ITERATIONS, known)
    return text if known.n == len(values) else f"{text} ({known.n} of {len(values)})"


def verify_tables(verify: Verify) -> list[Table]:
    """Numbers behind the figures of a verification."""
    unit = Unit(verify.metric)
    tables = []
    rows = []
    for name, arm in verify.arms.items():
        ends = arm.interval
        rows.append(
            (
                style.arm_name(name),
                unit.show(arm.mean),
                unit.ends(*ends) if ends else words.MISSING,
                str(len(arm.test_accuracy)),
                _iterations(arm.early_stop_iteration),
                _iterations(arm.iterations_to_dense_loss),
            )
        )
    if rows:
        head: tuple[str, ...] = ("Arm", f"Test {verify.metric}", "95 % interval", "n")
        head += ("Early-stop iteration", "Iterations to the dense loss")
        note = "Iterations to the dense loss: until the dense arm's mean lowest validation loss is reached."
        tables.append(Table("Arms of the verification", head, tuple(rows), note))
    claims = []
    for name, item in verify.comparisons.items():
        ends = item.interval
        claims.append(
            (
                item.claim or f"against {style.arm_name(name).lower()}",
                item.verdict,
                unit.difference(item.difference),
                unit.difference(item.lower),
                unit.differences.ends(*ends) if ends else words.MISSING,
            )
        )
    if claims:
        points_word = "points" if unit.percent else verify.metric
        head = ("Claim", "Verdict", f"Difference ({points_word})", "Lower 95 % bound", "95 % interval")
        note = "A control is beaten if the lower bound is above 0"
        if verify.margin is not None:
            note += f"; dense is matched if it is at least {unit.difference(-verify.margin)}"
        tables.append(Table("Claims and verdicts", head, tuple(claims), note + ".", words=2))
    return tables


def study_tables(study: Study) -> list[Table]:
    """The arms of a study, and their differences from the first."""
    unit = Unit(study.metric)
    columns = [figure for figure in HEADS if any(arm.values[figure] for arm in study.arms)]
    rows = [
        (arm.name, words.density(arm.kept), *(_study_cell(unit, figure, arm.values[figure]) for figure in columns))
        for arm in study.arms
    ]
    how = "Means ± half of the 95 % t-interval"
    how += f" over {words.plural(study.replicates, 'replicate')}; fewer than 3: lowest to highest."
    told = (
        f"{how} Train, val and test {study.metric}: of the final network, in evaluation mode, on unaugmented examples. "
        "Train − val: the generalisation gap. Val − test: how much an arm falls where the test data differ. Running "
        "mean: over the last batches of training, in training mode."
    )
    heads = (HEADS[figure].format(study.metric) for figure in columns)
    tables = [Table("The arms", ("Arm", "Density", *heads), tuple(rows), told)]
    contrasts = [
        (x.arm, *(_difference_cell(unit, figure, x.differences.get(figure)) for figure in columns))
        for x in study.contrasts
    ]
    if contrasts:
        paired = {x.paired for x in study.contrasts}
        kind = "paired by replicate" if paired == {True} else "unpaired (Welch)" if paired == {False} else "mixed"
        note = f"Each arm minus {study.contrasts[0].against}, {kind}, with 95 % intervals, each on its own."
        heads = (HEADS[figure].format(study.metric) for figure in columns)
        tables.append(Table("Differences from the first arm", ("Arm", *heads), tuple(contrasts), note))
    return tables


def _study_cell(unit: Unit, figure: str, values: tuple[float, ...]) -> str:
    found = spread(values)
    if figure == "bits_per_weight":  # hardly varies: an interval would be noise of rounding
        return words.MISSING if found is None else words.BITS.bare(found.mean)
    return words.mean_of(unit.differences if figure in (GAP, SHIFT) else unit, found)


def _difference_cell(unit: Unit, figure: str, found: Difference | None) -> str:
    if found is None or found.difference is None:
        return words.MISSING
    if figure == "bits_per_weight":
        return words.BITS.difference(found.difference)
    within = f" ({unit.differences.ends(*found.interval)})" if found.interval else ""
    return unit.difference(found.difference) + within


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
    rows = () if run.config == {} else tuple(flatten(run.config))
    return Table("Configuration", ("Setting", "Value"), rows, words=2, folded=len(rows) > 80) if rows else None


def other_table(run: Run, most: int = 300) -> Table | None:
    """Results of a kind the report does not know, as found."""
    rows = tuple(flatten(run.other)) if run.other else ()
    note = "" if len(rows) <= most else f"The first {most} of {len(rows)} values; result.json holds all."
    return Table("Results as found", ("Value", "As found"), rows[:most], note, words=2) if rows else None


def provenance_table(run: Run) -> Table | None:
    """Versions, seeds and the fingerprint of the data."""
    rows = [(name, value) for name, value in run.versions.items()]
    if run.seed:
        rows.append(("seed", run.seed))
    if run.find is not None:
        rows += [
            (f"seed of replicate {rep.replicate}", str(rep.seed)) for rep in run.find.replicates if rep.seed is not None
        ]
        rows += [(f"ticket of replicate {r.replicate}", r.ticket) for r in run.find.replicates if r.ticket]
    if run.study is not None:
        rows += [(f"seed of replicate {index}", str(seed)) for index, seed in enumerate(run.study.seeds)]
    if run.fingerprint:
        rows.append(("data fingerprint", run.fingerprint))
    return Table("Versions and seeds", ("What", "Value"), tuple(rows), words=2) if rows else None


def runs_table(runs: tuple[Run, ...]) -> Table:
    """One row per run, for reports of several."""
    rows = []
    for run in runs:
        last = best = dense = words.MISSING
        if run.find is not None:
            unit = Unit(run.find.metric)
            found = points(run.find, "ticket", lambda level: level.test_accuracy)
            if found:
                point = min(found, key=lambda p: p.density)
                last = f"{words.density(point.density)}: {words.mean_of(unit, point.spread)}"
            keeps = words.sparsest_that_keeps_up(run.find)
            best = words.density(keeps.density) if keeps else words.MISSING
            whole = words.dense_point(run.find)
            dense = words.mean_of(unit, whole.spread) if whole else words.MISSING
        size = str(len(run.find.replicates)) if run.find else words.MISSING
        rows.append((run.name, words.subtitle(run), size, dense, best, last))
    head = ("Run", "What", "n", "Dense", "Keeps up down to", "Sparsest: result")
    note = "Keeps up down to: the lowest density to which every mean stays within 0.2 points of dense."
    return Table("The runs in numbers", head, tuple(rows), note, words=2)
