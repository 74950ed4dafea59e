"""Differences and intervals are scipy's, also where a sample does not vary."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tombola.results.statistics import difference, figure, interval, paired_difference

SAMPLES = st.lists(st.integers(-1000, 1000).map(lambda n: n / 1000), min_size=2, max_size=8)


def varies(values: list[float]) -> bool:
    return max(values) - min(values) > 1e-9


@given(SAMPLES.filter(varies), SAMPLES.filter(varies))
def test_differences_are_welchs(first: list[float], second: list[float]) -> None:
    found, expected = difference(first, second), stats.ttest_ind(first, second, equal_var=False)
    ends = expected.confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-12, abs=1e-12)
    assert found.freedom == pytest.approx(expected.df, rel=1e-12)
    assert found.p_value(0.0) == pytest.approx(
        stats.ttest_ind(first, second, equal_var=False, alternative="greater").pvalue, rel=1e-9, abs=1e-12
    )


@given(st.lists(st.tuples(*[st.integers(-1000, 1000).map(lambda n: n / 1000)] * 2), min_size=2, max_size=8))
def test_paired_differences_are_students(pairs: list[tuple[float, float]]) -> None:
    first, second = map(list, zip(*pairs, strict=True))
    found = paired_difference(first, second)
    changes = [a - b for a, b in pairs]
    if not varies(changes):
        assert found.interval == pytest.approx((changes[0],) * 2)
        return
    ends = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-12, abs=1e-12)
    ends = stats.ttest_1samp(changes, 0.0).confidence_interval(0.95)
    assert interval(changes) == pytest.approx((ends.low, ends.high), rel=1e-12, abs=1e-12)


def test_samples_that_do_not_vary_tell_nothing_of_how_far_they_scatter() -> None:
    same = difference([0.5] * 3, [0.5] * 3)
    assert same.interval == (0.0, 0.0)
    assert same.p_value(0.0) is None
    assert math.isinf(same.freedom)
    one = difference([0.5, 0.5, 0.5], [0.1, 0.2, 0.3])  # all the variance is the other sample's
    ends = stats.ttest_1samp([0.1, 0.2, 0.3], 0.0).confidence_interval(0.95)
    assert one.interval == pytest.approx((0.5 - ends.high, 0.5 - ends.low))
    rounded = difference([10.0] * 3, [10.0] * 3, step=1.0)  # known to within 1
    assert rounded.error == pytest.approx(math.sqrt(2 / 12 / 3))


def test_few_values_have_no_interval() -> None:
    assert interval([1.0]) is None
    assert difference([1.0], [2.0, 3.0]).interval is None
    assert figure([0.25, None, 0.75]).mean == 0.5
    assert figure([0.25, None, 0.75]).interval is None
    assert figure([0.25, 0.5, 0.75]).interval == interval([0.25, 0.5, 0.75])
