"""What a whole search cost, by hand: sums over its levels, and ratios to dense training."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import asdict

from tombola.results.cost import Cost, cost_of, mean, ratio, search_cost, summed
from tombola.results.trial import LevelResult, TrainingCost
from trial_results import level_figures, search_result


def level(
    number: int, steps: int, flops: int | None, *, kept: int = 50, seconds: float = 1.0, **more: Any
) -> LevelResult:
    counted = TrainingCost(
        flops=flops,
        memory_bytes=more.pop("memory", 100),
        energy_joules=more.pop("joules", None),
        forward_passes=8 * steps,
    )
    figures = {"whole_steps": steps, **more, "kept": kept, "density": kept / 50, "seconds": seconds, "cost": counted}
    return level_figures(number, steps=steps, **figures)


def amounts(cost: Cost) -> tuple[Any, ...]:
    return tuple(asdict(cost).values())[:5]


def test_the_levels_add_up_and_memory_is_the_largest() -> None:
    found = search_cost(
        [level(0, 100, 3000, memory=7), level(1, 100, 3000, kept=40, memory=9), level(2, 50, 1500, kept=30)]
    )
    assert amounts(found.total) == (250, 7500, 3.0, 100, None)
    assert amounts(found.dense) == (100, 3000, 1.0, 7, None)
    assert (found.total.forward_passes, found.dense.forward_passes) == (2000, 800)
    assert found.dense_trained
    assert found.train_prune_retrain is None
    assert asdict(found.over_dense) == {
        "iterations": 2.5,
        "flops": 2.5,
        "seconds": 3.0,
        "memory_bytes": 100 / 7,
        "energy_joules": None,
        "forward_passes": 2.5,
    }


def test_what_one_level_does_not_know_the_search_does_not() -> None:
    found = search_cost([level(0, 100, 3000, joules=4.0), level(1, 100, None, kept=40, joules=2.5)])
    assert found.total.flops is None
    assert found.over_dense.flops is None
    assert found.total.energy_joules == 6.5
    assert found.over_dense.energy_joules == 6.5 / 4


def test_results_from_before_costs_were_counted_have_iterations_and_seconds() -> None:
    found = search_cost([level_figures(0, kept=50, density=1.0), level_figures(1)])
    assert amounts(found.total) == (20, None, 0.2, None, None)
    assert found.dense_trained
    assert found.over_dense.iterations == 2


def test_iterations_before_a_rewind_point_are_not_trained_again() -> None:
    assert cost_of(level(1, 100, 2400, first_step=20)).iterations == 80


def test_an_early_bird_is_compared_with_dense_training_of_the_whole_length() -> None:
    # 20 of 160 iterations at 30 FLOPs until the ticket emerges, then 140 more at 12
    search = level(0, 20, 20 * 30, whole_steps=160, stopped="stable", seconds=2.0, joules=8.0, memory=100)
    going_on = level(1, 160, 140 * 12, first_step=20, kept=15, seconds=7.0, joules=28.0, memory=40)
    found = search_cost([search, going_on])
    assert not found.dense_trained
    assert amounts(found.dense) == (160, 4800, 16.0, 100, 64.0)
    assert amounts(found.total) == (160, 600 + 1680, 9.0, 100, 36.0)
    assert found.over_dense.flops == 2280 / 4800
    # train whole, prune, train the small network for as long as its recipe says
    assert found.train_prune_retrain is not None
    assert amounts(found.train_prune_retrain) == (320, 4800 + 160 * 12, 24.0, 100, 96.0)
    again = found.over_train_prune_retrain
    assert again is not None
    assert again.flops == 2280 / 6720


def test_an_early_bird_that_starts_again_trains_its_whole_length() -> None:
    found = search_cost([level(0, 20, 600, whole_steps=160), level(1, 160, 160 * 12, kept=15)])
    assert found.total.flops == 600 + 1920
    assert found.train_prune_retrain is not None
    assert found.train_prune_retrain.flops == 4800 + 1920


def test_a_learned_mask_computes_a_dense_networks_flops_in_another_time() -> None:
    found = search_cost([level(1, 50, 1500, kept=25, whole_steps=100), level(2, 30, 900, kept=25)])
    assert amounts(found.dense) == (100, 3000, None, None, None)
    assert not found.dense_trained
    assert found.train_prune_retrain is None
    assert found.over_dense.flops == 2400 / 3000
    assert found.over_dense.seconds is None


def test_a_search_that_trained_nothing_has_no_estimate() -> None:
    found = search_cost([level(1, 20, None, first_step=20, whole_steps=40)])
    assert found.dense.flops is None
    assert found.over_dense.flops is None


def test_means_and_sums() -> None:
    costs = [
        Cost(iterations=10, flops=3, seconds=1.0, memory_bytes=10, energy_joules=None),
        Cost(iterations=13, flops=6, seconds=2.0, memory_bytes=20, energy_joules=1.0),
    ]
    assert amounts(mean(costs)) == (12, 4, 1.5, 15, None)
    assert amounts(summed(costs)) == (23, 9, 3.0, 20, None)
    assert mean(costs[:1]) == costs[0]
    assert ratio(costs[0], costs[1].replace(flops=0)).flops is None


def test_flops_stay_whole_beyond_the_integers_of_a_float() -> None:
    big = Cost(iterations=1, flops=2**60 + 1, seconds=None, memory_bytes=None, energy_joules=None)
    assert summed([big, big]).flops == 2**61 + 2


def test_a_dense_network_is_as_long_as_the_recipe_and_not_as_the_search_of_a_mask() -> None:
    """A mask learned for 200 iterations beside a teacher (a third more), then 90 of 100 iterations of training."""
    searched = level(1, 200, 8000, kept=25, recipe={"length": "200it"})
    trained = level(2, 100, 2700, kept=25, first_step=10, recipe={"length": "100it"})
    found = search_cost([searched, trained], "100it")
    assert (found.dense.iterations, found.dense.flops) == (100, 3000)
    assert search_cost([searched, trained]).dense.iterations == 200
    as_long = level(1, 100, 4000, kept=25, recipe={"length": "100it"})
    assert search_cost([as_long, trained], "100it").dense.flops == 3000


def test_the_json_of_a_search_begins_with_its_totals() -> None:
    found = search_result({"ticket": (level(0, 100, 3000), level(1, 100, 3000, kept=40))})
    head = found.headed()["cost"]
    assert head["flops"] == 6000
    assert head["dense"]["flops"] == 3000
    assert head["dense_trained"] is True
    assert head["over_dense"]["flops"] == 2
    assert head["train_prune_retrain"] is None
    counted = {"flops": 3000, "memory_bytes": 100, "forward_passes": 800}
    assert found.as_dict()["replicates"][0]["arms"]["ticket"][0]["cost"] == counted
    assert found.cost.as_dict()["total"]["flops"] == 6000


@pytest.mark.parametrize("steps", [100, 90])
def test_a_dense_level_that_was_stopped_is_not_a_whole_training(steps: int) -> None:
    found = search_cost([level(0, steps, 30 * steps, whole_steps=100), level(1, 100, 3000, kept=40)])
    assert found.dense_trained == (steps == 100)
    assert found.dense.flops == 3000
