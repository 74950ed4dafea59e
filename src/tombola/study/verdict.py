"""The verdict on a ticket, from its arms' figures: exactly as defined, undecided where it cannot be known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.results.crossed import Sample, crossed_difference, crossed_mean
from tombola.results.statistics import (
    ERROR_RATE,
    FEWEST_REPLICATES,
    Adjusted,
    Difference,
    difference,
    holm,
    interval,
    within,
)
from tombola.results.verification import (
    SEEDS,
    SEEDS_AND_EXAMPLES,
    ArmResult,
    BoundAlone,
    ClaimResult,
    SeedsAlone,
    SpeedResult,
    VarianceBySource,
    Verdict,
)
from tombola.study.planning import examples_to_decide, min_margin, replicates_to_decide

CLAIMS = {
    "dense": "matches the dense network",
    "random": "beats a random mask",
    "reinit": "beats reinitialised weights",
}


@dataclass(frozen=True)
class ArmFigures:
    """What was measured of one arm, one entry per replicate.

    `test_accuracy`: the test metric (None: not a finite number). `to_dense_loss`: first evaluated iteration whose
    validation loss is at most the dense arm's mean minimum (None: never within the run). `early_stop_observed`: False
    where the minimum lay in the last evaluations. `steps`: iterations trained, rewound ones included. `outcomes`: the
    metric of every test example, (replicates, examples), None where it is not known example by example.
    `evaluated_every`: iterations between two evaluations, what iterations are known to within.
    """

    test_accuracy: tuple[float | None, ...]
    early_stop: tuple[int | None, ...]
    early_stop_observed: tuple[bool, ...]
    to_dense_loss: tuple[int | None, ...]
    steps: tuple[int, ...]
    outcomes: NDArray[np.floating[Any]] | None = field(default=None, compare=False, repr=False)
    evaluated_every: int = 0

    @cached_property
    def sample(self) -> Sample | None:
        """The outcomes as the statistics take them; None where they are not known, or not all finite."""
        if self.outcomes is None or not np.isfinite(self.outcomes).all():
            return None
        return Sample.of(self.outcomes)

    @property
    def finite(self) -> tuple[float, ...]:
        """The replicates' test metric where it is a finite number."""
        return tuple(value for value in self.test_accuracy if value is not None and math.isfinite(value))

    @property
    def mean(self) -> float | None:
        """The mean over replicates; None if one is not a finite number."""
        return fmean(self.finite) if len(self.finite) == len(self.test_accuracy) else None


@dataclass(frozen=True)
class Examples:
    """The examples that every network was tested on; None where outcomes are not known one by one.

    `resolution`: what one example is worth to a network's metric, where that counts 0 or 1 for each.
    """

    count: int | None
    resolution: float | None


def examples_of(arms: Mapping[str, ArmFigures]) -> Examples:
    """The test set as the arms' outcomes show it."""
    samples = [arm.sample for arm in arms.values() if arm.sample is not None]
    if not samples:
        return Examples(None, None)
    count = len(samples[0].means)
    return Examples(count, 1 / count if all(sample.binary for sample in samples) else None)


@dataclass(frozen=True)
class _Claim:
    """One comparison: its difference, over seeds alone too, and what it must reach."""

    name: str
    estimate: Difference
    seeds_alone: Difference
    threshold: float
    replicates: int

    @property
    def p_value(self) -> float | None:
        return self.estimate.p_value(self.threshold) if self.replicates >= FEWEST_REPLICATES else None

    def holds(self, error_rate: float, resolution: float | None) -> bool:
        """Whether the bound shows it; where one test example is more than the margin, without the margin's help."""
        lower = self.estimate.bound(error_rate)
        if self.p_value is None or lower is None:
            return False
        if self.threshold == 0 and self.name != "dense":
            return lower > 0
        return lower >= self.threshold and (lower > 0 or not self.margin_below_example(resolution))

    def margin_below_example(self, resolution: float | None) -> bool:
        """Whether the margin lies below one test example."""
        return self.name == "dense" and resolution is not None and -self.threshold < resolution

    def margin_within_noise(self) -> bool:
        """Whether on these test examples no number of replicates would show equal networks equal within the margin."""
        smallest = min_margin(self.estimate, ERROR_RATE)
        return self.name == "dense" and smallest is not None and -self.threshold < smallest

    @property
    def refuted(self) -> bool:
        """Whether the two-sided 95 % interval lies below what the claim needs."""
        ends = self.estimate.interval
        return self.p_value is not None and ends is not None and ends[1] < self.threshold

    def verdict(self, error_rate: float, resolution: float | None) -> Verdict:
        if self.p_value is None:
            return "undecided"
        if self.holds(error_rate, resolution):
            return "yes"
        if not self.refuted and (self.margin_below_example(resolution) or self.margin_within_noise()):
            return "cannot decide"
        return "no"


