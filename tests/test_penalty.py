"""A penalty on the weights: its gradient by hand and by finite differences, where it acts, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from cli_calls import call
from supermask_searches import KillAt, Killed, levels_of, network, splits
from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.mask import Mask
from tombola.methods.imp import IterativePruning
from tombola.methods.joint import Joint
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.supermask.attach import attach
from tombola.supermask.rules import TopK
from tombola.supermask.weights import Dense, Masked
from tombola.train import trial
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.options import Options
from tombola.train.penalty import hoyer, l1, penalties
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="24it", batch_size=8, lr=0.05, momentum=0.9, eval_every="12it")
W = torch.tensor([3.0, -1.0, 0.0, -4.0])


def gradient(penalty: Any, weight: Tensor) -> list[float]:
    leaf = weight.clone().requires_grad_()
    penalty(leaf).backward()
    assert leaf.grad is not None
    found: list[float] = leaf.grad.tolist()
    return found


def test_l1_by_hand() -> None:
    assert float(l1(W)) == 8
    assert gradient(l1, W) == [1, -1, 0, -1]


def test_hoyer_by_hand() -> None:
    """S = 8, Q = 26: 64/26; 2·8/26·(sign - 8/26·w)."""
    assert float(hoyer(W)) == pytest.approx(64 / 26)
    expected = [16 / 26 * (sign - 8 / 26 * w) for sign, w in ((1, 3), (-1, -1), (0, 0), (-1, -4))]
    assert gradient(hoyer, W) == pytest.approx(expected)
    assert gradient(hoyer, W)[0] > 0 > gradient(hoyer, W)[1]  # 3 shrinks a little, -1 more: both towards 0
    assert gradient(hoyer, W)[3] > 0  # -4 grows


@pytest.mark.parametrize("penalty", [l1, hoyer])
def test_gradients_are_those_of_finite_differences(penalty: Any) -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(penalty, weight)


def test_hoyer_does_not_see_the_scale_and_lies_between_one_and_n() -> None:
    assert float(hoyer(W * 1e-12)) == pytest.approx(float(hoyer(W)))
    assert float(hoyer(torch.tensor([0.0, 5.0, 0.0]))) == 1
    assert float(hoyer(torch.full((7,), -0.3))) == pytest.approx(7)


@pytest.mark.parametrize("penalty", [l1, hoyer])
def test_a_layer_of_zeros_has_no_gradient_and_no_nan(penalty: Any) -> None:
    assert gradient(penalty, torch.zeros(4)) == [0, 0, 0, 0]
    assert float(penalty(torch.zeros(4))) == 0


class Gradients(Hook):
    """Notes every gradient of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def after_backward(self, loop: Any) -> None:
        if loop.step == 0:
            self.found = {name: p.grad.clone() for name, p in loop.model.named_parameters() if p.grad is not None}


