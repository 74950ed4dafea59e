"""The difference of two arms over training seeds and test examples: by hand, its properties, and its error rates."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import variance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tombola.results.crossed import Sample, crossed_difference, crossed_mean, crossed_paired
from tombola.results.statistics import Difference, difference, holm
from tombola.study.planning import examples_to_decide, min_margin, replicates_to_decide

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import verdict_error_rates as made_up

Outcomes = NDArray[np.float64]


def compared(first: object, second: object) -> Difference:
    return crossed_difference(Sample.of(first), Sample.of(second))  # type: ignore[arg-type]


def parts(found: Difference) -> tuple[float, float, float]:
    assert found.seeds is not None
    return found.seeds, found.examples, found.interaction


# -- by hand


def test_without_an_interaction_both_variances_add_up() -> None:
    # y = seed + example; means over seeds 1, 3: variance 2, over 2 seeds 1. Second arm: one value per example.
    example = np.array([0.0, 3.0, 6.0])
    first = np.array([[1.0], [3.0]]) + example
    second = np.array([[0.0], [0.0]]) + 0.0 * example
    found = compared(first, second)
    assert found.difference == 5.0
    # difference of the means at every example: 2, 5, 8: variance 9, over 3 examples 3
    assert parts(found) == pytest.approx((1.0, 3.0, 0.0))
    assert found.error == pytest.approx(2.0)
    # Satterthwaite: 4^2 / (1^2 / 1 + 3^2 / 2)
    assert found.freedom == pytest.approx(16 / (1 + 4.5))
    assert found.test_examples == 3


def test_the_interaction_is_counted_once() -> None:
    # means of networks 7/3 and 1, of examples 2, 1, 2: A 4/9, B 1/9; residuals +-4/3, +-5/3, +-1/3: C 28/3 / 2 / 6
    first, second = np.array([[4.0, 0.0, 3.0], [0.0, 2.0, 1.0]]), np.zeros((2, 3))
    assert Sample.of(first).interaction == pytest.approx(7 / 9)
    assert parts(compared(first, second)) == pytest.approx((0, 0, 4 / 9))
    # with an effect of examples: their means 2, 10, 20, so B = 244/9, of which C is not theirs
    found = compared(first + np.array([0.0, 9.0, 18.0]), second)
    assert parts(found) == pytest.approx((0, 237 / 9, 7 / 9))
    # and with one of seeds: A = (5 + 4/3)^2 / 2 / 2
    moved = compared(first + np.array([0.0, 9.0, 18.0]) + np.array([[5.0], [0.0]]), second)
    assert parts(moved) == pytest.approx(((5 + 4 / 3) ** 2 / 4 - 7 / 9, 237 / 9, 7 / 9))


def test_one_network_against_another_is_agresti_and_mins_interval() -> None:
    # 200 pairs: 42 right for the first alone, 18 for the second alone; so many leave next to nothing to add
    first, second = np.ones((1, 200)), np.ones((1, 200))
    second[0, :42] = 0
    first[0, 42:60] = 0
    found = compared(first, second)
    up, down, n = 42 + 0.5, 18 + 0.5, 200 + 2
    assert found.difference == pytest.approx(0.12)
    assert found.error == pytest.approx(math.sqrt((up / n + down / n - ((up - down) / n) ** 2) / n), rel=1e-4)


@pytest.mark.parametrize(("seeds", "examples"), [(1, 359), (5, 359), (5, 10_000)])
def test_with_no_discordant_example_the_bound_is_the_rule_of_three(seeds: int, examples: int) -> None:
    same = np.ones((seeds, examples), bool)
    found = compared(same, same)
    assert found.difference == 0
    assert found.lower == pytest.approx(-3 / examples, rel=0.01)
    assert found.p_value(-4 / examples) < 0.05 < found.p_value(-2 / examples)  # type: ignore[operator]


def test_replicates_that_agree_do_not_hide_the_test_examples() -> None:
    # five copies of one network against five copies of another: 3 of 359 examples differ
    first, second = np.ones((5, 359)), np.ones((5, 359))
    second[:, :3] = 0
    found = compared(first, second)
    alone = difference(first.mean(1).tolist(), second.mean(1).tolist())
    assert alone.error == 0
    assert found.error is not None
    assert math.sqrt(3) / 359 < found.error < math.sqrt(4) / 359  # .48 points and a little
    assert found.interval is not None
    assert found.interval[0] < 0 < found.interval[1]


def test_equal_values_of_a_metric_without_bounds_are_open_by_its_range() -> None:
    values = np.tile([10.0, 20.0, 40.0, 10.0], (3, 1))
    found = compared(values, values)
    assert found.error == pytest.approx(30 * (3 / 1.645) / 6)  # 3 / N of the range 10 to 40, N and two more
    constant = compared(np.full((3, 4), 7.0), np.full((3, 4), 7.0))
    assert constant.error == 0.0
    assert constant.p_value(-0.1) is None  # no spread anywhere: nothing to judge by


def test_few_test_examples() -> None:
    one = compared([[1.0], [1.0]], [[0.0], [0.0]])
    assert one.lower is not None
    assert one.lower < 0  # one example shows nothing
    assert compared([[1.5], [1.5]], [[0.2], [0.3]]).error is None
    for count in range(1, 11):
        found = compared(np.ones((3, count)), np.zeros((3, count)))
        assert found.lower is not None
        assert math.isfinite(found.lower)
    # all of ten examples right for one arm alone: shown
    assert found.lower > 0


def test_pairs_take_out_what_seeds_share() -> None:
    draw = np.random.default_rng(0)
    shared = draw.normal(size=(4, 1)) + draw.normal(size=(1, 50))
    first, second = shared + 0.1 * draw.normal(size=(4, 50)), shared + 0.1 * draw.normal(size=(4, 50))
    paired, unpaired = crossed_paired(first, second), compared(first, second)
    assert paired.difference == pytest.approx(unpaired.difference)
    assert paired.error is not None
    assert unpaired.error is not None
    assert paired.error < unpaired.error / 5
    ones = np.ones((4, 50))
    assert crossed_paired(ones, ones).error == pytest.approx(3 / 1.645 / 52)


def test_the_mean_of_one_arm_covers_its_examples() -> None:
    values = np.zeros((1, 98))
    values[0, :49] = 1
    found = crossed_mean(Sample.of(values))
    assert found.difference == 0.5
    assert found.error == pytest.approx(math.sqrt(0.5 * 0.5 / 98), rel=0.03)
    assert crossed_mean(Sample.of(np.ones((5, 1000)))).lower == pytest.approx(1 - 0.003, abs=1e-5)


# -- properties


def outcomes(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Outcomes, Outcomes]]:
    def pair(sizes: tuple[int, int, int]) -> st.SearchStrategy[tuple[Outcomes, Outcomes]]:
        first, second, examples = sizes
        arm = lambda seeds: arrays(np.float64, (seeds, examples), elements=values)  # noqa: E731
        return st.tuples(arm(first), arm(second))

    return st.tuples(st.integers(2, 4), st.integers(2, 4), st.integers(2, 12)).flatmap(pair)


BITS = outcomes(st.sampled_from([0.0, 1.0]))
REALS = outcomes(st.integers(-50, 50).map(float))


@settings(max_examples=60, deadline=None)
@given(st.one_of(BITS, REALS))
def test_the_error_is_never_below_that_of_one_source_alone(arms: tuple[Outcomes, Outcomes]) -> None:
    first, second = arms
    found = compared(first, second)
    alone = difference(first.mean(1).tolist(), second.mean(1).tolist())
    shift = first.mean(0) - second.mean(0)
    of_examples = math.sqrt(variance(shift.tolist()) / len(shift))
    assert found.error is not None
    assert alone.error is not None
    count = len(shift)
    slack = (count + 2) / count * math.sqrt(count / (count - 1))  # Agresti and Min divide by (n + 2)^2, not n (n - 1)
    assert found.error >= alone.error - 1e-9
    assert found.error * slack >= of_examples - 1e-9
    assert all(part >= 0 for part in parts(found))
    assert found.freedom >= 1 - 1e-9


@settings(max_examples=40, deadline=None)
@given(st.one_of(BITS, REALS), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_pairing_of_examples_does(arms: tuple[Outcomes, Outcomes], random: object) -> None:
    first, second = arms
    order = np.random.default_rng(0).permutation(first.shape[1])
    found, moved = compared(first, second), compared(first[::-1][:, order], second[::-1][:, order])
    assert parts(moved) == pytest.approx(parts(found), abs=1e-9)
    turned = compared(second, first)
    assert turned.difference == pytest.approx(-found.difference, abs=1e-9)
    assert turned.error == pytest.approx(found.error, abs=1e-9)


def test_examples_are_paired_over_arms() -> None:
    draw = np.random.default_rng(1)
    hard = draw.random(400) < 0.3
    first = (draw.random((5, 400)) < np.where(hard, 0.4, 0.99)).astype(float)
    second = (draw.random((5, 400)) < np.where(hard, 0.4, 0.99)).astype(float)
    together, apart = compared(first, second).error, compared(first, second[:, ::-1]).error
    assert together is not None
    assert apart is not None
    assert together < apart


@settings(max_examples=30, deadline=None)
@given(REALS, st.floats(0.01, 1e6))
def test_a_metric_may_have_any_unit(arms: tuple[Outcomes, Outcomes], unit: float) -> None:
    first, second = (arm + 0.25 for arm in arms)  # never 0/1, whatever the unit
    found, scaled = compared(first, second), compared(unit * first, unit * second)
    assert scaled.error == pytest.approx(unit * (found.error or 0), rel=1e-6, abs=1e-9)
    assert scaled.freedom == pytest.approx(found.freedom, rel=1e-4)


# -- Holm


def test_holm_by_hand() -> None:
    # sorted .01, .02, .03: .01 * 3; .02 * 2 = .04; .03 * 1 = .03, but not below .04
    found = holm({"a": 0.03, "b": 0.01, "c": 0.02})
    assert {name: step.p_value for name, step in found.items()} == pytest.approx({"a": 0.04, "b": 0.03, "c": 0.04})
    assert {name: step.error_rate for name, step in found.items()} == pytest.approx(
        {"a": 0.05, "b": 0.05 / 3, "c": 0.025}
    )
    # .02 fails at .05 / 3, and all others with it, at that rate
    stopped = holm({"a": 0.02, "b": 0.04, "c": 0.5})
    assert [step.p_value for step in stopped.values()] == pytest.approx([0.06, 0.08, 0.5])
    assert {step.error_rate for step in stopped.values()} == {0.05 / 3}
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_claims_what_passes_its_own_rate(values: list[float]) -> None:
    found = holm({str(index): value for index, value in enumerate(values)})
    for index, value in enumerate(values):
        step = found[str(index)]
        assert (step.p_value <= 0.05) == (value <= step.error_rate) or math.isclose(value, step.error_rate)
        assert step.p_value >= value


# -- how many would decide


def test_more_replicates_decide_where_seeds_are_what_is_open() -> None:
    found = difference([0.90, 0.92, 0.94], [0.89, 0.91, 0.93])
    needed = replicates_to_decide(found, 0.0, 0.05)
    # by the normal approximation 2 * .02^2 * (1.645 + .842)^2 / .01^2 = 49.5, and a little more by Student's t
    assert needed is not None
    assert 49 <= needed <= 53
    assert replicates_to_decide(found, found.difference, 0.05) is None  # nothing stands out from itself
    assert examples_to_decide(found, 0.01, 0.05) is None  # test examples are not known
    assert (replicates_to_decide(found, 0.0, 0.05 / 3) or 0) > needed


def test_no_number_of_replicates_decides_where_test_examples_are_what_is_open() -> None:
    draw = np.random.default_rng(0)
    right = draw.random((2, 200)) < 0.9
    first, second = np.repeat(right[:1], 5, 0), np.repeat(right[1:], 5, 0)
    found = compared(first, second)
    threshold = found.difference - 0.002
    assert replicates_to_decide(found, threshold, 0.05) is None
    needed = examples_to_decide(found, 0.002, 0.05)
    # so many discordant examples: next to nothing was added to the variance that was seen
    assert needed == pytest.approx(200 * found.examples * ((1.6448536 + 0.8416212) / 0.002) ** 2, rel=0.01)
    least = min_margin(found, 0.05)
    assert least == pytest.approx(1.6448536 * math.sqrt(found.examples))


def test_of_networks_that_agree_the_examples_needed_are_by_the_rule_of_three() -> None:
    same = np.ones((5, 359))
    needed = examples_to_decide(compared(same, same), 0.002, 0.05)
    assert needed == pytest.approx(3 / 0.002 * (1.645 + 0.842) / 1.645, rel=0.01)


def test_the_replicates_named_do_decide() -> None:
    """With so many replicates the claim is made in about four of five experiments."""
    setting = made_up.Setting(4, 400, 0.9, "strong", 0.01)
    first = next(made_up.experiments(setting, 1, seed=3))
    found = compared(first["ticket"], first["dense"])
    threshold = found.difference - 0.02
    needed = replicates_to_decide(found, threshold, 0.05)
    assert needed is not None
    now = found.arms[0].replicates
    error = math.sqrt((parts(found)[0] + found.interaction) * now / needed + found.examples)
    assert 0.02 / error == pytest.approx(1.645 + 0.842, rel=0.08)  # normal, where the t is a little more


# -- error rates


@pytest.mark.parametrize(
    "setting",
    [
        made_up.Setting(5, 359, 0.95, "weak", 0.002),
        made_up.Setting(5, 359, 0.8, "strong", 0.005),
        made_up.Setting(3, 359, 0.9, "weak", 0.005),
    ],
    ids=lambda s: f"{s.replicates}-{s.accuracy}-{s.correlation}",
)
def test_stated_error_rates_hold(setting: made_up.Setting) -> None:
    """400 experiments: a rate of .05 has a standard error of .011; docs/results has thousands."""
    found = made_up.rates(setting, 400)
    assert found.matches < 0.085
    assert found.beats < 0.075
    assert 0.02 < found.outside < 0.08
    assert found.any_claim < 0.085
    assert found.any_uncorrected > found.any_claim
    assert found.seeds_alone > 0.08  # what the verdict said before


def test_pairs_of_0_and_1_are_padded_by_their_own_discordance() -> None:
    # one pair of networks on 8 examples, 3 discordant: extra squares 1 + (3.325 - 1) / (1 + 3)^2, over 8 + 2 examples
    one, two = np.array([[1, 1, 1, 0, 1, 1, 0, 0]]), np.array([[0, 1, 0, 1, 1, 1, 0, 0]])
    extra = 1 + ((3 / 1.645) ** 2 - 1) / 16
    assert crossed_paired(one, two).examples == pytest.approx((3 + extra - 1 / 10) / 100)
    # of another metric nothing is added: the variance over examples alone
    shift = np.array([1.0, 0, 2.5, -1, 0, 0, 0, 0.5])
    found = crossed_paired(shift[None] + 3, np.full((1, 8), 3.0))
    assert found.examples == pytest.approx(float(shift.var(ddof=1)) / 8)
    assert found.added == 0


def test_equal_pairs_of_another_metric_are_open_by_the_range_of_both() -> None:
    values = np.array([[2.0, 5.0, 11.0, 4.0]])
    extra = (3 / 1.645) ** 2 * 9.0**2  # the range is 11 - 2
    found = crossed_paired(values, values)
    assert found.examples == pytest.approx(extra / 6**2)
    assert crossed_paired(-values, -values).examples == pytest.approx(extra / 6**2)


def test_the_mean_of_equal_values_of_another_metric_has_no_spread() -> None:
    assert crossed_mean(Sample.of(np.full((2, 5), 3.0))).examples == 0
    half = np.array([[0.0, 0.5, 1.5, 4.0]])
    assert crossed_mean(Sample.of(half)).examples == pytest.approx(float(half.var(ddof=1)) / 4)