def compare(
    arms: Mapping[str, ArmFigures], margin: float, higher_is_better: bool = True, *, share: bool = False
) -> dict[str, ClaimResult]:
    """Every other arm's comparison with the ticket: difference, bounds, p-values, claim and verdict; `why` is empty.

    "Matches dense" means that the one-sided lower bound of (ticket - dense) is at least -`margin` (in the metric's
    unit); "beats a control" that this bound is above 0. Where the test examples' outcomes are known, bounds cover
    training seeds and test examples (see `crossed`), else training seeds alone (Welch's t). Claims are tested together
    by Holm's correction at 5 %. Of a metric that is better when lower the difference is (other arm - ticket), so that
    above 0 the ticket is better in any case. `share`: the metric is a share of the examples also where it is not known
    example by example, so that a difference lies between -1 and 1, and no bound beyond.

    Verdicts: "yes"; "no" (not shown); "undecided" (fewer than three replicates, no spread at all, or a metric that is
    not a finite number); and for dense "cannot decide": the margin lies below one test example, or within what the
    noise of the test examples alone leaves open.
    """
    ticket, resolution = arms["ticket"], examples_of(arms).resolution
    claims = {
        name: _claim(name, ticket, arm, margin, higher_is_better, share)
        for name, arm in arms.items()
        if name != "ticket"
    }
    adjusted = holm({name: 1.0 if (p := claim.p_value) is None else p for name, claim in claims.items()})
    return {name: _result(claim, adjusted[name], resolution) for name, claim in claims.items()}


def _claim(
    name: str, ticket: ArmFigures, arm: ArmFigures, margin: float, higher_is_better: bool, share: bool
) -> _Claim:
    threshold = 0.0 - margin if name == "dense" else 0.0
    replicates = min(len(ticket.test_accuracy), len(arm.test_accuracy))
    first, second = (ticket, arm) if higher_is_better else (arm, ticket)
    if first.mean is None or second.mean is None:
        unknown = Difference(math.nan, None)
        return _Claim(name, unknown, unknown, threshold, 0)
    seeds_alone = estimate = difference(first.finite, second.finite)
    if first.sample is not None and second.sample is not None and replicates > 1:
        # the same difference to rounding; this one is of the figures that are shown
        estimate = replace(crossed_difference(first.sample, second.sample), difference=estimate.difference)
    limits = (-1.0, 1.0) if share else estimate.limits
    estimate, seeds_alone = replace(estimate, limits=limits), replace(seeds_alone, limits=limits)
    return _Claim(name, estimate, seeds_alone, threshold, replicates)


