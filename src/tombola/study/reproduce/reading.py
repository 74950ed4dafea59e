"""Values read out of results of any kind: by arm, density, level and column, or by a path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tombola.errors import TombolaError
from tombola.names import unknown
from tombola.results.codec import typed
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.search import TICKET, SearchResult
from tombola.results.trial import LevelResult
from tombola.study.reproduce.definition import Place

DENSE = "dense"


@dataclass(frozen=True)
class Sample:
    """A value per replicate, and which weights each began with (None: not known)."""

    values: tuple[float | None, ...]
    origins: tuple[str | None, ...]

    def paired_with(self, other: Sample) -> bool:
        """Whether replicate i of both began with the same weights."""
        return None not in self.origins and self.origins == other.origins


def sample(results: Sequence[Mapping[str, Any]], place: Place) -> Sample:
    """What stands at a place, in the results of a run's repeats one after the other.

    Raises:
        TombolaError: there is nothing there.
    """
    parts = [_sample(result, place, number) for number, result in enumerate(results)]
    return Sample(
        tuple(value for part in parts for value in part.values),
        tuple(origin for part in parts for origin in part.origins),
    )


def _sample(result: Mapping[str, Any], place: Place, number: int) -> Sample:
    if place.path is not None:
        values = _numbers(_at(result, place.path), place.path)
        return Sample(values, tuple(f"{number}-{at}" for at in range(len(values))))
    kind = result.get("kind")
    if kind not in _READERS:
        raise TombolaError(f"{place.words}: results of kind {kind!r} have no arms that could be named; give a path")
    levels, origins = _READERS[kind](result, place)
    return Sample(tuple(_value(level, place) for level in levels), origins)


def _value(level: LevelResult, place: Place) -> float | None:
    value, other = (None if name is None else column(level, name) for name in (place.column, place.minus))
    if place.minus is None:
        return value
    return None if value is None or other is None else value - other


def column(level: LevelResult, name: str) -> float | None:
    """A figure of a network, "channels.drawn" of what it holds; an early stop that was not observed is not known."""
    if name in ("early_stop_iteration", "test_accuracy_early_stop") and not level.early_stop_observed:
        return None
    value: Any = level
    for field in name.split("."):
        fields = getattr(value, "__struct_fields__", ())
        if value is not None and field not in fields:
            raise TombolaError(unknown("column", name, fields))
        value = getattr(value, field, None)
    if value is not None and not isinstance(value, int | float):
        raise TombolaError(f"column {name} holds no number, but {type(value).__name__}")
    return value


def check_place(place: Place, arms: Mapping[str, str]) -> None:
    """TombolaError if a place names an arm, or a family of them, that a result with these arms does not have.

    `arms`: name -> the family that it is in.
    """
    if place.arm is not None and place.arm not in arms:
        raise TombolaError(unknown("arm", place.arm, arms))
    if place.family is not None and place.family not in arms.values():
        raise TombolaError(unknown("family", place.family, dict.fromkeys(arms.values())))


# ---- results whose networks have names ---------------------------------------------------------------------------

_Found = tuple[list[LevelResult], tuple[str | None, ...]]


def _compared(content: Mapping[str, Any], place: Place) -> _Found:
    result = typed(ComparisonResult, content, Path("result.json"))
    arm = arm_of(result, place)
    return [_level(levels, place) for levels in arm.replicates], arm.origins


def arm_of(result: ComparisonResult, place: Place) -> ComparedArm:
    """The arm that a place names: by itself, or the nearest one on a curve.

    Raises:
        TombolaError: there is none.
    """
    if place.family is None:
        found = [arm for arm in result.arms if arm.name == place.arm]
        if not found:
            raise TombolaError(unknown("arm", str(place.arm), [arm.name for arm in result.arms]))
        return found[0]
    curve = result.families.get(place.family)
    if curve is None:
        raise TombolaError(unknown("family", place.family, result.families))
    if isinstance(place.density, float):
        wanted = place.density
        return min(curve, key=lambda arm: abs(arm.plotted - wanted))
    sign = 1 if result.higher_is_better else -1
    return max(curve, key=lambda arm: sign * fmean(arm.val_accuracy.known or (-sign * float("inf"),)))


def _level(levels: Sequence[LevelResult], place: Place) -> LevelResult:
    if place.level is None:
        return levels[-1]
    found = [level for level in levels if level.level == place.level]
    if not found:
        raise TombolaError(unknown("level", str(place.level), [str(level.level) for level in levels]))
    return found[0]


def _searched(content: Mapping[str, Any], place: Place) -> _Found:
    result = typed(SearchResult, content, Path("result.json"))
    levels, origins = [], list[str | None]()
    for replicate in result.replicates:
        if place.arm == DENSE:
            levels.append(replicate.levels[0])
        elif place.arm in replicate.arms:
            levels.append(_nearest(replicate.arms[str(place.arm)], place))
        else:
            raise TombolaError(unknown("arm", str(place.arm), [*replicate.arms, DENSE]))
        own = place.arm in (TICKET, DENSE)  # controls draw their own weights or masks
        origins.append(f"{result.run}-{replicate.replicate}" if own else None)
    return levels, tuple(origins)


def _nearest(levels: Sequence[LevelResult], place: Place) -> LevelResult:
    if not isinstance(place.density, float):
        return _level(levels, place)
    wanted = place.density
    return min(levels, key=lambda level: abs(level.density - wanted))


_READERS: Mapping[Any, Callable[[Mapping[str, Any], Place], _Found]] = {"study": _compared, "find": _searched}

# ---- paths -------------------------------------------------------------------------------------------------------

_STEP = re.compile(r"(?P<key>\w+)|\[(?P<index>-?\d+)\]|\[(?P<where>\w+=[^\]]+)\]|(?P<dot>\.)")


def _at(content: Any, path: str) -> Any:
    """What lies at a path: keys with dots between them, [index], or [key=value,key=value] for an entry of a list."""
    for step in _steps(path):
        try:
            if step["key"] is not None:
                content = content[step["key"]]
            elif step["index"] is not None:
                content = content[int(step["index"])]
            else:
                content = _entry(content, step["where"])
        except (KeyError, IndexError, TypeError, ValueError):
            there = f"; there are {', '.join(map(str, content))}" if isinstance(content, Mapping) else ""
            raise TombolaError(f"path {path}: {step[0]} leads nowhere{there}") from None
    return content


def _steps(path: str) -> Iterator[re.Match[str]]:
    end = 0
    for step in _STEP.finditer(path):
        if step.start() != end:
            break
        end = step.end()
        if step["dot"] is None:
            yield step
    if end != len(path):
        raise TombolaError(f"path {path} is not readable from {path[end:]!r} on; write e.g. curve[features=500].norm")


def _entry(entries: Sequence[Mapping[str, Any]], where: str) -> Mapping[str, Any]:
    """The first entry with those values, one after the other; of numbers the nearest."""
    for condition in where.split(","):
        key, _, value = condition.partition("=")
        exact = [entry for entry in entries if str(entry[key]) == value]
        entries = exact or [min(entries, key=partial(_distance, key, float(value)))]
    return entries[0]


def _distance(key: str, value: float, entry: Mapping[str, Any]) -> float:
    return abs(float(entry[key]) - value)


def _numbers(found: Any, path: str) -> tuple[float | None, ...]:
    """A number, a list of them, or a figure over replicates, as a tuple."""
    if isinstance(found, Mapping) and "values" in found:
        found = found["values"]
    values = found if isinstance(found, list | tuple) else [found]
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in values):
        raise TombolaError(f"path {path} leads to {type(found).__name__}, but it must lead to numbers")
    return tuple(values)
