"""Means, differences, bounds and p-values over replicates (Student's t; Welch's for differences); Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from tombola.results.record import Figure

FEWEST_REPLICATES = 3
"""Fewer decide nothing, and get no interval in a study."""
ERROR_RATE = 0.05
"""Of a one-sided claim, and of all claims of one verdict together."""


@dataclass(frozen=True)
class ArmSpread:
    """What the replicates of one arm show: the variance of the arm's mean, and how many there are."""

    variance: float
    replicates: int


@dataclass(frozen=True)
class Difference:
    """Mean of one sample minus mean of another (or a mean alone), with its variance by source.

    `seeds`, `examples` and `interaction` add up to the variance of `difference`: they come from training seeds, from
    test examples, and from examples that one seed gets right and another does not. `test_examples` is None where only
    the variance from training seeds is known. Bounds and p-values are by Student's t with `freedom` degrees; they are
    None where there are too few values to know a variance. Bounds and intervals do not reach beyond `limits`, what is
    possible at all: shares of examples differ by no more than 1.
    """

    difference: float
    seeds: float | None
    examples: float = 0.0
    interaction: float = 0.0
    freedom: float = math.inf
    arms: tuple[ArmSpread, ...] = ()
    test_examples: int | None = None
    added: float = 0.0
    limits: tuple[float, float] = (-math.inf, math.inf)

    @property
    def error(self) -> float | None:
        """The standard error."""
        return None if self.seeds is None else math.sqrt(self.seeds + self.examples + self.interaction)

    @property
    def lower(self) -> float | None:
        """The one-sided 95 % lower bound."""
        return self.bound(ERROR_RATE)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two-sided 95 % interval."""
        if self.error is None:
            return None
        half = quantile(0.975, self.freedom) * self.error
        return within((self.difference - half, self.difference + half), self.limits)

    def bound(self, error_rate: float) -> float | None:
        """The one-sided lower bound that is wrong with probability `error_rate`."""
        if self.error is None:
            return None
        return max(self.difference - quantile(1 - error_rate, self.freedom) * self.error, self.limits[0])

    def p_value(self, threshold: float) -> float | None:
        """One-sided, of the hypothesis that the true difference is at most `threshold`."""
        if not self.error:  # unknown, or no spread at all, which tells nothing
            return None
        from scipy.special import stdtr

        return float(stdtr(self.freedom, (threshold - self.difference) / self.error))


@dataclass(frozen=True)
class Adjusted:
    """One claim among several: its Holm-adjusted p-value, and the error rate that it was tested at."""

    p_value: float
    error_rate: float


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """The two-sided t-interval of the mean; None with fewer than two values."""
    if len(values) < 2:
        return None
    half = quantile(0.5 + confidence / 2, len(values) - 1) * math.sqrt(variance(values) / len(values))
    mean = fmean(values)
    return mean - half, mean + half


def within(ends: tuple[float, float], limits: tuple[float, float]) -> tuple[float, float]:
    """An interval as far as it is possible at all."""
    return max(ends[0], limits[0]), min(ends[1], limits[1])


def figure(values: Sequence[float | None]) -> Figure:
    """Mean and 95 % t-interval over the replicates that have a value; None where too few have one."""
    known = [value for value in values if value is not None]
    bounds = interval(known) if len(known) >= FEWEST_REPLICATES else None
    return Figure(mean=fmean(known) if known else None, interval=bounds, values=tuple(values))


def difference(first: Sequence[float], second: Sequence[float], step: float = 0.0) -> Difference:
    """`first` minus `second` by Welch's t (unequal variances, Welch-Satterthwaite degrees of freedom).

    `step`: values are known to within so much. A sample's variance is then at least that of rounding, step^2 / 12
    (Sheppard), so that equal values are not taken for exact ones.
    """
    mean = fmean(first) - fmean(second)
    if len(first) < 2 or len(second) < 2:
        return Difference(mean, None)
    min_variance = step**2 / 12
    arms = tuple(ArmSpread(max(variance(part), min_variance) / len(part), len(part)) for part in (first, second))
    total = sum(arm.variance for arm in arms)
    freedom = satterthwaite(total, [(arm.variance, arm.replicates - 1) for arm in arms])
    return Difference(mean, total, freedom=freedom, arms=arms)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The mean of `first[i] - second[i]` by Student's t: replicate i of both shares a seed."""
    changes = [a - b for a, b in zip(first, second, strict=True)]
    if len(changes) < 2:
        return Difference(fmean(changes), None)
    spread = ArmSpread(variance(changes) / len(changes), len(changes))
    return Difference(fmean(changes), spread.variance, freedom=len(changes) - 1, arms=(spread,))


def satterthwaite(total: float, parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a variance `total` from (part, its degrees of freedom) (Satterthwaite 1946)."""
    spread = sum(part**2 / freedom for part, freedom in parts)
    return total**2 / spread if spread > 0 else math.inf


def holm(p_values: Mapping[str, float], error_rate: float = ERROR_RATE) -> dict[str, Adjusted]:
    """Holm's step-down correction (1979): with probability 1 - `error_rate` no false claim is made among all.

    The k-th smallest of m p-values is tested at error_rate / (m - k + 1), until one fails; the rest fail with it, at
    the rate where that happened. So a claim is made exactly if its p-value is at most its own `error_rate`.
    """
    claims: dict[str, Adjusted] = {}
    adjusted, share = 0.0, len(p_values)
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        adjusted = max(adjusted, min(1.0, (len(p_values) - rank) * p_values[name]))
        claims[name] = Adjusted(adjusted, error_rate / share)
        if adjusted <= error_rate:
            share -= 1
    return {name: claims[name] for name in p_values}


def quantile(probability: float, freedom: float = math.inf) -> float:
    """The quantile of Student's t (of the normal, with infinite degrees of freedom)."""
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(freedom) else stdtrit(freedom, probability))
