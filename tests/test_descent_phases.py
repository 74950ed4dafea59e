"""The four phases of sparse double descent, on curves drawn by hand."""

from __future__ import annotations

import pytest

from tombola.study.double_descent.phases import fewest_fitting, phases

D = [1.0, 0.5, 0.25, 0.12, 0.06, 0.03, 0.015]


def seen(train: list[float], test: list[float]) -> dict[str, tuple[float | None, float | None]]:
    return {phase.name: (phase.densest, phase.sparsest) for phase in phases(D, train, test)}


def test_all_four() -> None:
    train = [0.0, 0.005, 0.05, 0.1, 0.15, 0.2, 0.5]
    test = [0.18, 0.18, 0.2, 0.22, 0.15, 0.1, 0.3]
    assert seen(train, test) == {
        "light": (1.0, 0.5),
        "critical": (0.25, 0.12),
        "sweet": (0.06, 0.03),
        "collapsed": (0.015, 0.015),
    }


def test_the_order_of_the_points_does_not_matter() -> None:
    train, test = [0.0, 0.005, 0.05, 0.1, 0.15, 0.2, 0.5], [0.18, 0.18, 0.2, 0.22, 0.15, 0.1, 0.3]
    assert phases(D[::-1], train[::-1], test[::-1]) == phases(D, train, test)


def test_a_peak_before_training_error_leaves_0_ends_the_light_phase() -> None:
    found = seen([0.0] * 5 + [0.2, 0.5], [0.18, 0.2, 0.22, 0.2, 0.15, 0.1, 0.3])
    assert found["light"] == (1.0, 0.5)
    assert found["critical"] == (0.25, 0.25)
    assert found["sweet"] == (0.12, 0.03)


def test_without_a_second_descent_nothing_is_critical_or_sweet() -> None:
    found = seen([0.0, 0.0, 0.0, 0.02, 0.1, 0.2, 0.5], [0.1, 0.1, 0.1, 0.12, 0.14, 0.2, 0.5])
    assert found == {
        "light": (1.0, 0.25),
        "critical": (None, None),
        "sweet": (None, None),
        "collapsed": (0.12, 0.015),
    }


def test_a_second_descent_without_a_peak_is_sweet() -> None:
    found = seen([0.0, 0.0, 0.02, 0.1, 0.1, 0.2, 0.3], [0.2, 0.2, 0.19, 0.15, 0.12, 0.11, 0.11])
    assert found == {"light": (1.0, 0.5), "critical": (None, None), "sweet": (0.25, 0.015), "collapsed": (None, None)}


def test_ripples_of_a_point_of_error_are_no_peak() -> None:
    found = seen([0.0] * 7, [0.1, 0.105, 0.1, 0.1, 0.105, 0.1, 0.1])
    assert found == {"light": (1.0, 0.015), "critical": (None, None), "sweet": (None, None), "collapsed": (None, None)}


def test_a_network_that_never_fits_has_no_light_phase() -> None:
    found = seen([0.1] * 7, [0.1, 0.12, 0.14, 0.1, 0.1, 0.1, 0.1])
    assert found["light"] == (None, None)
    assert found["critical"] == (1.0, 0.25)


@pytest.mark.parametrize("test", [[0.1, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1]])
def test_without_a_peak_a_network_that_never_fits_has_no_phase(test: list[float]) -> None:
    assert set(seen([0.1] * 7, test).values()) == {(None, None)}


@pytest.mark.parametrize(
    ("train", "threshold"), [([0.0, 0.0, 0.5], 0.5), ([0.0, 0.5, 0.0], 1.0), ([0.5, 0.0, 0.0], None), ([0.0] * 3, 0.25)]
)
def test_the_threshold_is_where_training_error_leaves_0(train: list[float], threshold: float | None) -> None:
    assert fewest_fitting([0.25, 0.5, 1.0], train[::-1]) == threshold
