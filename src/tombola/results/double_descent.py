"""What a curve of double descent gave: errors and losses of models of growing size, its peak and its threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from msgspec import field
from msgspec.structs import asdict

from tombola.results.measurement import Measurement
from tombola.results.record import Count, Figure, Fraction, Interval, Record, Settings
from tombola.results.statistics import figure

Axis = Literal["features", "parameters", "density"]
MEASURES = ("train_loss", "test_loss", "train_error", "test_error", "norm", "memorised", "distance")
"""What is measured of every model."""


KIND_TITLES: Mapping[str, str] = {
    "rff": "random Fourier features",
    "relu": "random ReLU features",
    "width": "networks over their width",
    "forest": "random forests",
    "density": "networks over their density",
}
"""The kinds of curve in words."""
LEAVES = ("leaf", "leaves")
"""What a forest has for parameters."""


class DescentFit(Record, frozen=True, kw_only=True):
    """One model, fitted once. None: there is no such number, or it is not finite.

    Its size is given by `features`, `parameters` or `density`, whichever the curve is over; `leaves` and `trees` are
    those of a forest. `series`: which curve of several it lies on. Losses are means over examples of the task's loss
    (squared loss: summed over the outputs), errors the share of examples that are classified wrongly, `norm` the
    Euclidean norm of the coefficients or weights. Of networks also `memorised`, the share of mislabelled training
    examples that get their wrong label, and `distance`, the Euclidean norm of how training changed the parameters.
    """

    series: str = ""
    features: Count | None = None
    parameters: Count | None = None
    density: Fraction | None = None
    leaves: Count | None = None
    trees: Count | None = None
    train_loss: float | None
    test_loss: float | None
    train_error: float | None
    test_error: float | None
    norm: float | None
    memorised: float | None = None
    distance: float | None = None

    def size(self, axis: Axis) -> float:
        """Where it lies on the axis."""
        value = {"features": self.features, "parameters": self.parameters, "density": self.density}[axis]
        return math.nan if value is None else float(value)


class DescentPoint(DescentFit, frozen=True, kw_only=True):
    """The replicates of one model as one: measures are means, `intervals` their 95 % t-intervals from 3 replicates on.

    `values`: every measure of every replicate.
    """

    intervals: dict[str, Interval] = field(default_factory=dict)
    values: dict[str, tuple[float | None, ...]] = field(default_factory=dict)

    def figure(self, measure: str) -> Figure:
        """A measure with its interval and the values of the replicates."""
        return figure(self.values.get(measure, ()))


class Phase(Record, frozen=True, kw_only=True):
    """A stretch of a curve over density, both ends included; None where it is not seen."""

    name: str
    densest: Fraction | None
    sparsest: Fraction | None

    def has(self, density: float) -> bool:
        """Whether a point of that density lies in it."""
        return self.densest is not None and self.sparsest is not None and self.sparsest <= density <= self.densest


class DescentResult(Measurement, frozen=True, kw_only=True, tag_field="kind", tag="double-descent"):
    """A curve of double descent.

    `curve_kind`: what grows (rff, width, ...); `axis`: by which of its fields a point lies where it lies. `peak`: the
    size at which the mean of `peak_of` has its peak, None where there is none inside the curve; `threshold`: the size
    from which on a model can fit all training examples, None where that is not known. Both are of the first series.
    `settings`: the options with everything that was left open filled in. `examples`, `outputs`: n and K.
    `phases`: of the first series, of kinds that mark them.
    """

    curve_kind: str
    axis: Axis
    loss: str
    examples: Count
    outputs: Count
    seeds: tuple[int, ...]
    settings: Settings
    curve: tuple[DescentPoint, ...]
    peak: float | None
    peak_of: str
    threshold: float | None
    phases: tuple[Phase, ...] = ()

    @property
    def subtitle(self) -> str:
        """One line on what was measured."""
        return " · ".join(part for part in ("double descent", self.title, self.model, self.data) if part)

    @property
    def title(self) -> str:
        """What grows, in words."""
        return KIND_TITLES.get(self.curve_kind, self.curve_kind)

    @property
    def unit(self) -> tuple[str, str]:
        """What sizes count: one, several."""
        return unit_of(self.curve_kind, self.axis)

    @property
    def series(self) -> dict[str, tuple[DescentPoint, ...]]:
        """The points of every series, in the order of the curve."""
        names = dict.fromkeys(point.series for point in self.curve)
        return {name: tuple(point for point in self.curve if point.series == name) for name in names}


def unit_of(kind: str, axis: Axis) -> tuple[str, str]:
    """What the sizes of a kind's models count: ("feature", "features"), ("leaf", "leaves")."""
    if axis == "density":
        return "of the weights", "of the weights"
    return LEAVES if kind == "forest" else (axis.removesuffix("s"), axis)


def over_replicates(fits: Iterable[DescentFit]) -> tuple[DescentPoint, ...]:
    """The fits of all replicates as points, in the order of their first appearance."""
    groups: dict[tuple[object, ...], list[DescentFit]] = {}
    for fit in fits:
        groups.setdefault(_place(fit), []).append(fit)
    return tuple(_point(group) for group in groups.values())


def _place(fit: DescentFit) -> tuple[object, ...]:
    """What its replicates share; forests of as many trees and leaves at most have leaves of their own number."""
    parameters = fit.parameters if fit.trees is None else None
    return fit.series, fit.features, parameters, fit.density, fit.leaves, fit.trees


def _point(fits: Sequence[DescentFit]) -> DescentPoint:
    values = {name: tuple(finite(getattr(fit, name)) for fit in fits) for name in MEASURES}
    figures = {name: figure(given) for name, given in values.items()}
    place: dict[str, Any] = {name: value for name, value in asdict(fits[0]).items() if name not in MEASURES}
    if fits[0].parameters is not None:
        place["parameters"] = round(fmean(fit.parameters or 0 for fit in fits))
    means: dict[str, Any] = {name: _mean(given) for name, given in values.items()}
    return DescentPoint(
        **place,
        **means,
        intervals={name: one.interval for name, one in figures.items() if one.interval is not None},
        values=values,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def finite(value: float | None) -> float | None:
    """The value; None where it is none or not finite, which JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def peak_of(sizes: Sequence[float], values: Sequence[float | None]) -> float | None:
    """The size of the most prominent maximum inside a curve (not at its ends); None where there is none.

    A maximum's prominence is its height above the higher of the two lowest points between it and what is higher on
    either side (or the end of the curve).
    """
    order = sorted((size, value) for size, value in zip(sizes, values, strict=True) if value is not None)
    at = prominent_peak([value for _, value in order])
    return None if at is None else order[at][0]


def prominent_peak(heights: Sequence[float], least: float = 0.0) -> int | None:
    """Where the most prominent maximum inside a curve lies, the last of equal ones; None where no prominence is above
    `least`."""
    inside = [(_prominence(heights, at), at) for at in range(1, len(heights) - 1)]
    best = max(inside, default=(0.0, 0))
    return best[1] if best[0] > least else None


def _prominence(heights: Sequence[float], at: int) -> float:
    """0 for what is no maximum."""
    height = heights[at]
    lowest = []
    for side in (heights[at - 1 :: -1], heights[at + 1 :]):
        floor = height
        for value in side:
            if value > height:
                break
            floor = min(floor, value)
        lowest.append(floor)
    return height - max(lowest)
