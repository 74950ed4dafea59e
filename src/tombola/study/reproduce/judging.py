"""Whether what was found agrees with what a paper claims: an estimate with its interval, and the rule.

A claim of a direction agrees where the 95 % interval lies on the claimed side, differs where it lies on the other, and
is not decidable otherwise, or without an interval. A claim that two things are equal agrees where the interval lies
within the margin, and differs where it lies outside. A published number is compared so in the full form alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tombola.results.record import Figure, Interval
from tombola.results.reproduction import AGREES, DIFFERS, NOT_COMPARABLE, UNDECIDED, ClaimVerdict
from tombola.results.statistics import FEWEST_REPLICATES, difference, figure
from tombola.study.reproduce.definition import Claim

Values = Sequence[float | None]


def estimate(own: Values, other: Values | None, *, paired: bool, ratio: bool) -> Figure:
    """The mean, the mean difference, or the ratio of geometric means, with its 95 % t-interval over replicates.

    Differences are paired by replicate, or Welch's; a ratio is a difference of logarithms.
    """
    if other is None:
        return figure(own)
    if ratio:
        logs = estimate(_logs(own), _logs(other), paired=paired, ratio=False)
        back = [None if value is None else math.exp(value) for value in logs.values]
        ends = logs.interval and (math.exp(logs.interval[0]), math.exp(logs.interval[1]))
        return Figure(mean=None if logs.mean is None else math.exp(logs.mean), interval=ends, values=tuple(back))
    if paired:
        return figure([None if a is None or b is None else a - b for a, b in zip(own, other, strict=True)])
    first, second = ([value for value in values if value is not None] for values in (own, other))
    if not first or not second:
        return Figure(mean=None, interval=None, values=())
    found = difference(first, second)
    enough = min(len(first), len(second)) >= FEWEST_REPLICATES
    return Figure(mean=found.difference, interval=found.interval if enough else None, values=())


def _logs(values: Values) -> list[float | None]:
    return [None if value is None or value <= 0 else math.log(value) for value in values]


def judge(claim: Claim, interval: Interval | None, *, whole: bool) -> ClaimVerdict:
    """The verdict on a claim. `whole`: the full form, at its full length."""
    if claim.expect == "near" and not whole:
        return NOT_COMPARABLE
    if interval is None:
        return UNDECIDED
    low, high = interval
    start, end = bounds(claim)
    if start < low and high < end:
        return AGREES
    return DIFFERS if high < start or low > end else UNDECIDED


def bounds(claim: Claim) -> tuple[float, float]:
    """The open interval in which the estimate's interval must lie for the claim to agree."""
    than = claim.than if claim.than is not None else (1.0 if claim.ratio else 0.0)
    if claim.expect == "above":
        return than, math.inf
    if claim.expect == "below":
        return -math.inf, than
    centre, within = (than if claim.value is None else claim.value), claim.within or 0.0
    return centre - within, centre + within


def rule(claim: Claim) -> str:
    """When a claim agrees, in words and in the unit that its numbers are shown in."""
    percent = claim.scale == "accuracy"
    suffix = "" if not percent else " %" if claim.against is None else " points"
    start, end = (f"{100 * bound if percent else bound:g}" for bound in bounds(claim))
    if claim.expect in ("above", "below"):
        bound = start if claim.expect == "above" else end
        return f"{claim.expect} {bound}{suffix if bound != '0' else ''}"
    return f"between {start} and {end}{suffix}"
