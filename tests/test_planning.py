"""What would decide a claim: against the error of the difference at other sizes, written out in full."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy.stats import norm, t

from tombola.results.statistics import ArmSpread, Difference
from tombola.study.planning import MAX_EXAMPLES, examples_to_decide, min_margin, replicates_to_decide

PAIR = (ArmSpread(9e-6, 3), ArmSpread(1e-6, 3))
SEEDS = Difference(0.0, 1e-5, freedom=200 / 82, arms=PAIR)
CROSSED = Difference(
    0.0, 6e-6, examples=4e-6, interaction=4e-6, arms=PAIR, test_examples=40, added=1e-6, limits=(-1.0, 1.0)
)


def shows(found: Difference, gap: float, rate: float, replicates: int) -> bool:
    """A gap of (quantile of the error rate + that of 80 %) errors; error and freedom by the formula of `crossed`."""
    assert found.seeds is not None
    rest = min(arm.replicates for arm in found.arms) / replicates
    total = (found.seeds + found.interaction) * rest + found.examples
    share = found.seeds / sum(arm.variance for arm in found.arms)
    spread = math.sqrt(share) * sum((arm.variance * rest) ** 2 for arm in found.arms) / (replicates - 1)
    if found.test_examples is not None:
        spread += (found.examples + found.interaction * rest) ** 2 / max(1, found.test_examples - 1)
    freedom = total**2 / spread
    return bool(gap >= (t.ppf(1 - rate, freedom) + t.ppf(0.8, freedom)) * math.sqrt(total))


@pytest.mark.parametrize(
    "found",
    [
        SEEDS,
        replace(SEEDS, arms=(ArmSpread(9e-6, 7), ArmSpread(1e-6, 5))),
        CROSSED,
        replace(CROSSED, test_examples=5),
        replace(CROSSED, seeds=0.0, interaction=1e-5),
        replace(CROSSED, examples=2e-6, interaction=4e-6, arms=(ArmSpread(1e-5, 4),)),
    ],
)
def test_the_fewest_replicates_are_named(found: Difference) -> None:
    known = set()
    for step in range(16):
        gap = 0.005 * 1.12**step
        for rate in (0.05, 0.05 / 3):
            needed = replicates_to_decide(replace(found, difference=gap - 0.002), -0.002, rate)
            if needed is None:
                assert not shows(found, gap, rate, 10_000)
                continue
            assert replicates_to_decide(replace(found, difference=-gap - 0.002), -0.002, rate) == needed
            assert shows(found, gap, rate, needed)
            assert needed == 3 or not shows(found, gap, rate, needed - 1)
            known.add(needed)
    assert len(known) > 3


@pytest.mark.parametrize(("examples", "freedom"), [(1, 1), (2, 1), (3, 2)])
def test_test_sets_of_next_to_no_examples(examples: int, freedom: int) -> None:
    found = replace(CROSSED, test_examples=examples)  # with any number of replicates the examples' error is left
    just = 0.002 * (t.ppf(0.95, freedom) + t.ppf(0.8, freedom))
    assert replicates_to_decide(replace(found, difference=just * 1.01), 0.0, 0.05) is not None
    assert replicates_to_decide(replace(found, difference=just * 0.99), 0.0, 0.05) is None


def test_the_most_and_the_fewest_replicates_that_are_named() -> None:
    error = math.sqrt(SEEDS.seeds * 3 / 10_000)  # type: ignore[operator]
    freedom = 9_999 * 100 / 82
    just = (t.ppf(0.95, freedom) + t.ppf(0.8, freedom)) * error
    assert replicates_to_decide(replace(SEEDS, difference=just * 1.0000001), 0.0, 0.05) == 10_000
    assert replicates_to_decide(replace(SEEDS, difference=just * 0.9999999), 0.0, 0.05) is None
    assert replicates_to_decide(replace(SEEDS, difference=1.0), 0.0, 0.05) == 3
    assert replicates_to_decide(replace(SEEDS, seeds=None), 0.0, 0.05) is None
    assert replicates_to_decide(replace(SEEDS, difference=1.0, arms=()), 0.0, 0.05) is None
    # no variance between seeds at all: the examples decide, alone
    still = Difference(1.0, 0.0, examples=1e-4, arms=(ArmSpread(0.0, 3),) * 2, test_examples=100)
    assert replicates_to_decide(still, 0.0, 0.05) == 3
    assert replicates_to_decide(replace(still, difference=0.02), 0.0, 0.05) is None


@pytest.mark.parametrize("gap", [1e-4, 3e-4, 0.001, 0.01, 0.05])
@pytest.mark.parametrize("added", [0.0, 1e-6, 4e-6])
def test_the_fewest_examples_are_named(gap: float, added: float) -> None:
    found = replace(CROSSED, added=added)
    wanted = (gap / (norm.ppf(0.95) + norm.ppf(0.8))) ** 2

    def variance(count: int) -> float:
        """Of so many examples, each as noisy as the 40: what is added to the sum of squares stays what it is."""
        return (found.examples - added) * 40 / count + added * (40 / count) ** 2

    needed = examples_to_decide(found, gap, 0.05)
    assert needed is not None
    assert variance(needed) <= wanted * (1 + 1e-9)
    assert needed == 1 or variance(needed - 1) > wanted


def test_examples_are_named_where_there_is_something_to_say() -> None:
    assert examples_to_decide(CROSSED, 1.0, 0.05) == 1
    assert examples_to_decide(CROSSED, 0.0, 0.05) is None
    assert examples_to_decide(replace(CROSSED, test_examples=None), 0.01, 0.05) is None
    assert examples_to_decide(replace(CROSSED, seeds=None), 0.01, 0.05) is None
    far = replace(CROSSED, added=0.0)
    most = math.sqrt(4e-6 * 40 / MAX_EXAMPLES) * (norm.ppf(0.95) + norm.ppf(0.8))
    assert MAX_EXAMPLES * 0.999 < (examples_to_decide(far, most * 1.0001, 0.05) or 0) <= MAX_EXAMPLES
    assert examples_to_decide(far, most * 0.9999, 0.05) is None


def test_the_min_margin_is_the_noise_of_the_examples() -> None:
    assert min_margin(CROSSED, 0.05) == pytest.approx(1.6448536 * 0.002)
    assert min_margin(CROSSED, 0.025) == pytest.approx(1.9599640 * 0.002)
    assert min_margin(replace(CROSSED, test_examples=None), 0.05) is None
    assert min_margin(replace(CROSSED, seeds=None), 0.05) is None