def _result(claim: _Claim, adjusted: Adjusted, resolution: float | None) -> ClaimResult:
    estimate, rate = claim.estimate, adjusted.error_rate
    verdict = claim.verdict(rate, resolution)
    unresolved = verdict != "yes" and not claim.refuted
    # equal networks are what a margin is for; else it is the difference estimated that has to stand out
    gap = -claim.threshold if verdict == "cannot decide" else abs(estimate.difference - claim.threshold)
    needed = examples_to_decide(estimate, gap, rate) if unresolved else None
    if needed is not None and claim.margin_below_example(resolution) and claim.threshold < 0:
        needed = max(needed, math.ceil(-1 / claim.threshold))
    more = replicates_to_decide(estimate, claim.threshold, rate) if unresolved and verdict != "cannot decide" else None
    return ClaimResult(
        difference=estimate.difference if math.isfinite(estimate.difference) else None,
        lower=estimate.lower,
        interval=estimate.interval,
        covers=SEEDS if estimate.test_examples is None else SEEDS_AND_EXAMPLES,
        standard_error=estimate.error,
        degrees_of_freedom=estimate.freedom if estimate.error and math.isfinite(estimate.freedom) else None,
        variance=_by_source(estimate),
        seeds_alone=BoundAlone(lower=claim.seeds_alone.lower, interval=claim.seeds_alone.interval),
        claim=CLAIMS[claim.name],
        threshold=claim.threshold,
        p=claim.p_value,
        p_holm=None if claim.p_value is None else adjusted.p_value,
        lower_holm=estimate.bound(rate),
        confidence_holm=1 - rate,
        verdict=verdict,
        verdict_uncorrected=claim.verdict(ERROR_RATE, resolution),
        refuted=claim.refuted,
        replicates_to_decide=more,
        examples_to_decide=needed,
        why="",
    )


def wins(comparisons: Mapping[str, ClaimResult]) -> bool | None:
    """Whether all claims hold, each after correction; None where one is open and none has failed."""
    verdicts = {comparison.verdict for comparison in comparisons.values()}
    return False if "no" in verdicts else True if verdicts == {"yes"} else None


def speed(arms: Mapping[str, ArmFigures]) -> SpeedResult:
    """Whether the ticket reaches the dense arm's mean minimum validation loss earlier.

    "earlier" or "later" only if the two-sided 95 % interval of the difference in iterations leaves out 0; it covers
    training seeds alone, and is never narrower than the distance of two evaluations warrants. A dense run whose own
    minimum lies above that mean never gets there: it counts with its whole length, which is less than it would
    need. "not observable at this length" where a dense minimum lies in the last evaluations, or a ticket run never
    reaches the loss.
    """
    ticket, dense = arms["ticket"], arms["dense"]
    first = [float(step) for step in ticket.to_dense_loss if step is not None]
    second = [
        float(length if step is None else step) for step, length in zip(dense.to_dense_loss, dense.steps, strict=True)
    ]
    answer = SpeedResult(
        ticket_iterations=fmean(first) if len(first) == len(ticket.to_dense_loss) else None,
        dense_iterations=fmean(second),
        dense_runs_that_never_reach_it=dense.to_dense_loss.count(None),
        interval=None,
        covers=SEEDS,
        verdict="not observable at this length",
    )
    if answer.ticket_iterations is None or not all(dense.early_stop_observed):
        return answer
    estimate = difference(first, second, step=max(ticket.evaluated_every, dense.evaluated_every))
    verdict = "undecided"
    if min(len(first), len(second)) >= FEWEST_REPLICATES and estimate.interval is not None and estimate.error:
        low, high = estimate.interval  # runs that all agree would give it no width
        verdict = "earlier" if high < 0 else "later" if low > 0 else "no difference shown"
    return answer.replace(interval=estimate.interval, verdict=verdict)


def describe_arm(arm: ArmFigures, metrics: Sequence[str], *, share: bool = False) -> ArmResult:
    """One arm; `share` as in `compare`."""
    seeds_alone = interval(arm.finite) if arm.mean is not None else None
    if seeds_alone is not None and (share or (arm.sample is not None and arm.sample.binary)):
        seeds_alone = within(seeds_alone, (0.0, 1.0))
    whole = None if seeds_alone is None or arm.sample is None else crossed_mean(arm.sample)
    bounds = seeds_alone if whole is None else whole.interval
    return ArmResult(
        test_accuracy=arm.test_accuracy,
        mean=arm.mean,
        interval=bounds,
        covers=SEEDS if whole is None else SEEDS_AND_EXAMPLES,
        seeds_alone=SeedsAlone(interval=seeds_alone),
        early_stop_iteration=arm.early_stop,
        early_stop_observed=arm.early_stop_observed,
        iterations_to_dense_loss=arm.to_dense_loss,
        metrics=tuple(metrics),
    )


def _by_source(estimate: Difference) -> VarianceBySource | None:
    if estimate.seeds is None:
        return None
    return VarianceBySource(seeds=estimate.seeds, examples=estimate.examples, interaction=estimate.interaction)
