"""Runs by their settings: what they differ in, figures over seeds, and differences paired by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tombola.errors import TombolaError
from tombola.formats import setting_in_words
from tombola.names import unknown
from tombola.results.comparison import ArmDifference
from tombola.results.record import Figure, Record, Settings
from tombola.results.search import SearchResult
from tombola.results.statistics import FEWEST_REPLICATES, difference, figure
from tombola.results.trial import LevelResult

Measured = TypeVar("Measured")

SECTIONS = ("method", "model", "data", "recipe", "start", "replicates")
"""The parts of a run's configuration that are settings; seeds are replicates, the rest follows from these."""
_CONSEQUENCES = ("method.version", "data.fingerprint", "data.classes", "data.normalisation", "model.code")


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's configuration by dotted name, e.g. {"method.name": "imp", "recipe.lr": 0.1}."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        found.update(_flat(section, config[section]) if section in config else ())
    return found


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name in _CONSEQUENCES:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    else:
        yield name, value


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose values differ, among those that have them, in the order in which they first stand."""
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if len({as_key(one[name]) for one in settings if name in one}) > 1]


def as_key(value: Any) -> str:
    """A setting's value as something to compare and sort by: 0.1 and "0.1" differ."""
    return json.dumps(value, sort_keys=True, default=str)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Every dotted name's last word, where no other ends in it; a part's own name stands for its `name`."""
    cut = {name: name.removesuffix(".name") if name.endswith(".name") else name.rpartition(".")[2] for name in names}
    taken = list(cut.values())
    return {name: short if taken.count(short) == 1 else name for name, short in cut.items()}


class ComparedSetting(Record, frozen=True, kw_only=True):
    """One setting over its seeds. The figures' values are in the order of `seeds`, that of every replicate of a run.

    `setting`: the settings in which the runs differ, by their short names; `density`: kept weights of the last level;
    `against`: the setting that `test_difference` and `val_difference` are from; `pairs`: seeds that both have, over
    which these are paired, 0: they have none, and the differences are Welch's.
    """

    setting: Settings
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    metric: str
    higher_is_better: bool
    density: Figure
    val_accuracy: Figure
    test_accuracy: Figure
    against: Settings | None = None
    pairs: int = 0
    test_difference: ArmDifference | None = None
    val_difference: ArmDifference | None = None

    @property
    def name(self) -> str:
        """As it is written: "density 0.1, lr 0.03"."""
        return setting_in_words(self.setting)


@dataclass(frozen=True)
class SearchRun:
    """A finished search: its run's name, its configuration, and what a sweep says of it, but for the seed."""

    run: str
    config: Mapping[str, Any]
    result: SearchResult
    named: Mapping[str, Any] = field(default_factory=dict)


def by_metric(found: Sequence[Measured], metric: Callable[[Measured], str]) -> list[list[Measured]]:
    """What shares a metric together, in the order of the first of each: tables and figures are in one unit."""
    groups: dict[str, list[Measured]] = {}
    for one in found:
        groups.setdefault(metric(one), []).append(one)
    return list(groups.values())


def compared(runs: Sequence[SearchRun], against: Mapping[str, Any] | None = None) -> tuple[ComparedSetting, ...]:
    """Every setting that occurs, in the order of the runs, with its difference from another.

    Args:
        runs: searches of one metric.
        against: some settings of the one to compare with, by short or dotted names: every setting is compared with the
            one that has these and otherwise its own, where there is one. None: with the first.
    """
    settings = [settings_of(run.config) for run in runs]
    short = short_names(differing(settings))
    grouped: dict[str, list[tuple[SearchRun, dict[str, Any]]]] = {}
    for run, own in zip(runs, settings, strict=True):
        # where all that finished are alike, only the sweep knows what else there was to be
        setting = {short[name]: own[name] for name in short if name in own} if short else dict(run.named)
        grouped.setdefault(as_key(setting), []).append((run, setting))
    found = [_setting([run for run, _ in group], group[0][1]) for group in grouped.values()]
    wanted = None if against is None else _renamed(against, short)
    return tuple(_contrast(one, found[0] if wanted is None else _counterpart(one, wanted, found)) for one in found)


