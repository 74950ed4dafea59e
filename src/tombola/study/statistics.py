"""Means, intervals and bounds over replicates (Student's t; Welch's for differences)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

FEWEST_REPLICATES = 3
"""Fewer decide nothing, and get no interval in a study."""


@dataclass(frozen=True)
class Difference:
    """Mean of one sample minus mean of another, with confidence limits.

    `lower` is the one-sided 95 % lower bound; `interval` the two-sided 95 % interval. Both are None with fewer
    than two values in a sample.
    """

    difference: float
    lower: float | None
    interval: tuple[float, float] | None


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The two-sided t-interval of the mean; None with fewer than two values."""
    if len(values) < 2:
        return None
    half = _quantile(0.5 + confidence / 2, len(values) - 1) * math.sqrt(variance(values) / len(values))
    mean = fmean(values)
    return mean - half, mean + half


def figure(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and 95 % t-interval over the replicates that have a value, as JSON; null where too few have one."""
    known = [value for value in values if value is not None]
    bounds = interval(known) if len(known) >= FEWEST_REPLICATES else None
    return {
        "mean": fmean(known) if known else None,
        "interval": list(bounds) if bounds else None,
        "values": list(values),
    }


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """`first` minus `second` by Welch's t (unequal variances, Welch-Satterthwaite degrees of freedom)."""
    mean = fmean(first) - fmean(second)
    if len(first) < 2 or len(second) < 2:
        return Difference(mean, None, None)
    parts = [(variance(sample) / len(sample), len(sample) - 1) for sample in (first, second)]
    total = sum(part for part, _ in parts)
    if total == 0.0:
        return Difference(mean, mean, (mean, mean))
    freedom = total**2 / sum(part**2 / count for part, count in parts)
    error = math.sqrt(total)
    half = _quantile(0.975, freedom) * error
    return Difference(mean, mean - _quantile(0.95, freedom) * error, (mean - half, mean + half))


def _quantile(probability: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(probability, freedom))