def first_gradients(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    noted = Gradients()
    train(model, splits(), replace(recipe, length="1it"), hooks=[noted])
    return noted.found


def added(make: Any, **penalty: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network as it begins, and what the penalty adds to its gradients."""
    plain, more = first_gradients(make(), RECIPE), first_gradients(make(), replace(RECIPE, **penalty))
    assert plain.keys() == more.keys()
    return make(), {name: more[name] - plain[name] for name in plain}


def test_it_is_on_prunable_weights_alone() -> None:
    model, extra = added(network, penalty="l1", strength=0.5)
    for name, weight in model.named_parameters():
        expected = 0.5 * weight.sign() if name in tb.prunable(model) else torch.zeros_like(weight)
        assert torch.allclose(extra[name], expected, atol=1e-6), name


def test_hoyer_is_of_every_layer_by_itself() -> None:
    model, extra = added(network, penalty="hoyer", strength=0.01)
    for name, weight in tb.prunable(model).items():
        (expected,) = torch.autograd.grad(0.01 * hoyer(weight), weight)
        assert torch.allclose(extra[name], expected, atol=1e-6), name


@pytest.mark.parametrize("more", [{"accumulate": 4}, {"precision": "bf16-mixed"}])
def test_parts_of_a_batch_add_it_once(more: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **more)
    plain, with_it = (first_gradients(network(), r) for r in (recipe, replace(recipe, penalty="l1", strength=0.5)))
    weight = dict(network().named_parameters())["4.weight"]
    assert torch.allclose(with_it["4.weight"] - plain["4.weight"], 0.5 * weight.sign(), atol=1e-6)


def test_frozen_weights_have_none_and_tied_ones_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.flat, self.a, self.b, self.c = nn.Flatten(), nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 2)
            self.b.weight = self.a.weight
            self.c.weight.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(self.b(self.a(self.flat(x)).relu()))
            return out

    model, extra = added(Tied, penalty="l1", strength=0.5)
    assert torch.allclose(extra["a.weight"], 0.5 * model.a.weight.sign(), atol=1e-6)  # type: ignore[union-attr,operator]
    assert "c.weight" not in extra


@pytest.mark.parametrize("value", [None, 0.7])
def test_weights_that_are_held_count_for_nothing(value: float | None) -> None:
    """Hoyer's sums are those of the kept weights, whatever the others are held at."""
    draw = torch.Generator().manual_seed(1)
    mask = Mask({name: torch.rand(w.shape, generator=draw) < 0.5 for name, w in tb.prunable(network()).items()})
    values = None if value is None else {name: torch.full(keep.shape, value) for name, keep in mask.items()}

    def held() -> nn.Module:
        model = network()
        hold(model, mask, values)
        return model

    model, extra = added(held, penalty="hoyer", strength=0.01)
    for name, keep in mask.items():
        kept = (dict(model.named_parameters())[name].detach() * keep).requires_grad_()
        (expected,) = torch.autograd.grad(0.01 * hoyer(kept), kept)
        assert torch.allclose(extra[name], expected * keep, atol=1e-6), name


@pytest.mark.parametrize("rule", [Masked(), Dense()])
def test_under_a_learned_mask_kept_weights_and_their_scores_have_it(rule: Any) -> None:
    def masked() -> nn.Module:
        model = network()
        attach(model, TopK(0.5), weights=rule)
        return model

    model, extra = added(masked, penalty="l1", strength=0.5)
    for name, layer in (("0", model[0]), ("4", model[4])):  # type: ignore[index]
        supermask = layer.parametrizations.weight[0]
        weight, mask, scores = layer.parametrizations.weight.original, supermask.mask, supermask.scores
        at = f"{name}.parametrizations.weight"
        assert torch.allclose(extra[f"{at}.original"], 0.5 * weight.sign() * mask, atol=1e-6)
        assert torch.allclose(extra[f"{at}.0.scores"], 0.5 * weight.abs() * mask * scores.sign(), atol=1e-6)


def size(ticket: tb.Ticket) -> float:
    return sum(float(w.abs().sum()) for w in tb.prunable(ticket.build(model=network())).values())


@pytest.mark.parametrize("method", [IterativePruning(density=0.5, rounds=1), Joint(density=0.5)])
def test_weights_end_smaller(method: Any) -> None:
    plain = tb.find(network(), splits(), method, recipe=RECIPE)
    small = tb.find(network(), splits(), method, recipe=replace(RECIPE, penalty="l1", strength=1e-2))
    assert size(small) < 0.9 * size(plain)
    assert small.provenance["recipe"]["penalty"] == "l1"


def test_hoyer_makes_weights_unlike_and_verify_trains_by_it() -> None:
    method, recipe = IterativePruning(levels=0), replace(RECIPE, penalty="hoyer", strength=3e-3, length="60it")

    def spread(found: tb.Ticket) -> float:
        weights = tb.prunable(found.build(model=network())).values()
        return sum(float(hoyer(w)) / w.numel() for w in weights)

    plain = tb.find(network(), splits(), method, recipe=replace(recipe, penalty=None, strength=0.0))
    found = tb.find(network(), splits(), method, recipe=recipe)
    assert spread(found) < spread(plain)
    assert tb.verify(found, splits(), model=network(), replicates=1).recipe["penalty"] == "hoyer"


def test_later_levels_may_have_one_of_their_own() -> None:
    """The dense level is trained without, the next by the penalty."""
    method = IterativePruning(density=0.5, rounds=1)
    plain = levels_of(method, recipe=RECIPE)
    small = levels_of(replace(method, retrain={"penalty": "l1", "strength": 1e-2}), recipe=RECIPE)
    assert small[0].ticket.mask == plain[0].ticket.mask
    assert size(small[0].ticket) == size(plain[0].ticket)
    assert size(small[1].ticket) < 0.9 * size(plain[1].ticket)


def test_a_killed_run_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_request(
        network(), splits(), Joint(density=0.5), recipe=replace(RECIPE, penalty="hoyer", strength=1e-3),
        options=Options(checkpoint_seconds=0, progress=False),
    )  # fmt: skip
    whole, real = run_find(request, tmp_path / "whole"), trial.train
    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", lambda *args, hooks=(), **more: real(*args, hooks=(*hooks, KillAt(17)), **more))
        with pytest.raises(Killed):
            run_find(request, tmp_path / "killed")
    resumed = run_find(request, tmp_path / "killed")
    assert Path(resumed.ticket).read_bytes() == Path(whole.ticket).read_bytes()


def squares(weight: Tensor) -> Tensor:
    return weight.square().sum() / 2


def vector(weight: Tensor) -> Tensor:
    return weight


def constant(weight: Tensor) -> Tensor:
    return torch.ones(())


def not_a_number(weight: Tensor) -> Tensor:
    return weight.sum() / 0


def broken(weight: Tensor) -> Tensor:
    raise ValueError("no such weight")


def test_a_function_of_the_users_own() -> None:
    """Half the squares are weight decay."""
    model, extra = added(network, penalty="test_penalty.squares", strength=0.5)
    assert torch.allclose(extra["4.weight"], 0.5 * model[4].weight, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("l2", "unknown penalty 'l2'.*allowed: l1, hoyer, or an import path"),
        ("test_penalty.nothing", "cannot be imported"),
        ("test_penalty.RECIPE", "is a Recipe, but it must be a function"),
        ("test_penalty.vector", r"gives shape \(4, 1, 3, 3\) for '0.weight'"),
        ("test_penalty.constant", "a number without a gradient for '0.weight'"),
        ("test_penalty.not_a_number", "gives (nan|-?inf) for '0.weight'"),
        ("test_penalty.broken", "fails on '0.weight'.*no such weight"),
    ],
)
def test_what_is_no_penalty_is_said_before_training(name: str, message: str, tmp_path: Path) -> None:
    recipe = replace(RECIPE, penalty=name, strength=0.1)
    with pytest.raises(TombolaError, match=message):
        tb.find(network(), splits(), IterativePruning(), recipe=recipe, out=tmp_path)
    assert not list(tmp_path.rglob("*.ticket"))


@pytest.mark.parametrize("given", ["l2", ["l1"], {}, 3])
def test_a_penalty_of_later_levels_is_checked_before_training(given: Any) -> None:
    method = IterativePruning(rounds=1, retrain={"penalty": given, "strength": 0.1})
    with pytest.raises(TombolaError, match="penalty"):
        tb.find(network(), splits(), method, recipe=RECIPE)


@pytest.mark.parametrize("name", ["strength", "lr", "weight_decay"])
def test_later_levels_take_no_nan(name: str) -> None:
    method = IterativePruning(rounds=1, retrain={name: float("nan")})
    with pytest.raises(TombolaError, match=f"retrain: {name} is nan"):
        tb.find(network(), splits(), method, recipe=replace(RECIPE, penalty="l1", strength=0.1))


def test_one_without_the_other_is_refused() -> None:
    with pytest.raises(TombolaError, match="penalty is 'l1', but no strength is given"):
        Recipe(penalty="l1")
    with pytest.raises(TombolaError, match=r"strength is 0.1, but no penalty is given"):
        Recipe(strength=0.1)
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(TombolaError, match="strength is"):
            Recipe(penalty="l1", strength=strength)
    assert not penalties(RECIPE)


@pytest.mark.parametrize("method", ["edge-popup", "learned-mask", "multi-prize"])
def test_where_weights_rest_it_is_refused(method: str) -> None:
    with pytest.raises(TombolaError, match=f"{method} trains no weights"):
        tb.find(network(), splits(), method, recipe={"penalty": "l1", "strength": 0.1})


def test_a_second_level_for_the_weights_has_it() -> None:
    method = tb.LearnedMask(finetune="24it", finetune_lr=0.05)
    plain, small = (
        tb.find(network(), splits(), method, recipe=recipe)
        for recipe in (RECIPE, replace(RECIPE, penalty="l1", strength=1e-2))
    )
    assert small.mask == plain.mask
    assert size(small) < 0.95 * size(plain)


def test_a_frozen_network_is_refused() -> None:
    model = network()
    for weight in tb.prunable(model).values():
        weight.requires_grad_(False)
    with pytest.raises(TombolaError, match="no prunable weight of the network requires a gradient"):
        tb.find(model, splits(), "imp", recipe={"penalty": "l1", "strength": 0.1})


def test_on_the_command_line(tmp_path: Path) -> None:
    command = ("find", "imp", "--model", "mlp", "--data", "digits", "--rounds", "1", "--length", "4it", "--out", "runs")
    status, _, err = call(*command[:-1], str(tmp_path), "--penalty", "l1", "--strength", "1e-4")
    assert (status, err.count("Traceback")) == (0, 0)
    status, _, err = call(*command[:-1], str(tmp_path), "--penalty", "l1")
    assert status == 2
    assert "no strength is given" in err
