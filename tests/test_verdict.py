"""Verdicts on hand-made figures, with Welch bounds computed by hand."""

from __future__ import annotations

import pytest

from tombola.study.statistics import difference, interval
from tombola.study.verdict import ArmFigures, compare, sentence, speed


def arm(*accuracy: float, steps: tuple[int | None, ...] = (), observed: bool = True) -> ArmFigures:
    steps = steps or (100,) * len(accuracy)
    return ArmFigures(accuracy, steps, (observed,) * len(accuracy), steps, (200,) * len(accuracy))


def test_interval_of_three_values_by_hand() -> None:
    # mean 2, standard deviation 1, t(.975, 2) = 4.30265: 4.30265 / sqrt(3) = 2.48414
    low, high = interval([1.0, 2.0, 3.0]) or (0, 0)
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert interval([1.0]) is None


def test_welch_bounds_by_hand() -> None:
    # variances 1 and 4 over 3 each: error sqrt(5/3) = 1.29099,
    # freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.94118
    found = difference([1.0, 2.0, 3.0], [0.0, 2.0, 4.0])
    assert found.difference == 0.0
    assert found.lower == pytest.approx(-2.37240 * 1.29099, abs=5e-3)  # t(.95, 2.94118)
    assert found.interval is not None
    assert found.interval[1] == pytest.approx(-found.interval[0])


def test_equal_samples_without_spread_have_an_exact_bound() -> None:
    assert difference([0.5, 0.5], [0.25, 0.25]).lower == 0.25


def test_matches_dense_is_judged_with_the_margin_and_controls_without() -> None:
    same = arm(0.9, 0.9, 0.9)
    arms = {
        "ticket": same,
        "dense": arm(0.9015, 0.9015, 0.9015),
        "random": same,
        "reinit": arm(0.8, 0.8, 0.8),
    }
    verdicts = {name: found["verdict"] for name, found in compare(arms, margin=0.002).items()}
    assert verdicts == {"dense": "yes", "random": "no", "reinit": "yes"}
    assert compare(arms, margin=0.001)["dense"]["verdict"] == "no"


def test_fewer_than_three_replicates_decide_nothing() -> None:
    arms = {"ticket": arm(0.9, 0.9), "dense": arm(0.5, 0.5), "random": arm(0.1, 0.1), "reinit": arm(0.1, 0.1)}
    compared = compare(arms, 0.002)
    assert {found["verdict"] for found in compared.values()} == {"undecided"}
    assert "undecided" in sentence(0.1, compared, speed(arms), 2, 0.002)


def test_earlier_only_if_the_interval_leaves_out_zero() -> None:
    arms = {
        "ticket": arm(0.9, 0.9, 0.9, steps=(50, 52, 54)),
        "dense": arm(0.9, 0.9, 0.9, steps=(100, 104, 108)),
    }
    assert speed(arms)["verdict"] == "earlier"
    arms["ticket"] = arm(0.9, 0.9, 0.9, steps=(20, 100, 180))
    assert speed(arms)["verdict"] == "no difference shown"


def test_a_minimum_at_the_end_or_a_loss_never_reached_is_not_observable() -> None:
    dense = arm(0.9, 0.9, 0.9, observed=False)
    assert speed({"ticket": arm(0.9, 0.9, 0.9), "dense": dense})["verdict"] == "not observable at this length"
    late = ArmFigures((0.9,) * 3, (10, 10, 10), (True,) * 3, (10, None, 10), (200,) * 3)
    assert speed({"ticket": late, "dense": arm(0.9, 0.9, 0.9)})["verdict"] == "not observable at this length"


def test_a_dense_run_above_its_own_mean_counts_with_its_whole_length() -> None:
    dense = ArmFigures((0.9,) * 4, (140,) * 4, (True,) * 4, (160, 140, 180, None), (200,) * 4)
    found = speed({"ticket": arm(0.9, 0.9, 0.9, 0.9, steps=(60, 60, 80, 60)), "dense": dense})
    assert (found["verdict"], found["ticket_iterations"], found["dense_iterations"]) == ("earlier", 65, 170)
    assert found["dense_runs_that_never_reach_it"] == 1


def test_of_an_error_the_lower_one_is_better() -> None:
    arms = {"ticket": arm(0.1, 0.1, 0.1), "dense": arm(0.3, 0.3, 0.3), "random": arm(0.05, 0.05, 0.05)}
    found = compare(arms, 0.002, higher_is_better=False)
    assert {name: part["verdict"] for name, part in found.items()} == {"dense": "yes", "random": "no"}
    assert found["dense"]["difference"] == pytest.approx(0.2)


def test_the_sentence_says_what_wins_and_what_is_not_shown() -> None:
    arms = {"ticket": arm(0.9, 0.9, 0.9), "dense": arm(0.9, 0.9, 0.9), "random": arm(0.9, 0.9, 0.9)}
    text = sentence(0.1, compare(arms, 0.002), speed(arms), 3, 0.002)
    assert text.startswith(
        "This ticket of 10.0% of the weights does not win: it matches the dense network to within 0.2 points (+0.00"
    )
    assert "not shown that it beats a random mask" in text
