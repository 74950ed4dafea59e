"""Kept and pruned actions of Zhou et al. 2019: on hand-written tensors, and in searches of a few weights."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tombola as tb
from supermask_searches import network as drawn_network
from supermask_searches import splits
from tombola.errors import TombolaError
from tombola.levels.actions import KEPT_ACTIONS, PRUNED_ACTIONS, Layer, PrunedAction, kept_action, pruned_action
from tombola.methods.imp import IterativePruning
from tombola.results.search import SearchResult
from tombola.rng.seeds import generator
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.select.criteria import Context
from tombola.train.options import Options
from tombola.train.recipe import Recipe

W = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.5, -0.25]])
W_F = torch.tensor([[0.5, -3.0, 3.0], [1.0, -0.75, 0.0]])
"""Toward zero: 1 -> 0.5, -4 -> 1 (over it), -0.25 -> 0; away: -2, 0.5 -> -0.75; unmoved: 3."""
KEPT = torch.tensor([[True, True, False], [False, False, True]])
PRUNED = torch.tensor([[False, False, True], [True, True, False]])
STD = math.sqrt(sum((x + 1.75 / 6) ** 2 for x in (1, -2, 3, -4, 0.5, -0.25)) / 6)


def layer(seed: int = 0, **changed: Tensor) -> Layer:
    fields: dict[str, Any] = {"w": W, "w_f": W_F, "kept": KEPT, "pruned": PRUNED, **changed}
    return Layer(**fields, generator=generator(seed, "test"))


def order(count: int, seed: int = 0) -> Tensor:
    return torch.randperm(count, generator=generator(seed, "test"))


# -- kept weights


def test_rewind_gives_the_weights_of_the_rewind_point() -> None:
    assert torch.equal(KEPT_ACTIONS["rewind"](layer()), W)


def test_reinit_permutes_the_whole_layer() -> None:
    expected = W.flatten()[order(6)].view(2, 3)
    assert torch.equal(KEPT_ACTIONS["reinit"](layer()), expected)
    assert torch.equal(KEPT_ACTIONS["reinit_same_sign"](layer()), expected.abs() * W.sign())
    assert not torch.equal(KEPT_ACTIONS["reinit"](layer(1)), expected)


def test_reshuffle_permutes_kept_weights_among_kept_positions() -> None:
    moved = torch.tensor([1.0, -2.0, -0.25])[order(3)]
    found = KEPT_ACTIONS["reshuffle"](layer())
    assert torch.equal(found[KEPT], moved)
    assert torch.equal(KEPT_ACTIONS["reshuffle_same_sign"](layer())[KEPT], moved.abs() * torch.tensor([1, -1, -1]))


def test_constant_is_the_layers_standard_deviation_with_signs_permuted_or_its_own() -> None:
    signs = torch.tensor([1.0, -1, 1, -1, 1, -1])
    assert torch.allclose(KEPT_ACTIONS["constant"](layer()).flatten(), signs[order(6)] * STD)
    assert torch.allclose(KEPT_ACTIONS["constant_same_sign"](layer()).flatten(), signs * STD)
    assert pytest.approx(float(W.std(correction=0))) == STD


@pytest.mark.parametrize("name", ["rewind", "reinit", "reinit_same_sign", "reshuffle", "constant_same_sign"])
def test_rescaled_is_the_same_times_size_over_kept(name: str) -> None:
    assert torch.allclose(KEPT_ACTIONS[f"{name}_rescaled"](layer()), 2 * KEPT_ACTIONS[name](layer()))


def test_a_layer_that_keeps_nothing_is_rescaled_by_its_size_at_most() -> None:
    none = torch.zeros_like(KEPT)
    assert bool(KEPT_ACTIONS["constant_rescaled"](layer(kept=none)).isfinite().all())


@pytest.mark.parametrize("name", [name for name in KEPT_ACTIONS if "same_sign" in name])
def test_the_sign_is_kept_where_it_is_said(name: str) -> None:
    for seed in range(5):
        found = KEPT_ACTIONS[name](layer(seed))
        assert torch.equal(found[KEPT].sign(), W[KEPT].sign())


def test_every_name_is_there() -> None:
    plain = ["rewind", *(f"{a}{s}" for a in ("reinit", "reshuffle", "constant") for s in ("", "_same_sign"))]
    plain += [f"{a}_trained_sign" for a in ("rewind", "reinit", "reshuffle", "constant")]
    assert set(KEPT_ACTIONS) == {f"{name}{end}" for name in plain for end in ("", "_rescaled")}


# -- pruned weights


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zero", [0, 0, 0]),
        ("train", [0, 0, 0]),
        ("freeze", [3, -4, 0.5]),
        ("zero_or_freeze", [3, 0, 0.5]),  # 3 stays as large, -4 comes to 1, 0.5 grows to -0.75
        ("zero_or_freeze_all", [3, 0, 0.5]),
        ("zero_or_freeze_reversed", [3, -4, 0]),
    ],
)
def test_values_of_pruned_weights(name: str, expected: list[float]) -> None:
    assert PRUNED_ACTIONS[name].value(layer())[PRUNED].tolist() == expected


def test_frozen_anew_takes_values_of_the_layer() -> None:
    expected = W.flatten()[order(6)].view(2, 3)
    assert torch.equal(PRUNED_ACTIONS["freeze_reinit"].value(layer())[PRUNED], expected[PRUNED])


def test_the_reshuffled_control_zeroes_as_many_at_other_positions() -> None:
    where = set()
    for seed in range(20):
        values = PRUNED_ACTIONS["zero_or_freeze_reshuffled"].value(layer(seed))[PRUNED]
        assert int((values == 0).sum()) == 1
        assert all(value in (0.0, frozen) for value, frozen in zip(values.tolist(), [3.0, -4.0, 0.5], strict=True))
        where.add(int((values == 0).nonzero()))
    assert where == {0, 1, 2}


def test_only_variant_2_changes_what_kept_weights_begin_with() -> None:
    for name, action in PRUNED_ACTIONS.items():
        expected = [0, -2, 0] if name == "zero_or_freeze_all" else [1, -2, -0.25]
        assert action.begin(layer(), W)[KEPT].tolist() == expected, name


def test_only_train_leaves_pruned_weights_free() -> None:
    assert [name for name, action in PRUNED_ACTIONS.items() if action.trains] == ["train"]


# -- by name


def halves(layer: Layer) -> Tensor:
    return layer.w / 2


HALVES = PrunedAction(halves, trains=True)


def test_actions_are_named_or_found_at_an_import_path() -> None:
    assert kept_action("reinit") is KEPT_ACTIONS["reinit"]
    assert kept_action(f"{__name__}.halves") is halves
    assert pruned_action(f"{__name__}:halves") == PrunedAction(halves)
    assert pruned_action(f"{__name__}.HALVES") is HALVES


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kept_action": "reinitt"}, "unknown kept_action 'reinitt' (did you mean reinit?)"),
        ({"pruned_action": "frozen"}, "unknown pruned_action 'frozen'"),
        ({"pruned_action": "math.pi"}, "pruned_action 'math.pi' is 3.14"),
        ({"kept_action": halves}, "kept_action is a function; give its name or import path"),
        ({"rewind": "lr", "kept_action": "reinit"}, "rewind is 'lr', by which weights stay as they are trained"),
        ({"rewind": "lr:5it", "pruned_action": "freeze"}, "pruned_action zero or train"),
        ({"retrain": {"rate": 0.1}}, "unknown field of retrain 'rate'"),
        ({"retrain": {"precision": "bf16-mixed"}}, "unknown field of retrain 'precision'"),
        ({"retrain": "lr"}, "retrain is 'lr', but it must be a mapping"),
    ],
)
def test_mistakes_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TombolaError) as caught:
        IterativePruning(**options).pruning()
    assert words in str(caught.value)


# -- searches

RECIPE = Recipe(length="8it", batch_size=8, lr=0.05, momentum=0.9, eval_every="4it")
OPTIONS = Options(progress=False, device="cpu")


def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        return drawn_network()


def find(out: Path, **options: Any) -> SearchResult:
    method = IterativePruning(**{"density": 0.3, "rounds": 2, **options})
    return run_find(make_request(network(), splits(), method, recipe=RECIPE, options=OPTIONS), out)


def tickets(out: Path, **options: Any) -> list[tb.Ticket]:
    """The tickets of all levels, the dense one's first."""
    found = find(out, **options)
    assert found.run is not None
    return [tb.Ticket.load(Path(found.run) / str(level.ticket)) for level in found.replicates[0].levels]


