"""Pruning at initialisation: layer densities and schedules by hand, the control, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from fixed_studies import fixed_arms
from supermask_searches import RECIPE, levels_of, network, splits
from tombola.errors import TombolaError
from tombola.levels.foresight import shuffled
from tombola.levels.plan import by_steps, in_proportion
from tombola.mask import Mask
from tombola.rng.seeds import generator
from tombola.select.context import Context
from tombola.select.patterns import Block, parse_pattern
from tombola.study.setting import check_arms

MASK = Mask({"a": torch.ones(4, 6, dtype=torch.bool), "b": torch.ones(2, 4, dtype=torch.bool)})


# ---- how much of each layer --------------------------------------------------------------------------------


def counts(mask: Mask = MASK, **options: Any) -> list[Any]:
    return list(tb.AtInit(**options).plan(mask, "b"))


def test_uniform_counts_add_up_exactly() -> None:
    assert counts(density=0.3, scope="layer") == [{"a": 24, "b": 8}, {"a": 8, "b": 2}]  # 7.5 and 2.5 of 10
    assert counts(density=0.3) == [32, 10]


def test_erk_by_hand() -> None:
    """Densities in proportion to (4 + 6)/24 and (2 + 4)/8, so counts to 10 and 6: of 16, 10 and 6."""
    assert counts(density=0.5, layers="erk")[-1] == {"a": 10, "b": 6}


def test_a_layer_that_erk_would_keep_more_than_whole_is_whole() -> None:
    """Of 24 counts in proportion 10 : 6 would be 15 and 9; b has but 8, and a gets the other 16."""
    assert counts(density=0.75, layers="erk")[-1] == {"a": 16, "b": 8}


def test_layers_are_filled_in_cascade() -> None:
    weights, room = {"a": 1.0, "b": 4.0, "c": 20.0}, {"a": 100, "b": 6, "c": 3}
    assert in_proportion(weights, room, 14) == {"a": 5, "b": 6, "c": 3}  # c first (11.2 > 3), then b (8.8 > 6)
    assert in_proportion(weights, room, 109) == room
    with pytest.raises(TombolaError, match="only 109 are there"):
        in_proportion(weights, room, 110)


def test_given_densities_go_by_the_longest_pattern() -> None:
    method = {"layer_densities": {"*": 0.25, "b": 0.5}}
    assert counts(**method) == [{"a": 24, "b": 8}, {"a": 6, "b": 4}]
    assert counts(layer_densities={"b": 0.5, "*": 0.25}) == counts(**method)
    for densities, message in (({"a": 0.5}, "none for 'b'"), ({"*": 0.5, "c.*": 0.1}, "'c.\\*' fits no pruned weight")):
        with pytest.raises(TombolaError, match=message):
            counts(layer_densities=densities)


def test_the_schedule_is_exponential_and_ends_exactly() -> None:
    assert by_steps({"": 1000}, {"": 10}, 2) == [{"": 1000}, {"": 100}, {"": 10}]
    assert by_steps({"a": 5, "b": 0, "c": 4}, {"a": 5, "b": 0, "c": 0}, 2)[1:] == [{"a": 5, "b": 0, "c": 0}] * 2
    assert counts(density=0.125, iterations=3) == [32, 16, 8, 4]
    assert counts(density=0.125, iterations=3, layers="uniform")[1:] == [
        {"a": 12, "b": 4},
        {"a": 6, "b": 2},
        {"a": 3, "b": 1},
    ]
    assert len(counts(density=0.1, criterion="synflow")) == 101


def test_a_ticket_to_start_from_bounds_its_layers() -> None:
    kept = Mask({"a": torch.arange(24).view(4, 6) < 20, "b": torch.arange(8).view(2, 4) < 2})
    assert counts(kept, density=0.5, layers="erk")[-1] == {"a": 14, "b": 2}
    assert counts(kept, density=0.5, iterations=2) == [22, 19, 16]
    for options in ({"density": 0.75}, {"layer_densities": {"*": 0.5}}):
        with pytest.raises(TombolaError, match="start"):
            counts(kept, **options)


# ---- the mask ----------------------------------------------------------------------------------------------


def masks(**options: Any) -> dict[str, Tensor]:
    (level,) = levels_of(tb.AtInit(**options))
    return dict(level.ticket.mask)


def test_snip_in_one_iteration_is_what_the_example_finds() -> None:
    from examples.snip import Snip

    ours = masks(density=0.2, criterion="snip")
    theirs = dict(levels_of(Snip(density=0.2, batches=1))[-1].ticket.mask)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


SEEN: list[tuple[float, float]] = []


def noting(context: Context) -> dict[str, Tensor]:
    """A criterion that notes what it is shown: the density so far, and what of the masked network is not 0."""
    model = context.network("initial")
    weights = [model.get_parameter(name) for name in context.final]
    assert context.mask is not None
    assert context.generator is not None
    nonzero = sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)
    SEEN.append((context.mask.density, nonzero))
    return {
        name: torch.rand(w.shape, generator=context.generator, dtype=torch.float64) for name, w in context.final.items()
    }


def test_every_iteration_sees_the_network_under_the_mask_so_far() -> None:
    SEEN.clear()
    mask = masks(density=0.125, criterion="test_at_init.noting", iterations=3, layers="erk")
    assert sum(int(kept.sum()) for kept in mask.values()) == round(0.125 * 1204)
    assert [round(density, 2) for density, _ in SEEN] == [1.0, 0.5, 0.25]
    assert all(density == nonzero for density, nonzero in SEEN)


def test_iterations_draw_anew() -> None:
    one, two = masks(criterion="random", density=0.5), masks(criterion="random", density=0.5, iterations=2)
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("pattern", ["element", "block:2"])
def test_the_shuffled_control_keeps_the_counts_and_not_the_positions(pattern: str) -> None:
    plain = masks(density=0.3, pattern=pattern)
    control = masks(density=0.3, pattern=pattern, shuffle=True)
    assert {name: int(kept.sum()) for name, kept in plain.items()} == {n: int(k.sum()) for n, k in control.items()}
    assert any(not torch.equal(plain[name], control[name]) for name in plain)


def test_shuffling_stays_within_a_ticket_and_within_groups() -> None:
    begin = Mask({"a": torch.arange(24).view(4, 6) < 12})
    mask = Mask({"a": torch.arange(24).view(4, 6) < 6})
    draws = [shuffled(mask, begin, parse_pattern("element"), generator(seed)).mask for seed in range(20)]
    assert all(drawn.kept == 6 and drawn.nested_in(begin) for drawn in draws)
    assert torch.stack([drawn["a"] for drawn in draws]).any(0).sum() == 12  # every position that may be drawn is
    two = shuffled(mask, Mask.full(mask), parse_pattern("3:6"), generator(0)).mask
    assert (two["a"].sum(1) == 3).all()
    rows = shuffled(
        Mask({"a": torch.ones(4, 6) > torch.tensor([0, 0, 0, 1, 1, 1])}), Mask.full(mask), Block(4), generator(0)
    )
    assert rows.mask["a"].all(0).sum() == 3
    assert rows.mask.kept == 12


def test_it_goes_on_within_a_ticket() -> None:
    (first,) = levels_of(tb.AtInit(density=0.5))
    (second,) = levels_of(tb.AtInit(density=0.25, criterion="synflow", iterations=3), start=first.ticket)
    assert second.ticket.mask.nested_in(first.ticket.mask)
    assert second.ticket.mask.kept == round(0.25 * 1204)


def test_kept_weights_begin_at_the_initialisation() -> None:
    (level,) = levels_of(tb.AtInit(density=0.3))
    begun = level.ticket.build("origin", model=network()).state_dict()
    dense = network().state_dict()
    for name, kept in level.ticket.mask.items():
        assert torch.equal(begun[name], dense[name] * kept)


# ---- names and refusals ------------------------------------------------------------------------------------


def test_hyphens_are_the_same_criterion() -> None:
    one, other = tb.AtInit(criterion="small-init"), tb.AtInit(criterion="small_init")
    assert one == other
    assert hash(one) == hash(other)
    assert tb.AtInit(layers="erk").scope == tb.AtInit(scope="layer").scope == "layer"
    assert tb.AtInit(scope="layer").layers == "uniform"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "snop"}, "did you mean snip"),
        ({"criterion": len}, "give its name or import path"),
        ({"iterations": 0}, "iterations is 0"),
        ({"criterion_batches": 0}, "criterion_batches is 0"),
        ({"temperature": 2.0}, "of criterion grasp alone"),
        ({"criterion": "grasp", "temperature": 0.0}, "above 0"),
        ({"criterion": "grasp", "temperature": float("inf")}, "above 0"),
        ({"density": 0.0}, "density is 0.0"),
        ({"layers": "even"}, "layers"),
        ({"layers": "given"}, "layer_densities go together"),
        ({"layers": "erk", "layer_densities": {"*": 0.1}}, "go together"),
        ({"density": 0.5, "layer_densities": {"*": 0.1}}, "leave one of them out"),
        ({"layer_densities": {"*": 1.5}}, "density is 1.5"),
        ({"layer_densities": {"*": "much"}}, "must be a number"),
        ({"layer_densities": [0.1]}, "must be a mapping"),
        ({"layer_densities": {1: 0.1}}, "layer_densities name 1, but a name pattern must be a text: '1'"),
        ({"pattern": "channel"}, "early-bird"),
        ({"pattern": "2:4", "density": 0.3}, "fixes the density at 0.5"),
        ({"pattern": "2:4", "iterations": 3}, "in one iteration"),
        ({"pattern": "2:4", "layers": "erk"}, "in one iteration"),
        ({"scope": "row"}, "scope"),
        ({"density": 0.001}, "no path leads"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **more: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("tombola.levels.stage.train_trial", never)
    with pytest.raises(TombolaError, match=message):
        tb.find(network(), splits(), tb.AtInit(**options), recipe=RECIPE)


class Hollow(nn.Module):
    """One of its layers takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hollow, self.last = network(), nn.Linear(0, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x) + self.hollow(x.flatten(1)[:, :0]))
        return out


