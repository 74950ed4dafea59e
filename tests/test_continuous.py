"""Continuous Sparsification (Savarese et al. 2020): soft masks that harden, rounds that go on, a rewound ticket."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from supermask_searches import RECIPE, KillAt, Killed, levels_of, network, splits, state_of
from tombola.data.splits import make_splits
from tombola.errors import TombolaError
from tombola.levels.hooks import MaskSum
from tombola.search.find import run_find, validate
from tombola.search.request import make_request
from tombola.supermask import Continuous, Masked, Scaled, attach, read, refresh
from tombola.supermask.layers import layers
from tombola.supermask.masks import final_masks
from tombola.train import trial
from tombola.train.evaluate import evaluate
from tombola.train.feeds import evaluation_feed
from tombola.train.hooks import Hook
from tombola.train.options import Options
from tombola.train.state import Loop

LN3 = math.log(3)

# -- the rule


def test_masks_and_slopes_by_hand() -> None:
    rule, scores = Continuous(beta=2.0), torch.tensor([0.0, LN3 / 2, -LN3 / 2, LN3])
    soft = rule.soft_mask(scores)
    assert torch.allclose(soft, torch.tensor([0.5, 0.75, 0.25, 0.9]))
    assert rule.mask(scores).tolist() == [0, 1, 0, 1]  # 0 is not above 0
    assert torch.allclose(rule.slope(scores, soft), torch.tensor([0.5, 0.375, 0.375, 0.18]))


def soft_layer(beta: float, factor: float) -> nn.Linear:
    made = nn.Linear(6, 4, bias=False).double()
    attach(made, Continuous(beta), weights=Masked(), represent=Scaled(factor))
    with torch.no_grad():
        next(layers(made)).supermask.scores.normal_(generator=torch.Generator().manual_seed(0))
    refresh(made)
    return made


@pytest.mark.parametrize("beta", [1.0, 7.0])
def test_gradients_are_those_of_the_formula(beta: float) -> None:
    made = soft_layer(beta, 2.5)
    supermask, latent = (layer := next(layers(made))).supermask, layer.weight
    w, s = (x.detach().clone().requires_grad_() for x in (latent, supermask.scores))
    x = torch.randn(5, 6, dtype=torch.float64)
    (made(x) ** 2).sum().backward()
    effective = w * torch.sigmoid(beta * s) * 2.5
    ((x @ effective.T) ** 2).sum().backward()
    assert torch.allclose(made.weight.double(), effective, atol=1e-6)  # masks are held in float32
    assert torch.allclose(latent.grad, w.grad, rtol=1e-5, atol=1e-6)
    assert torch.allclose(supermask.scores.grad, s.grad, rtol=1e-5, atol=1e-6)


def test_what_is_read_and_evaluated_is_the_hard_mask_and_training_goes_on_with_the_soft_one() -> None:
    made = soft_layer(3.0, 2.0)
    supermask, latent = (layer := next(layers(made))).supermask, layer.weight
    kept = supermask.scores > 0
    soft = supermask.mask.clone()
    assert 0 < int(kept.sum()) < kept.numel()
    assert torch.equal(read(made)["weight"], kept)
    with final_masks(made):
        assert torch.equal(made.weight, latent * kept * 2)
    assert torch.equal(supermask.mask, soft)


def test_scores_of_a_given_mask_keep_it() -> None:
    scores = {"w": torch.tensor([-0.1, -0.1, 0.0, 0.0])}
    mask = tb.Mask({"w": torch.tensor([True, False, True, False])})
    lifted = Continuous().scores_from_mask(scores, mask)["w"]
    assert torch.equal(Continuous().mask(lifted) > 0, mask["w"])
    assert Continuous().soft_mask(lifted)[~mask["w"]].max() < 1e-4


def test_the_penalty_is_the_gradient_of_the_sum_of_the_mask() -> None:
    made = soft_layer(4.0, 2.0)
    supermask = next(layers(made)).supermask
    supermask.scores.grad = torch.zeros_like(supermask.scores)
    loop: Any = type("Loop", (), {"model": made})()
    MaskSum(0.3).after_backward(loop)
    s = supermask.scores.detach().clone().requires_grad_()
    (0.3 * torch.sigmoid(4 * s).sum()).backward()
    assert torch.allclose(supermask.scores.grad, s.grad, rtol=1e-5)


# -- rounds


def test_beta_rises_from_1_to_its_end_by_equal_factors() -> None:
    method = tb.Continuous()
    assert [method.beta(step, 3) for step in range(4)] == pytest.approx([1, math.sqrt(200), 200, 200])
    assert method.beta(0, 1) == 200


class Masks(Hook):
    """The scores, the mask and the latent first layer of every step, as it is trained."""

    def __init__(self) -> None:
        self.rows: list[tuple[Tensor, Tensor]] = []
        self.began: dict[str, Tensor] = {}

    def on_start(self, loop: Loop) -> None:
        self.began = {name: value.clone() for name, value in loop.model.state_dict().items()}
        self.decay = [group["weight_decay"] for group in loop.optimizer.param_groups]

    def before_step(self, loop: Loop) -> None:
        supermask = next(layers(loop.model)).supermask
        self.rows.append((supermask.scores.detach().clone(), supermask.mask.clone()))


def watched(monkeypatch: pytest.MonkeyPatch, method: tb.Continuous, **more: Any) -> tuple[list[Any], list[Masks]]:
    """The levels of a search, and what was seen of every training of masks."""
    seen, real = [], trial.train

    def train(*args: Any, hooks: Any = (), **options: Any) -> Any:
        if next(layers(args[0]), None) is None:
            return real(*args, hooks=hooks, **options)
        seen.append(Masks())
        return real(*args, hooks=(*hooks, seen[-1]), **options)

    monkeypatch.setattr(trial, "train", train)
    return levels_of(method, **more), seen


def test_masks_harden_within_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rounds = watched(monkeypatch, tb.Continuous(rounds=2, logit=-0.01))
    assert len(rounds) == 2
    for seen in rounds:
        assert len(seen.rows) == 8
        for step, (scores, mask) in enumerate(seen.rows):
            assert torch.allclose(mask, torch.sigmoid(200 ** (step / 7) * scores), atol=1e-6), step
        assert seen.decay == [0.0, RECIPE.weight_decay]
    assert (rounds[0].rows[0][0] == -0.01).all()


@pytest.mark.parametrize("rewind_rounds", [False, True])
def test_a_round_goes_on_from_the_one_before(monkeypatch: pytest.MonkeyPatch, rewind_rounds: bool) -> None:
    method = tb.Continuous(rounds=2, logit=0.02, final_beta=50, rewind_rounds=rewind_rounds)
    levels, (first, second) = watched(monkeypatch, method)
    ended = levels[0].rewind
    assert ended is not None
    weights = [name for name in ended.model if name.endswith(".original")]
    assert weights
    for name, value in second.began.items():
        if name.endswith(".scores"):
            assert torch.equal(value, (50 * ended.model[name]).clamp(max=0.02))
            assert value.min() < 0.02
        elif name.endswith(".mask"):
            continue
        else:
            assert torch.equal(value, (first.began if rewind_rounds else ended.model)[name]), name
    assert not all(torch.equal(first.began[name], ended.model[name]) for name in weights)


def test_levels_are_the_rewind_point_the_rounds_and_the_ticket() -> None:
    levels = levels_of(tb.Continuous(rounds=2, rewind="3it", logit=0.01))
    assert [level.level for level in levels] == [0, 1, 2, 3]
    assert levels[0].result.steps == 3
    assert all(torch.equal(keep, levels[2].ticket.mask[name]) for name, keep in levels[3].ticket.mask.items())
    rewound, begun = state_of(levels[0].ticket), state_of(levels[3].ticket, "origin")
    for name, keep in levels[3].ticket.mask.items():
        assert torch.equal(begun[name], rewound[name] * keep)  # without the factor of the rounds
    assert levels[3].result.first_step == 3
    assert [level.level for level in levels_of(tb.Continuous(rounds=1, logit=0.01))] == [1, 2]


def test_a_round_is_tested_as_its_ticket_is_built() -> None:
    for level in levels_of(tb.Continuous(rounds=2, logit=0.01)):
        model, data = level.ticket.build(model=network()), splits()
        score = evaluate(model, evaluation_feed(data, data.test, torch.device("cpu"), False), data.task)
        assert score.metric == level.result.test_accuracy
        assert score.loss == pytest.approx(level.result.test_loss)


def test_the_first_score_steers_the_density() -> None:
    found = [levels_of(tb.Continuous(rounds=1, logit=logit))[-1].result.density for logit in (-0.02, 0.0, 0.02)]
    assert 0 < found[0] < found[1] < found[2] < 1


@pytest.mark.parametrize("killed_in", [2, 3])
def test_a_search_killed_in_any_round_ends_the_same(
    killed_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, options = replace(RECIPE, length="20it"), Options(checkpoint_seconds=0, progress=False)
    method, real, trainings = tb.Continuous(rounds=2, rewind="2it", logit=0.01), trial.train, [0]

    def run(out: Path) -> bytes:
        found = run_find(make_request(network(), splits(), method, recipe=long, options=options), out)
        return Path(found.ticket).read_bytes()

    def train(*args: Any, hooks: Any = (), **more: Any) -> Any:
        trainings[0] += 1
        return real(*args, hooks=(*hooks, KillAt(17)) if trainings[0] == killed_in else hooks, **more)

    expected = run(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(trial, "train", train)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    assert run(tmp_path / "killed") == expected


# -- strangers


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(x.flatten(1)).relu()).relu())


@pytest.mark.parametrize("kind", ["tied", "double", "bfloat16", "no bias"])
def test_unusual_networks(kind: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = Tied() if kind == "tied" else nn.Sequential(
        nn.Flatten(), nn.Linear(36, 16, bias=kind != "no bias"), nn.ReLU(), nn.Linear(16, 2, bias=kind != "no bias")
    )  # fmt: skip
    if kind in ("double", "bfloat16"):
        model = model.to(getattr(torch, "float64" if kind == "double" else kind))
    ticket = tb.find(model, splits(), tb.Continuous(rounds=2, logit=0.03), recipe=RECIPE)
    built = ticket.build(model=model)
    assert 0 < ticket.mask.kept < ticket.mask.total
    assert next(built.parameters()).dtype == next(model.parameters()).dtype
    assert "second.weight" not in ticket.mask


def test_another_loss_and_bf16() -> None:
    part = splits().train
    data = make_splits(*[(part.x, part.x.mean((1, 2, 3))[:, None])] * 3, tb.data.splits.Task(
        nn.functional.mse_loss, lambda output, target: (output - target).square().mean(1), "error",
        higher_is_better=False, name="regression"))  # fmt: skip
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 1))
    recipe = replace(RECIPE, precision="bf16-mixed", accumulate=2)
    assert tb.find(model, data, tb.Continuous(rounds=1, logit=0.03), recipe=recipe).mask.kept > 0


# -- refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.3}, "density is 0.3, but that of continuous is an outcome"),
        ({"logit": math.nan}, "logit is nan"),
        ({"logit": 21.0}, "logit is 21"),
        ({"rounds": 0}, "rounds is 0"),
        ({"final_beta": 0.5}, "final_beta is 0.5"),
        ({"mask_penalty": -1.0}, "mask_penalty is -1"),
        ({"rewind": "lr"}, "rewind is 'lr'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError, match=message) as caught:
        tb.Continuous(**options)
    assert "\n" not in str(caught.value)


def test_what_cannot_work_here_is_refused_before_anything_is_trained() -> None:
    def tried(method: Any, **more: Any) -> None:
        validate(make_request(network(), splits(), method, recipe=RECIPE, **more), splits())

    with pytest.raises(TombolaError, match="rewind is to iteration 10, but training has 8"):
        tried(tb.Continuous(rewind="10it"))
    with pytest.raises(TombolaError, match="stop_when_stable is set"):
        tried(tb.Continuous(stop_when_stable=True))
    ticket = tb.find(network(), splits(), tb.IterativePruning(density=0.5, rounds=1), recipe=RECIPE)
    with pytest.raises(TombolaError, match="continuous cannot start from a ticket"):
        tried(tb.Continuous(), start=ticket)
    tried(tb.Continuous())
    tried(tb.Continuous(logit=-20.0))  # the factor of 5e8 is taken back by the soft mask with which training begins


def test_a_mask_that_cuts_the_network_is_named() -> None:
    with pytest.raises(TombolaError, match="no path leads from input to output"):
        levels_of(tb.Continuous(rounds=1, logit=-5.0))
