"""The density tables of Frankle & Carbin (2019) need no training: counts alone decide them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tombola.errors import TombolaError
from tombola.levels.plan import by_density, by_rate

LENET = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
LENET_RATES = {"fc1": 0.2, "fc2": 0.2, "fc3": 0.1}


def conv_network(conv: list[int], fc: list[int]) -> dict[str, int]:
    return {f"conv{i}": n for i, n in enumerate(conv)} | {f"fc{i}": n for i, n in enumerate(fc)}


CONV2 = conv_network([1_728, 36_864], [16_384 * 256, 65_536, 2_560])
CONV4 = conv_network([1_728, 36_864, 73_728, 147_456], [8_192 * 256, 65_536, 2_560])
CONV6 = conv_network([1_728, 36_864, 73_728, 147_456, 294_912, 589_824], [4_096 * 256, 65_536, 2_560])


def rates(sizes: dict[str, int], conv: float) -> dict[str, float]:
    return {name: conv if name.startswith("conv") else 0.2 for name in sizes} | {"fc2": 0.1}


def percent(plan: list[dict[str, int]], level: int) -> float:
    return round(100 * sum(plan[level].values()) / sum(plan[0].values()), 2)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (1, 80.04),
        (2, 64.06),
        (3, 51.28),
        (4, 41.05),
        (5, 32.87),
        (6, 26.32),
        (7, 21.07),
        (8, 16.88),
        (9, 13.52),
        (10, 10.83),
        (11, 8.68),
        (12, 6.95),
        (15, 3.58),
        (20, 1.19),
        (24, 0.50),
    ],
)
def test_lenet_levels_have_the_papers_densities(level: int, expected: float) -> None:
    assert percent(by_rate(LENET, LENET_RATES, 24), level) == expected


@pytest.mark.parametrize(
    ("sizes", "conv", "table"),
    [
        (CONV2, 0.1, {1: 80.10, 5: 33.02, 10: 10.97, 11: 8.81, 14: 4.57, 20: 1.26}),
        (CONV4, 0.1, {1: 81.08, 5: 35.61, 10: 13.35, 11: 11.06, 12: 9.18, 20: 2.34}),
        (CONV6, 0.15, {1: 82.54, 5: 38.67, 7: 26.61, 10: 15.29, 20: 2.54}),
    ],
)
def test_conv_levels_have_the_papers_densities(sizes: dict[str, int], conv: float, table: dict[int, float]) -> None:
    plan = by_rate(sizes, rates(sizes, conv), 20)
    assert {level: percent(plan, level) for level in table} == table


def test_counts_by_rate_are_closed_form_and_never_compound() -> None:
    # 10 * .8^r = 8, 6.4, 5.12, 4.096, 3.2768; compounding would give 8, 6, 5, 4, 3
    assert [level["a"] for level in by_rate({"a": 10}, {"a": 0.2}, 5)] == [10, 8, 6, 5, 4, 3]
    assert by_rate({"a": 5}, {"a": 0.5}, 1)[1]["a"] == 2  # 2.5 rounds half to even


sizes_and_rates = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.integers(1, 3_000), st.sampled_from([0.05, 0.1, 0.2, 0.4])),
    min_size=1,
    max_size=5,
)


@given(sizes_and_rates, st.floats(0.02, 1.0), st.integers(1, 8))
def test_a_target_density_is_met_exactly_by_nested_counts(
    layers: dict[str, tuple[int, float]], density: float, rounds: int
) -> None:
    sizes = {name: size for name, (size, _) in layers.items()}
    layer_rates = {name: rate for name, (_, rate) in layers.items()}
    try:
        plan = by_density(sizes, layer_rates, density, rounds)
    except TombolaError as error:
        if "cannot be reached" in str(error):
            return
        raise
    assert sum(plan[-1].values()) == round(density * sum(sizes.values()))
    assert plan[0] == sizes
    assert len(plan) == rounds + 1
    for earlier, later in itertools.pairwise(plan):
        assert all(0 <= later[name] <= earlier[name] for name in sizes)


def test_the_output_layer_is_pruned_at_half_the_rate_for_a_target_density() -> None:
    plan = by_density(LENET, LENET_RATES, 0.1, 1)
    pruned = {name: 1 - plan[1][name] / LENET[name] for name in LENET}
    assert pruned["fc1"] == pytest.approx(pruned["fc2"], abs=1e-4)
    assert pruned["fc3"] == pytest.approx(pruned["fc1"] / 2, abs=2e-3)


def test_a_layer_of_rate_zero_keeps_everything() -> None:
    plan = by_density({"a": 100, "b": 50}, {"a": 0.2, "b": 0.0}, 0.5, 3)
    assert [level["b"] for level in plan] == [50] * 4
    assert plan[-1]["a"] == 25


def test_a_density_below_what_fixed_layers_keep_is_one_clear_line() -> None:
    with pytest.raises(TombolaError, match="cannot be reached in 3 rounds"):
        by_density({"a": 100, "b": 50}, {"a": 0.2, "b": 0.0}, 0.2, 3)


def test_rates_outside_their_range_are_refused() -> None:
    with pytest.raises(TombolaError, match=r"rate of a is 1\.0"):
        by_rate({"a": 10}, {"a": 1.0}, 2)


def test_what_is_over_goes_to_the_largest_fractions_and_of_equal_ones_to_the_first_layer() -> None:
    # 0.4 of 13, 8 and 9 is 5.2, 3.2 and 3.6: 12 in all, of which the floors are 11
    assert by_density({"a": 13, "b": 8, "c": 9}, dict.fromkeys("abc", 0.2), 0.4, 1)[1] == {"a": 5, "b": 3, "c": 4}
    assert by_density({"a": 5, "b": 5}, {"a": 0.2, "b": 0.2}, 0.5, 1)[1] == {"a": 3, "b": 2}


def test_a_density_is_of_all_weights_where_some_are_pruned_already() -> None:
    assert by_density({"a": 40, "b": 20}, {"a": 0.2, "b": 0.2}, 0.3, 1, total=100) == [
        {"a": 40, "b": 20},
        {"a": 20, "b": 10},
    ]
    with pytest.raises(TombolaError, match=r"density 0\.7 is more than the 0\.6 that is left"):
        by_density({"a": 40, "b": 20}, {"a": 0.2, "b": 0.2}, 0.7, 1, total=100)


def test_the_least_density_that_fixed_layers_allow_is_reached() -> None:
    assert by_density({"a": 100, "b": 50}, {"a": 0.2, "b": 0.0}, 50 / 150, 3)[-1] == {"a": 0, "b": 50}
    with pytest.raises(TombolaError, match="at least 1;"):
        by_density({"a": 100}, {"a": 0.0}, 0.5, 3)
    assert by_density({"a": 100}, {"a": 0.0}, 1.0, 2) == [{"a": 100}] * 3