def built(ticket: tb.Ticket, weights: Any = "final") -> dict[str, Tensor]:
    return dict(ticket.build(weights, model=network()).state_dict())


@pytest.mark.parametrize("name", KEPT_ACTIONS)
def test_kept_weights_begin_with_what_the_action_gives(name: str, tmp_path: Path) -> None:
    dense, *found = tickets(tmp_path, kept_action=name)
    start = dict(network().state_dict())
    for level, ticket in enumerate(found, 1):
        before, origin = ([dense, *found][level - 1], built(ticket, "origin"))
        for key, keep in ticket.mask.items():
            draw = generator(0, "kept-action", level, key)
            w_f = built(before)[key]
            expected = KEPT_ACTIONS[name](Layer(start[key], w_f, keep, before.mask[key] & ~keep, draw))
            assert torch.equal(origin[key][keep], expected[keep])
            assert not origin[key][~keep].any()
            assert not built(ticket)[key][~keep].any()
        assert ticket.mask.nested_in(before.mask)
        assert ticket.origin.state_dict(network()).keys() == start.keys()
        assert all(torch.equal(value, start[key]) for key, value in ticket.origin.state_dict(network()).items())
    assert found[-1].mask.kept == round(0.3 * found[-1].mask.total)


@pytest.mark.parametrize("rewind", ["init", "3it"])
@pytest.mark.parametrize("name", PRUNED_ACTIONS)
def test_pruned_weights_rest_at_the_value_of_the_level_that_prunes_them(name: str, rewind: str, tmp_path: Path) -> None:
    found = tickets(tmp_path, pruned_action=name, rewind=rewind)
    held: dict[str, Tensor] = {}
    for level, (before, ticket) in enumerate(pairwise(found), 1):
        point = ticket.origin.state_dict(network())
        origin, final = built(ticket, "origin"), built(ticket)
        for key, keep in ticket.mask.items():
            new = before.mask[key] & ~keep
            draw = generator(0, "pruned-action", level, key)
            value = PRUNED_ACTIONS[name].value(Layer(point[key], built(before)[key], keep, new, draw))
            held[key] = torch.where(new, value, held.get(key, torch.zeros_like(value)))
            assert torch.equal(origin[key][~keep], held[key][~keep])
            same = torch.equal(final[key][~keep], held[key][~keep])
            assert same == (name != "train")
            assert not torch.equal(final[key][keep], origin[key][keep])
    assert found[-1].mask.kept == round(0.3 * found[-1].mask.total)


