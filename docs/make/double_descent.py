"""docs/double-descent.md: random features, networks over their width and forests on MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pages import Claim, Table
from results import record
from tombola.formats import number, significant
from tombola.results.statistics import interval

STUDY = "mnist-double-descent"
CURVES = {
    "rff": "double-descent-rff",
    "width-noise-20": "double-descent-width",
    "width-noise-0": "double-descent-width-clean",
    "forest": "double-descent-forest",
}


def tables() -> Iterator[Table]:
    for name, table in CURVES.items():
        yield Table(table, list(rows(record(STUDY, f"{name}.json"))))


def claims() -> Iterator[Claim]:
    return iter(())


def rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for every size of every series: errors in percent, half of the 95 % t-interval behind the mean."""
    forest = result["curve_kind"] == "forest"
    size = ("trees × leaves", "leaves in all") if forest else (result["axis"],)
    norm = () if forest else ("norm",)
    yield *size, "over threshold", "training loss", "test loss", "training error (%)", "test error (%)", *norm
    for point in result["curve"]:
        at = point[result["axis"]]
        grown = (f"{point['trees']} × {number(point['leaves'], 0)}",) if forest else ()
        cells = (
            *(_loss(point["values"][name]) for name in ("train_loss", "test_loss")),
            *(_percent(point["values"][name]) for name in ("train_error", "test_error")),
            *(_loss(point["values"][name]) for name in norm),
        )
        yield *grown, number(at, 0), number(at / result["threshold"], 2), *cells


def _half(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its interval."""
    low, high = interval(values) or (0.0, 0.0)
    return (low + high) / 2, (high - low) / 2


def _loss(values: Sequence[float]) -> str:
    mean, half = _half(values)
    return "< 1e−9" if mean < 1e-9 else f"{significant(mean, 3)} ± {significant(half, 2)}"


def _percent(values: Sequence[float]) -> str:
    mean, half = _half(values)
    return f"{number(100 * mean, 1)} ± {number(100 * half, 1)}"
