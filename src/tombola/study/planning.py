"""How many replicates, or test examples, would decide a claim: the error of a difference at other sizes."""

from __future__ import annotations

import math
import sys

from tombola.results.statistics import FEWEST_REPLICATES, Difference, quantile, satterthwaite

POWER = 0.8
"""Chance that a claim is decided with the replicates named, if the difference and its variances are as estimated."""
MAX_REPLICATES = 10_000
MAX_EXAMPLES = 1_000_000_000


def replicates_to_decide(estimate: Difference, threshold: float, error_rate: float) -> int | None:
    """The fewest replicates of every arm that would show the difference above or below `threshold`.

    They do with probability `POWER` at the one-sided `error_rate`, if the difference and its variances are as
    estimated. None where no number would (up to 10,000), or nothing is known of the variance between replicates.
    """
    if not estimate.error or not estimate.arms:
        return None
    gap = abs(estimate.difference - threshold)
    if not _decides(estimate, gap, error_rate, MAX_REPLICATES):
        return None
    low, high = FEWEST_REPLICATES - 1, MAX_REPLICATES  # the error falls as replicates grow
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _decides(estimate, gap, error_rate, middle) else (middle, high)
    return high


def examples_to_decide(estimate: Difference, gap: float, error_rate: float) -> int | None:
    """The fewest test examples that would show a difference of `gap`, with any number of replicates.

    None where the variance over test examples is not known, or so little lies between the difference and the threshold
    that more than `MAX_EXAMPLES` would be needed.
    """
    if estimate.test_examples is None or estimate.error is None or gap == 0:
        return None
    wanted = (gap / (quantile(1 - error_rate) + quantile(POWER))) ** 2
    seen, added = estimate.examples - estimate.added, estimate.added
    if wanted < sys.float_info.min:
        return None
    # seen / n + added / n^2 = wanted, n in units of the test set
    shrink = (seen + math.sqrt(seen**2 + 4 * added * wanted)) / (2 * wanted)
    needed = estimate.test_examples * shrink
    return max(1, math.ceil(needed)) if needed <= MAX_EXAMPLES else None


def min_margin(estimate: Difference, error_rate: float) -> float | None:
    """The margin within which equal networks would just be shown equal, on these test examples, by any number of
    replicates: what the noise of the examples alone leaves open. None where that noise is not known."""
    if estimate.test_examples is None or estimate.error is None:
        return None
    return quantile(1 - error_rate) * math.sqrt(estimate.examples)


def _decides(estimate: Difference, gap: float, error_rate: float, replicates: int) -> bool:
    """Whether so many replicates of every arm would leave an error that `gap` stands out from; it must not be 0 now."""
    now = min(arm.replicates for arm in estimate.arms)
    seeds, interaction = ((part or 0.0) * now / replicates for part in (estimate.seeds, estimate.interaction))
    total = seeds + interaction + estimate.examples
    own = sum(arm.variance for arm in estimate.arms)
    share = (estimate.seeds or 0.0) / own if own > 0 else 0.0
    parts = [(share**0.25 * arm.variance * now / replicates, replicates - 1.0) for arm in estimate.arms]
    if estimate.test_examples is not None:
        parts.append((estimate.examples + interaction, max(1, estimate.test_examples - 1)))
    freedom = satterthwaite(total, parts)
    return gap >= (quantile(1 - error_rate, freedom) + quantile(POWER, freedom)) * math.sqrt(total)
