"""The committed results as plain tables, and the statistics that the pages are written with."""

from __future__ import annotations

import base64
import csv
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tombola.formats import number
from tombola.results.crossed import Sample, crossed_difference, crossed_paired
from tombola.results.statistics import Difference, difference, interval, paired_difference

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS / "results"

Row = dict[str, str]
Outcomes: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Networks:
    """One study's networks.csv: one row for each trained network."""

    rows: tuple[Row, ...]

    def where(self, **wanted: object) -> Networks:
        """The rows whose columns are as given, compared as text."""
        kept = [row for row in self.rows if all(row[key] == str(value) for key, value in wanted.items())]
        return Networks(tuple(kept))

    def last_levels(self) -> Networks:
        """Of each arm and replicate the row of its last level."""
        last: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            last[row["arm"], row["replicate"]] = row
        return Networks(tuple(last.values()))

    def values(self, column: str) -> list[float]:
        """The column's numbers in the order of the replicates; rows without one are left out."""
        return [float(row[column]) for row in self.rows if row[column] != ""]

    def arms(self) -> list[str]:
        return list(dict.fromkeys(row["arm"] for row in self.rows))


@cache
def networks(study: str, name: str = "networks.csv") -> Networks:
    """A table of docs/results/`study`."""
    with (RESULTS / study / name).open(newline="", encoding="utf-8") as file:
        return Networks(tuple(csv.DictReader(file)))


def arm(study: str, name: str, column: str = "test_accuracy") -> list[float]:
    """The last level's values of one arm over its replicates."""
    found = networks(study).last_levels().where(arm=name).values(column)
    if not found:
        raise LookupError(f"{study} has no {column} of an arm {name!r}")
    return found


@cache
def outcomes(study: str, **wanted: object) -> Outcomes | None:
    """Whether each test example came out right, (networks, examples); None where the study did not keep it."""
    if not (RESULTS / study / "outcomes.csv").exists():
        return None
    rows = networks(study, "outcomes.csv").where(**wanted).rows
    if not rows:
        raise LookupError(f"{study} has no outcomes of {wanted}")
    return np.stack([unpacked(row["correct"], int(row["examples"])) for row in rows])


def unpacked(text: str, examples: int) -> Outcomes:
    """What `collect.packed` made text of."""
    bits = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
    return np.unpackbits(bits, count=examples).astype(bool)


def contrast(study: str, first: str, second: str, column: str = "test_accuracy") -> Difference:
    """One arm minus another, paired where all replicates began with the same weights, as in the study's comparisons.

    Of test accuracies whose outcomes the study kept, the interval covers training seeds and test examples; of other
    figures training seeds alone (Student's t where paired, Welch's where not).
    """
    arms = [networks(study).last_levels().where(arm=name) for name in (first, second)]
    starts = [[row.get("origin") for row in found.rows] for found in arms]
    alike = None not in starts[0] and starts[0] == starts[1]
    right = [outcomes(study, arm=found.rows[0]["arm"], level=found.rows[0]["level"]) for found in arms]
    if column == "test_accuracy" and right[0] is not None and right[1] is not None:
        return crossed(right[0], right[1], alike)
    a, b = (found.values(column) for found in arms)
    return paired(a, b, alike)


def crossed(first: Outcomes, second: Outcomes, same_starts: bool) -> Difference:
    """Over training seeds and test examples."""
    if same_starts:
        return crossed_paired(first, second)
    return crossed_difference(Sample.of(first), Sample.of(second))


def paired(first: Sequence[float], second: Sequence[float], same_starts: bool) -> Difference:
    """`first` - `second`, replicate by replicate where these have the same start; training seeds alone."""
    return paired_difference(first, second) if same_starts else difference(first, second)


def turned(found: Difference) -> Difference:
    """The second arm minus the first."""
    return replace(found, difference=-found.difference)


def sign(found: Difference) -> int:
    """1 or -1 where the interval leaves out 0, else 0."""
    assert found.interval is not None
    return 1 if found.interval[0] > 0 else -1 if found.interval[1] < 0 else 0


@cache
def record(study: str, name: str) -> Any:
    """A JSON file of docs/results/`study`."""
    return json.loads((RESULTS / study / name).read_text(encoding="utf-8"))


def processors() -> Iterator[Path]:
    """The folders of benchmark records, one for each processor."""
    return (folder for folder in sorted((RESULTS / "benchmarks").iterdir()) if folder.is_dir())


# ---- how numbers are written ------------------------------------------------------------------------------------


def percent(density: float) -> str:
    """A density: 21.07 %."""
    return f"{100 * density:.2f} %"


def mean_percent(values: Sequence[float], digits: int = 2) -> str:
    """The mean alone, in percent."""
    return number(100 * fmean(values), digits)


def spread(values: Sequence[float], factor: float = 100, digits: int = 2) -> str:
    """Mean ± half of the 95 % t-interval; the mean alone of fewer than three values."""
    mean = number(factor * fmean(values), digits)
    ends = interval(values) if len(values) >= 3 else None
    return mean if ends is None else f"{mean} ± {number(factor * (ends[1] - ends[0]) / 2, digits)}"


def ends(found: Difference, factor: float = 100, digits: int = 2) -> str:
    """low to high of a difference's two-sided interval."""
    assert found.interval is not None
    low, high = (number(factor * end, digits, sign=True) for end in found.interval)
    return f"{low} to {high}"


def gap(first: Sequence[float], second: Sequence[float], factor: float = 100, digits: int = 2) -> str:
    """first - second: +0.61 (95 %: +0.31 to +0.92)."""
    found = difference(first, second)
    return f"{number(factor * found.difference, digits, sign=True)} (95 %: {ends(found, factor, digits)})"


def points(first: Sequence[float], second: Sequence[float], sign: bool = True) -> str:
    """first - second in points."""
    return number(100 * (fmean(first) - fmean(second)), 2, sign=sign)


def behind(first: Sequence[float], second: Sequence[float]) -> str:
    """How many points the first is behind the second, without a sign."""
    return points(second, first, sign=False)


def difference_sign(first: Sequence[float], second: Sequence[float]) -> int:
    """1 or -1 where the 95 % interval of first - second leaves out 0, else 0."""
    return sign(difference(first, second))
