"""Numbers over replicates: means, intervals, and curves from the training logs."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tombola.results.cost import begins_at
from tombola.results.search import SearchResult
from tombola.results.statistics import FEWEST_REPLICATES, interval
from tombola.results.trial import LayerResult, LevelResult
from tombola.runs.integrity import Damaged, read_file

Reading = Callable[[LevelResult], float | None]


@dataclass(frozen=True)
class Spread:
    """``n`` values: mean, minimum and maximum, and the 95 % t-interval of the mean.

    The interval is None for fewer than 3 values.
    """

    n: int
    mean: float
    low: float
    high: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Point:
    """One level of one arm over replicates.

    ``density``, ``kept`` and ``total`` are means; ``complete`` is False if some of the replicates that
    reached the level have no value (such as an early stop that was not observable).
    """

    level: int
    density: float
    kept: float | None
    total: float | None
    spread: Spread
    complete: bool = True


@dataclass(frozen=True)
class Curve:
    """A quantity against the iteration: mean, minimum and maximum over the logs that reach each iteration."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int


def spread(values: Iterable[float]) -> Spread | None:
    """Summary of the values; None where there are none. The interval is mean ± t(0.975, n-1)·s/sqrt(n)."""
    known = tuple(values)
    if not known:
        return None
    enough = len(known) >= FEWEST_REPLICATES
    return Spread(len(known), fmean(known), min(known), max(known), interval(known) if enough else None)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def levels_of(find: SearchResult, arm: str) -> dict[int, list[LevelResult]]:
    """Levels of an arm by number, over replicates, from dense to sparse."""
    grouped: dict[int, list[LevelResult]] = defaultdict(list)
    for replicate in find.replicates:
        for level in replicate.arms.get(arm, ()):
            grouped[level.level].append(level)
    return dict(sorted(grouped.items()))


def points(find: SearchResult, arm: str, reading: Reading) -> tuple[Point, ...]:
    """One point per level at which at least one replicate has a value."""
    series = []
    for number, levels in levels_of(find, arm).items():
        read = [reading(level) for level in levels]
        summary = spread(value for value in read if value is not None)
        if summary is None:
            continue
        density = math.fsum(level.density for level in levels) / len(levels)
        kept, total = _mean(level.kept for level in levels), _mean(level.total for level in levels)
        series.append(Point(number, density, kept, total, summary, None not in read))
    return tuple(series)


def over_density(find: SearchResult, arm: str, reading: Reading) -> tuple[Point, ...]:
    """The points of a curve over density.

    Of several levels that keep the same, such as a mask that is learned first and its weights trained then, the last.
    An unpruned network whose training was stopped, where the others were trained to the end, is no point of the curve.
    """
    levels = [level for grouped in levels_of(find, arm).values() for level in grouped]
    alone = all(level.is_unpruned for level in levels if level.stopped is not None)
    cut = {level.level for level in levels if level.is_unpruned and level.stopped is not None} if alone else set()
    last = {point.density: point for point in points(find, arm, reading) if point.level not in cut}
    return tuple(sorted(last.values(), key=lambda point: point.level))


def sparsest(tickets: Sequence[Point]) -> Point:
    """That of the lowest density; of several the last, such as the one whose weights were trained under the mask."""
    return min(tickets, key=lambda point: (point.density, -point.level))


def stopped_early(find: SearchResult, number: int) -> bool:
    """Whether the training of a level's network was stopped, in at least one replicate."""
    return any(level.stopped is not None for level in levels_of(find, "ticket").get(number, ()))


def observed_stop(level: LevelResult) -> float | None:
    """The early-stop iteration, or None where the minimum was not observable at this length."""
    return float(level.early_stop_iteration or 0) if level.early_stop_observed else None


def layer_densities(find: SearchResult, number: int) -> tuple[LayerResult, ...]:
    """Counts per layer of the tickets of a level, summed over replicates; in the order of the model."""
    kept: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for level in levels_of(find, "ticket").get(number, []):
        for layer in level.layers:
            kept[layer.name] += layer.kept
            total[layer.name] += layer.total
    return tuple(LayerResult(name=name, kept=kept[name], total=total[name]) for name in total)


def pick(numbers: Sequence[int], max_count: int) -> tuple[int, ...]:
    """At most ``max_count`` of the numbers, evenly spaced, including first and last."""
    if len(numbers) <= max_count:
        return tuple(numbers)
    last = len(numbers) - 1
    return tuple(dict.fromkeys(numbers[round(i * last / (max_count - 1))] for i in range(max_count)))


def read_log(path: Path, column: str) -> dict[int, float]:
    """``column`` of a metrics.csv by step; incomplete rows are skipped."""
    series: dict[int, float] = {}
    try:
        text = (read_file(path) or b"").decode(errors="replace")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            try:
                step, value = int(float(row["step"])), float(row[column])
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
            if math.isfinite(value):
                series[step] = value
    except (Damaged, csv.Error):
        return {}
    return series


def curve(logs: Iterable[str], column: str) -> Curve | None:
    """The curve over several logs, as :func:`merged` gives it."""
    return merged(read_log(Path(log), column) for log in logs if log)


def joined_log(levels: Sequence[LevelResult], column: str) -> dict[int, float]:
    """``column`` by step over levels trained one after the other, with steps counted from the start of the first.

    Levels that tried masks and trained nothing are left out.
    """
    levels = [level for level in levels if not level.tried_masks]
    series: dict[int, float] = {}
    before = 0
    for level, begun in zip(levels, begins_at(levels), strict=True):
        log = read_log(Path(level.metrics), column) if level.metrics else {}
        for step, value in log.items():
            series.setdefault(before + step - begun, value)
        before += (level.steps or max(log, default=0)) - begun
    return series


def merged(logs: Iterable[Mapping[int, float]]) -> Curve | None:
    """The curve over several series by step; None where there is no value at all.

    An iteration is drawn if as many series reach it as reach any other, so that the mean does not jump where a
    shorter one ends.
    """
    values_at: dict[int, list[float]] = defaultdict(list)
    for log in logs:
        for step, value in log.items():
            values_at[step].append(value)
    n = max(map(len, values_at.values()), default=0)
    steps = tuple(step for step in sorted(values_at) if len(values_at[step]) == n)
    if not steps:
        return None
    return Curve(
        steps,
        tuple(math.fsum(values_at[s]) / n for s in steps),
        tuple(min(values_at[s]) for s in steps),
        tuple(max(values_at[s]) for s in steps),
        n,
    )