@pytest.mark.parametrize("method", [tb.AtInit, tb.IterativePruning])
def test_a_weight_without_elements_is_to_be_left_out(method: type[tb.AtInit | tb.IterativePruning]) -> None:
    """A ticket takes no mask of nothing."""
    with pytest.raises(TombolaError, match=r"'hollow.weight' has no elements; leave it out with exclude"):
        tb.find(Hollow(), splits(), method(density=0.5), recipe=RECIPE)
    ticket = tb.find(Hollow(), splits(), method(density=0.5, exclude=("hollow.*",)), recipe=RECIPE)
    assert ticket.mask.density == pytest.approx(0.5, abs=0.01)


def test_scores_that_are_nan_are_refused() -> None:
    model = network()
    with torch.no_grad():
        model[4].weight[0, 0] = torch.nan
    with pytest.raises(TombolaError, match="NaN"):
        tb.find(model, splits(), tb.AtInit(criterion="magnitude"), recipe=RECIPE)


def test_any_network_and_loss_and_double_precision() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.LayerNorm(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 1))
    x = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = (x, x.mean((1, 2, 3), keepdim=False).unsqueeze(1))
    task = tb.data.splits.Task(nn.functional.mse_loss, nn.functional.mse_loss, metric_name="error")
    made = tb.data.splits.make_splits(data, data, data, task=task, floats=torch.float64)
    for criterion in ("snip", "grasp", "synflow"):
        method = tb.AtInit(density=0.3, criterion=criterion, iterations=2)
        ticket = tb.find(model.double(), made, method, recipe=RECIPE)
        assert ticket.mask.kept == round(0.3 * 222), criterion


# ---- the study ---------------------------------------------------------------------------------------------


def test_every_criterion_of_the_study_has_its_control_beside_it() -> None:
    arms = fixed_arms("at-init", densities=(0.2, 0.1), criteria=("snip", "ntk-sap"), iterations=3)
    at = ["imp", "random, erk", "snip", "snip, shuffled", "ntk-sap", "ntk-sap, shuffled"]
    assert [arm.name for arm in arms] == ["dense", *(f"{name} {density}" for density in ("0.2", "0.1") for name in at)]
    found = {arm.name: arm for arm in arms}
    plain, control = found["ntk-sap 0.1"], found["ntk-sap, shuffled 0.1"]
    assert plain.method == tb.AtInit(density=0.1, criterion="ntk_sap", iterations=3)
    assert control.method == tb.AtInit(density=0.1, criterion="ntk_sap", iterations=3, shuffle=True)
    assert (control.against, plain.against) == ("ntk-sap 0.1", None)
    assert found["random, erk 0.2"].method == tb.AtInit(density=0.2, criterion="random", layers="erk")
    check_arms(arms)
