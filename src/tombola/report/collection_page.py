"""The page of many runs: settings as lines and rows with intervals over seeds; single runs are linked, not drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tombola.errors import TombolaError
from tombola.formats import MISSING, ONLY, Unit, density, plural
from tombola.report.collection import FINISHED, Collection, Member
from tombola.report.plot import Shown
from tombola.report.setting_plots import setting_plots, shown_value
from tombola.report.tables import Cell, Row, Table
from tombola.results.comparison import ArmDifference
from tombola.results.record import Figure
from tombola.results.search import SearchResult
from tombola.results.settings import (
    ComparedSetting,
    best,
    by_metric,
    check_against,
    compared,
    differing,
    settings_of,
    short_names,
)
from tombola.results.statistics import FEWEST_REPLICATES

Against = Mapping[str, Any] | None


@dataclass(frozen=True)
class CollectionPage:
    """What the page shows of a collection."""

    name: str
    subtitle: str
    sentence: str
    note: str
    missing: tuple[str, ...]
    shown: tuple[Shown, ...]
    tables: tuple[Table, ...]
    command: str


def collection_page(collection: Collection, html: Path, against: Against = None) -> CollectionPage:
    """The figures, tables and sentences of a page that is written to `html`.

    Raises:
        TombolaError: `against` names a setting that no run has.
    """
    if against is not None:
        check_against([run.config for run in collection.searches], against)
    groups = [(runs, compared(runs, against)) for runs in by_metric(collection.searches, lambda run: run.result.metric)]
    settings = [one for _, group in groups for one in group]
    shown: list[Shown] = []
    tables: list[Table] = []
    for index, (runs, group) in enumerate(groups):
        shown += setting_plots(group, runs, "" if index == 0 else f"-{index + 1}")
        tables.append(settings_table(group))
    return CollectionPage(
        name=collection.path.resolve().name,
        subtitle=_subtitle(collection),
        sentence=_sentence(settings, collection),
        note=_note(settings),
        missing=tuple(_missing(collection)),
        shown=tuple(shown),
        tables=(*tables, runs_table(collection, html)),
        command=collection.command,
    )


def _subtitle(collection: Collection) -> str:
    parts = []
    for name in ("method", "model", "data"):
        values = {str(getattr(run.result, name)) for run in collection.searches}
        parts += [values.pop()] if len(values) == 1 else []
    return ", ".join([*parts, plural(len(collection.members), "run")])


def _sentence(settings: Sequence[ComparedSetting], collection: Collection) -> str:
    """The best setting by validation, and what it reaches in the test."""
    if not settings:
        return "There is no finished search to compare yet."
    counts = f"{plural(len(settings), 'setting')} in {plural(len(collection.searches), 'finished run')}"
    top = best(settings) if len({one.metric for one in settings}) == 1 else None
    if top is None or len(settings) == 1:
        return f"{counts}."
    unit = Unit(top.metric)
    reached = _mean(unit, top.test_accuracy)
    return (
        f"{counts}; the best by its mean validation {top.metric} ({_mean(unit, top.val_accuracy)}): {top.name}, with "
        f"{reached} in the test."
    )


def _note(settings: Sequence[ComparedSetting]) -> str:
    most = max((len(one.seeds) for one in settings), default=0)
    if most < FEWEST_REPLICATES:
        return f"There are no intervals: they need {FEWEST_REPLICATES} seeds of a setting."
    return "Intervals: 95 % t-intervals of the mean over seeds; differences are paired by seed where seeds are shared."


def _missing(collection: Collection) -> list[str]:
    notes = [f"{name} failed: {error}" for name, error in collection.failed]
    unfinished = [one for one in collection.members if one.state != FINISHED]
    for one in unfinished[:20]:
        notes.append(f"{one.name}: {one.state}.")
    if len(unfinished) > 20:
        notes.append(f"{len(unfinished) - 20} more runs are not finished.")
    return notes


def settings_tables(settings: Sequence[ComparedSetting]) -> list[Table]:
    """A table of the settings of each metric."""
    return [settings_table(group) for group in by_metric(settings, lambda one: one.metric)]


def settings_table(settings: Sequence[ComparedSetting]) -> Table:
    """A row for every setting: what it kept and reached, and its difference from another."""
    unit, metric = Unit(settings[0].metric), settings[0].metric
    names = list(dict.fromkeys(name for one in settings for name in one.setting)) or ["setting"]
    others = list(dict.fromkeys(str(one.against) for one in settings if one.against is not None))
    against = next((one.against for one in settings if one.against is not None), None)
    top = best(settings)
    rows: list[Row] = []
    for one in settings:
        mark = " (best)" if one is top and len(settings) > 1 else ""
        rows.append(
            (
                *(_value(one.setting or {"setting": ONLY}, name) for name in names),
                str(len(one.seeds)),
                density(one.density.mean),
                _mean(unit, one.val_accuracy) + mark,
                _mean(unit, one.test_accuracy),
                *((_change(unit, one.test_difference), _paired(one)) if against is not None else ()),
            )
        )
    heads: Row = (*names, "Seeds", "Weights kept", f"Validation {metric}", f"Test {metric}")
    if against is None:
        return Table("Settings", heads, tuple(rows), words=len(names))
    what = "the setting that shares the rest" if len(others) > 1 else _in_words(against)
    note = (
        f"Difference in the test metric from {what}{_interval_words(settings)}; pairs: seeds that both have, over "
        "which it is paired (none: Welch's). The best is that by validation: its test value is no further choice."
    )
    return Table("Settings", (*heads, "Difference", "Pairs"), tuple(rows), note, words=len(names))


def _interval_words(settings: Sequence[ComparedSetting]) -> str:
    """Which of the differences have an interval."""
    intervals = [one.test_difference.interval for one in settings if one.test_difference is not None]
    if not any(intervals):
        return f" (no intervals: they need {FEWEST_REPLICATES} seeds)"
    few = "" if all(intervals) else f", where it has {FEWEST_REPLICATES} seeds"
    return f", with its 95 % interval{few}"


def _in_words(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shown_value(value)}" for name, value in setting.items()) or ONLY


def _value(setting: Mapping[str, Any], name: str) -> str:
    return shown_value(setting[name]) if name in setting else MISSING


def _mean(unit: Unit, values: Figure) -> str:
    return MISSING if values.mean is None else unit.interval(values.mean, values.interval)


def _change(unit: Unit, change: ArmDifference | None) -> str | Cell:
    if change is None or change.difference is None:
        return MISSING
    shown = unit.difference(change.difference) + unit.points
    ends = change.interval
    return shown if ends is None else Cell(shown, f"{unit.difference(ends[0])} to {unit.difference(ends[1])}")


def _paired(one: ComparedSetting) -> str:
    return MISSING if one.test_difference is None else str(one.pairs) if one.pairs else "none"


def runs_table(collection: Collection, html: Path) -> Table:
    """Every run with its settings and a link to its own page, or to its directory where none was drawn."""
    own = {one.name: settings_of(one.record.config) for one in collection.members}
    short = short_names(differing([own[one.name] for one in collection.members if one.search is not None]))
    rows = [
        _run_row(one, {short[n]: v for n, v in own[one.name].items() if n in short}, short, html)
        for one in collection.members
    ]
    head = ("Run", *short.values(), "Seed", "State", "Validation", "Test")
    note = "tombola report RUN draws a run's own page, to which this table then links."
    return Table("Runs", head, tuple(rows), note, words=1 + len(short), folded=len(rows) > 20)


def _run_row(one: Member, setting: Mapping[str, Any], short: Mapping[str, str], html: Path) -> Row:
    state = one.state if one.search is not None or one.state != FINISHED else f"{one.record.kind}, {one.state}"
    link = Cell(one.name, link=_link(one.path, html))
    values = tuple(_value(setting, name) for name in short.values())
    return (link, *values, str(one.record.config.get("seed", MISSING)), state.partition(":")[0], *_reached(one.search))


def _reached(search: SearchResult | None) -> tuple[str, str]:
    """The mean validation and test metric over a run's replicates."""
    if search is None:
        return MISSING, MISSING
    unit, levels = Unit(search.metric), [replicate.levels[-1] for replicate in search.replicates]

    def mean(values: Sequence[float | None]) -> str:
        known = [value for value in values if value is not None]
        return unit.show(sum(known) / len(known)) if known else MISSING

    return mean([level.val_accuracy for level in levels]), mean([level.test_accuracy for level in levels])


def _link(run: Path, html: Path) -> str:
    """The way from a page to a run's own, or to its directory."""
    target = run / "report.html" if (run / "report.html").is_file() else run
    try:
        way = os.path.relpath(target.resolve(), html.resolve().parent)
    except ValueError:  # on another drive
        return target.resolve().as_uri()
    return quote(Path(way).as_posix())


def refuse_against(against: Against) -> None:
    """TombolaError where single runs are to be compared with a setting."""
    if against is not None:
        raise TombolaError("against is for a folder of runs, or a sweep; give one of these alone, or leave it out")