def test_a_frozen_network_costs_no_more_to_store_than_a_pruned_one(tmp_path: Path) -> None:
    rules = {name: tickets(tmp_path, pruned_action=name)[-1].pruned_rule for name in PRUNED_ACTIONS}
    assert rules["zero"] == "zero"
    assert rules["freeze"] == "origin"
    assert rules["train"] == "train"
    frozen = tickets(tmp_path, pruned_action="freeze")[-1]
    assert frozen.pruned_values is None
    assert frozen.begin is None


def test_one_size_takes_signs_alone_or_nothing(tmp_path: Path) -> None:
    same = tickets(tmp_path, kept_action="constant_same_sign")[-1]
    assert same.begin is None
    assert (same.representation.kind, same.representation.on) == ("signed_constant", "origin")
    drawn = tickets(tmp_path, kept_action="constant")[-1]
    assert drawn.begin is not None
    assert {value.dtype for value in drawn.begin.values()} == {torch.int8}


def test_one_shot_masks_come_from_the_dense_network_and_nest(tmp_path: Path) -> None:
    dense, first, second = tickets(tmp_path, one_shot=True, pruned_action="zero_or_freeze")
    w_f = built(dense)
    alone = tickets(tmp_path, density=0.3, rounds=2)[1]
    assert alone.mask == first.mask
    for key, keep in second.mask.items():
        kept = w_f[key].abs()[keep].min()
        assert bool((w_f[key].abs()[~keep] <= kept).all())
        w = network().state_dict()[key]
        expected = torch.where(w_f[key].abs() < w.abs(), 0, w)[~keep]
        assert torch.equal(built(second, "origin")[key][~keep], expected)
    assert second.mask.nested_in(first.mask)


def test_weights_whose_learning_rate_alone_rewinds_may_train_on(tmp_path: Path) -> None:
    dense, first, second = tickets(tmp_path, rewind="lr", pruned_action="train")
    for ticket in (first, second):
        for key, keep in ticket.mask.items():
            assert torch.equal(built(ticket, "origin")[key], torch.where(keep, built(dense)[key], 0))
            assert bool(built(ticket)[key][~keep].any())


@pytest.mark.parametrize("rewind", ["init", "3it", "lr", "lr:3it"])
def test_retraining_has_its_own_recipe(rewind: str, tmp_path: Path) -> None:
    """lr 0: what later levels begin with is what they end with."""
    found = tickets(tmp_path, rewind=rewind, retrain={"lr": 0.0, "momentum": 0.0})
    for before, ticket in pairwise(found):
        begun = built(ticket, "origin") if rewind[:2] != "lr" else built(before)
        for key, keep in ticket.mask.items():
            assert torch.equal(built(ticket)[key][keep], begun[key][keep])
    assert any(not torch.equal(built(found[0])[key], value) for key, value in network().state_dict().items())