def check_against(configs: Sequence[Mapping[str, Any]], against: Mapping[str, Any]) -> None:
    """TombolaError if `against` names what runs of these configurations do not differ in, or what none of them has."""
    settings = [settings_of(config) for config in configs]
    short = short_names(differing(settings))
    names = list(dict.fromkeys(short.values()))
    for name in against:
        if name not in short and name not in names:
            raise TombolaError(f"against: {unknown('setting', name, names or ['none'])}")
    wanted = _renamed(against, short)
    own = [{short[name]: one[name] for name in short if name in one} for one in settings]
    if not any(_has(one, wanted) for one in own):
        shown = list(dict.fromkeys(map(setting_in_words, own)))
        more = f"; and {len(shown) - 4} more" if len(shown) > 4 else ""
        raise TombolaError(
            f"against is {setting_in_words(wanted)}, which no run has; settings: {'; '.join(shown[:4])}{more}"
        )


def _renamed(against: Mapping[str, Any], short: Mapping[str, str]) -> dict[str, Any]:
    """The same by short names."""
    return {short.get(name, name): value for name, value in against.items()}


def _has(setting: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(name in setting and _same(setting[name], value) for name, value in wanted.items())


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same: 1 is 1.0, and as it is written what a command line gives as text."""
    return bool(one == other) or as_key(one) == as_key(other) or str(one) == str(other)


def _setting(runs: Sequence[SearchRun], setting: Mapping[str, Any]) -> ComparedSetting:
    rows = [(replicate.seed, replicate.levels[-1]) for run in runs for replicate in run.result.replicates]
    levels = [level for _, level in rows]
    first = runs[0].result
    return ComparedSetting(
        setting=dict(setting),
        runs=tuple(run.run for run in runs),
        seeds=tuple(seed for seed, _ in rows),
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        density=figure([level.density for level in levels]),
        val_accuracy=figure([level.val_accuracy for level in levels]),
        test_accuracy=figure([level.test_accuracy for level in levels]),
    )


def _counterpart(
    one: ComparedSetting, wanted: Mapping[str, Any], found: Sequence[ComparedSetting]
) -> ComparedSetting | None:
    """The setting that has what is wanted and otherwise one's own, or the only one that has what is wanted."""
    having = [other for other in found if _has(other.setting, wanted)]
    rest = {name: value for name, value in one.setting.items() if name not in wanted}
    exact = [other for other in having if _has(other.setting, rest)]
    return exact[0] if len(exact) == 1 else having[0] if len(having) == 1 else None


def _contrast(one: ComparedSetting, other: ComparedSetting | None) -> ComparedSetting:
    if other is None or other is one:
        return one
    shared = [seed for seed in one.seeds if seed is not None and seed in other.seeds]
    return one.replace(
        against=other.setting,
        pairs=len(shared),
        test_difference=_difference(one, other, shared, "test_accuracy"),
        val_difference=_difference(one, other, shared, "val_accuracy"),
    )


def _difference(one: ComparedSetting, other: ComparedSetting, shared: Sequence[int], name: str) -> ArmDifference | None:
    own, others = (dict(zip(side.seeds, getattr(side, name).values, strict=True)) for side in (one, other))
    changes = [
        mine - theirs for seed in shared if (mine := own[seed]) is not None and (theirs := others[seed]) is not None
    ]
    if changes:
        paired = figure(changes)
        return ArmDifference(difference=paired.mean, interval=paired.interval)
    first, second = getattr(one, name).known, getattr(other, name).known
    if shared or not first or not second:
        return None
    welch = difference(first, second)
    enough = min(len(first), len(second)) >= FEWEST_REPLICATES
    return ArmDifference(difference=welch.difference, interval=welch.interval if enough else None)


def best(settings: Sequence[ComparedSetting]) -> ComparedSetting | None:
    """The setting of the best mean validation metric; None where none is known."""
    known = [one for one in settings if one.val_accuracy.mean is not None]
    if not known:
        return None
    sign = 1 if known[0].higher_is_better else -1
    return max(known, key=lambda one: sign * (one.val_accuracy.mean or 0.0))


def levels_by_number(runs: Sequence[SearchRun]) -> dict[int, list[LevelResult]]:
    """The levels of the searches by their number, over runs and replicates."""
    found: dict[int, list[LevelResult]] = {}
    for run in runs:
        for replicate in run.result.replicates:
            for level in replicate.levels:
                found.setdefault(level.level, []).append(level)
    return found
