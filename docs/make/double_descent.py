"""docs/double-descent.md: random features, networks over their width and forests on MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from pages import Claim, Table
from results import record
from tombola.formats import number, significant
from tombola.results.statistics import interval

PAGE = "docs/double-descent.md"
STUDY = "mnist-double-descent"
CURVES = {
    "rff": "double-descent-rff",
    "rff-10000": "double-descent-rff-10000",
    "width-noise-20": "double-descent-width",
    "width-noise-0": "double-descent-width-clean",
    "forest": "double-descent-forest",
}


def tables() -> Iterator[Table]:
    for name, table in CURVES.items():
        yield Table(table, list(rows(record(STUDY, f"{name}.json"))))


def claims() -> Iterator[Claim]:
    large = record(STUDY, "rff-10000.json")
    errors = {point["features"]: fmean(point["values"]["test_error"]) for point in large["curve"]}
    at = {"quarter": 2500, "peak": 10_000, "six": 60_000}
    yield Claim(
        PAGE,
        "of the test digits {quarter} % are wrong at a quarter of the threshold, {peak} % at it and {six} % at six "
        "times",
        {name: number(100 * errors[features], 1) for name, features in at.items()},
        large["peak"] == large["threshold"] == 10_000,
    )


MANY = 15
"""Of more sizes the page shows every second one, counted from the threshold; the figure and the record have all."""


def shown(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The points of a curve that the page has room for: of every series first, last, nearest to the threshold."""
    curve, axis = result["curve"], result["axis"]
    for series in dict.fromkeys(point.get("series") for point in curve):
        own = [point for point in curve if point.get("series") == series]
        middle = min(range(len(own)), key=lambda at: abs(own[at][axis] - result["threshold"]))
        for at, point in enumerate(own):
            if len(curve) <= MANY or at in (0, len(own) - 1) or (at - middle) % 2 == 0:
                yield point


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for every size that is shown: errors in percent, half of the 95 % t-interval behind the mean."""
    forest = result["curve_kind"] == "forest"
    size = ("trees × leaves", "leaves in all") if forest else (result["axis"],)
    norm = () if forest else ("norm",)
    yield *size, "over threshold", "training loss", "test loss", "training error (%)", "test error (%)", *norm
    for point in shown(result):
        at = point[result["axis"]]
        grown = (f"{point['trees']} × {number(point['leaves'], 0)}",) if forest else ()
        cells = (
            *(_loss(point["values"][name]) for name in ("train_loss", "test_loss")),
            *(_percent(point["values"][name]) for name in ("train_error", "test_error")),
            *(_loss(point["values"][name]) for name in norm),
        )
        yield *grown, number(at, 0), number(at / result["threshold"], 2), *cells


def _half(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its interval; None of fewer than three values."""
    ends = interval(values) if len(values) >= 3 else None
    return fmean(values), None if ends is None else (ends[1] - ends[0]) / 2


def _loss(values: Sequence[float]) -> str:
    mean, half = _half(values)
    spread = "" if half is None else f" ± {significant(half, 2)}"
    return "< 1e−9" if mean < 1e-9 else f"{significant(mean, 3)}{spread}"


def _percent(values: Sequence[float]) -> str:
    mean, half = _half(values)
    return number(100 * mean, 1) + ("" if half is None else f" ± {number(100 * half, 1)}")