def test_levels_record_the_recipe_that_trained_them(tmp_path: Path) -> None:
    levels = find(tmp_path, retrain={"lr": 0.01, "schedule": "cosine"}).replicates[0].levels
    assert [level.recipe["lr"] for level in levels] == [0.05, 0.01, 0.01]
    assert [level.recipe["schedule"] for level in levels] == ["constant", "cosine", "cosine"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retrain": {"lr": -1}}, "retrain: lr is -1"),
        ({"retrain": {"length": "2it"}, "rewind": "3it"}, "retrain makes the training of later levels 2 long"),
        ({"retrain": {"optimizer": "adam"}, "rewind": "3it"}, "retrain changes optimizer from 'sgd' to 'adam'"),
        ({"retrain": {"batch_size": 4}, "rewind": "3it"}, "retrain changes batch_size"),
        ({"retrain": {"optimizer": "adamm"}}, "unknown optimizer 'adamm'"),
        ({"kept_action": f"{__name__}.halves_of_one"}, "gave a tensor of shape () for"),
        ({"kept_action": f"{__name__}.nothing"}, "gave NaN or infinite values for"),
        ({"pruned_action": f"{__name__}.broken"}, "pruned action broken failed on the Layer of"),
        ({"pruned_action": f"{__name__}.nowhere"}, "pruned action nowhere gave meta values for"),
        ({"kept_action": f"{__name__}.sparse"}, "kept action sparse gave torch.sparse_coo values for"),
        ({"kept_action": f"{__name__}.complex_ones"}, "gave torch.complex64 values for"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(TombolaError) as caught:
        find(tmp_path, **options)
    assert words in str(caught.value)
    assert not list(tmp_path.rglob("level-00"))


def halves_of_one(layer: Layer) -> Tensor:
    return torch.tensor(0.5)


def nothing(layer: Layer) -> Tensor:
    return layer.w / 0


def broken(layer: Layer) -> Tensor:
    raise ValueError("no")


def nowhere(layer: Layer) -> Tensor:
    return layer.w.to("meta")


def sparse(layer: Layer) -> Tensor:
    return layer.w.to_sparse()


def complex_ones(layer: Layer) -> Tensor:
    return layer.w.to(torch.complex64)


def writes_over(layer: Layer) -> Tensor:
    """What `rewind` and `freeze` give, after which the layer is spoilt."""
    values = layer.w.clone()
    for tensor in (layer.w, layer.w_f, layer.kept, layer.pruned):
        tensor.fill_(1)
    return values


def magnitude_written_over(context: Context) -> dict[str, Tensor]:
    assert context.mask is not None
    scores = {name: w.abs() for name, w in context.final.items()}
    for given in (context.initial, context.final, context.mask):
        for tensor in given.values():
            tensor.fill_(1)
    return scores


def test_what_writes_to_its_arguments_changes_nothing_else(tmp_path: Path) -> None:
    own = f"{__name__}.writes_over"
    expected = tickets(tmp_path, pruned_action="freeze")
    written = tickets(tmp_path, kept_action=own, pruned_action=own, criterion=f"{__name__}.magnitude_written_over")
    for one, other in zip(expected, written, strict=True):
        for key, keep in one.mask.items():
            assert torch.equal(keep, other.mask[key])
            assert torch.equal(built(one)[key], built(other)[key])


def test_an_action_of_ones_own_is_taken(tmp_path: Path) -> None:
    found = tickets(tmp_path, pruned_action=f"{__name__}.halves", kept_action=f"{__name__}.halves")[-1]
    for key, value in built(found, "origin").items():
        expected = network().state_dict()[key]
        assert torch.equal(value, expected / 2 if key in found.mask else expected)
    assert replace(found, provenance={}) != found


def test_a_rate_and_patterns_go_with_actions(tmp_path: Path) -> None:
    for options in ({"pattern": "2:4", "density": None}, {"scope": "global"}, {"pattern": "block:2"}):
        found = find(tmp_path, pruned_action="freeze", kept_action="reshuffle", **options)
        assert found.ticket is not None
        ticket = tb.Ticket.load(found.ticket)
        for key, keep in ticket.mask.items():
            assert torch.equal(built(ticket)[key][~keep], network().state_dict()[key][~keep])
