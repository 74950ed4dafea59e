"""Pressing a learned mask to a density: the plan, the gradient and the last cut by hand; whole runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from supermask_searches import levels_of, network, splits
from tombola.errors import TombolaError
from tombola.levels.controller import PressDensity, begin_density, excess, planned, root_mean_square, settle
from tombola.levels.hooks import Refresh
from tombola.supermask.attach import attach
from tombola.supermask.layers import layers
from tombola.supermask.rules import Bernoulli, Threshold
from tombola.train.loop import train
from tombola.train.recipe import Recipe

RECIPE = Recipe(length="200it", batch_size=8, optimizer="adam", lr=0.1, eval_every="100it")


def test_the_density_falls_by_the_same_factor_at_every_step_and_then_stays() -> None:
    assert [planned(1.0, 0.25, share) for share in (0.0, 0.5, 1.0, 1.7)] == pytest.approx([1, 0.5, 0.25, 0.25])
    assert [planned(0.2, 0.8, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.4, 0.8])


def test_where_it_begins() -> None:
    assert begin_density({"a": torch.ones(3), "b": torch.ones(1)}) == 1
    assert begin_density({"a": torch.zeros(4)}) == 0.5
    assert begin_density({"a": torch.tensor([1.0, -1.0, 0.0, -2.0])}) == 0.375
    assert begin_density({"a": torch.full((4,), -1.0)}) == 0.25  # not 0: one weight at least


def test_the_error_is_how_far_scores_are_too_large() -> None:
    scores = {"a": torch.tensor([0.3, -0.1]), "b": torch.tensor([0.7, 0.2])}
    assert excess(scores, 0.75) == 0
    assert excess(scores, 0.5) == pytest.approx(0.2)  # moved down by that, two lie above 0
    assert excess(scores, 0.25) == pytest.approx(0.3)
    assert excess(scores, 1e-9) == pytest.approx(0.3)  # one stays
    assert excess(scores, 1.0) == pytest.approx(-0.1)
    assert excess({"a": torch.zeros(4)}, 0.5) == 0


@pytest.mark.parametrize("density", [0.2, 0.4, 0.6, 1.0])
def test_the_last_cut_is_exact_and_moves_all_by_one_amount(density: float) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = {"a": torch.randn(5, 3, generator=draw) + 2, "b": torch.randn(10, generator=draw) - 1}
    before = {name: s.clone() for name, s in scores.items()}
    settle(scores, density)
    assert sum(int((s > 0).sum()) for s in scores.values()) == round(density * 25)
    moved = torch.cat([(before[name] - scores[name]).flatten() for name in scores])
    assert torch.allclose(moved, moved[0].expand_as(moved), atol=1e-5)


def test_the_last_cut_parts_ties_by_their_order() -> None:
    scores = {"a": torch.tensor([1.0, 1.0, 3.0]), "b": torch.tensor([1.0, -2.0])}
    settle(scores, 0.6)
    assert (scores["a"] > 0).tolist() == [True, True, True]
    assert (scores["b"] > 0).tolist() == [False, False]
    assert scores["a"].tolist()[2] == 2
    assert scores["b"].tolist() == [0, -3]


def test_root_mean_square_is_over_all_elements() -> None:
    assert root_mean_square([torch.tensor([3.0, 1.0]), torch.tensor([[1.0], [1.0]])]) == pytest.approx(3**0.5)


class Bare:
    """What a hook sees of a loop, with one layer of given scores."""

    def __init__(self, scores: Tensor, rule: Any, total: int = 400) -> None:
        self.model = nn.Linear(scores.numel(), 1, bias=False)
        attach(self.model, rule)
        (layer,) = layers(self.model)
        self.scores = layer.supermask.scores
        with torch.no_grad():
            self.scores.copy_(scores.view(1, -1))
        self.step, self.total = 0, total

    def stepped(self, hook: PressDensity, gradient: Tensor, lr: float) -> Tensor:
        """One step of plain gradient descent; gives the gradient that the hook has made of it."""
        self.scores.grad = gradient.clone().view(1, -1)
        hook.after_backward(self)  # type: ignore[arg-type]
        seen = self.scores.grad.clone()
        with torch.no_grad():
            self.scores -= lr * self.scores.grad
        self.step += 1
        hook.after_step(self)  # type: ignore[arg-type]
        return seen[0]


def test_one_step_of_steering_by_hand() -> None:
    """Plain descent at lr 100 by gradients of 0.01: steps of 1. One of four is to be kept at once, the largest score is
    then 3, so that all are 3 too large, to be mended within 20 iterations: a speed of 0.15, by 0.01 / 1 a step."""
    loop, hook = Bare(torch.full((4,), 2.0), Threshold(), total=40), PressDensity(0.25, 1e-9)
    hook.on_start(loop)  # type: ignore[arg-type]
    gradient = torch.tensor([0.01, -0.01, 0.01, -0.01])
    assert torch.equal(loop.stepped(hook, gradient, lr=100), gradient)  # nothing is known yet
    assert loop.scores[0].tolist() == pytest.approx([1, 3, 1, 3])
    assert hook.gamma == pytest.approx(0.15 * 0.01 / 0.25, rel=1e-4)
    p = torch.sigmoid(loop.scores[0].detach())
    assert torch.allclose(loop.stepped(hook, torch.zeros(4), lr=100), hook.gamma * p * (1 - p))


def test_too_sparse_a_mask_is_pressed_up() -> None:
    loop, hook = Bare(torch.tensor([-1.0, -1.0, -1.0, 1.0]), Threshold()), PressDensity(0.75, 1e-9)
    hook.on_start(loop)  # type: ignore[arg-type]
    for _ in range(3):
        loop.stepped(hook, torch.tensor([0.01, -0.01, 0.01, -0.01]), lr=1.0)
    assert hook.gamma < 0


def test_the_pressure_stays_below_the_gradients_size() -> None:
    """However far the density is from the plan."""
    loop, hook = Bare(torch.full((100,), 40.0), Threshold()), PressDensity(0.01, 1e-9)
    with torch.no_grad():
        loop.scores[0, :50] = 0.5
    hook.on_start(loop)  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(0)
    for _ in range(60):
        gradient = 1e-3 * torch.randn(100, generator=draw)
        seen = loop.stepped(hook, gradient, lr=0.1)
        assert root_mean_square([seen - gradient]) < 2.5e-3


def test_a_warm_up_from_0_steers_nothing() -> None:
    loop, hook = Bare(torch.zeros(4), Bernoulli()), PressDensity(0.5, 0.5)
    hook.on_start(loop)  # type: ignore[arg-type]
    loop.stepped(hook, torch.ones(4), lr=0.0)
    assert hook.gamma == 0


@pytest.mark.parametrize("rule", ["threshold", "bernoulli", "intermediate"])
@pytest.mark.parametrize("density", [0.2, 0.8])
def test_tickets_have_exactly_the_density_asked_for(rule: str, density: float) -> None:
    method = tb.LearnedMask(rule=rule, density=density, samples=2)
    level = levels_of(method, recipe=RECIPE)[-1]
    assert level.ticket.mask.kept == round(density * level.ticket.mask.total)
    assert level.result.density == pytest.approx(density, abs=1e-3)


@pytest.mark.parametrize("settings", [{"optimizer": "adam", "lr": 0.1}, {"optimizer": "sgd", "lr": 100.0}])
@pytest.mark.parametrize(("rule", "begins"), [(Threshold(), 1.0), (Bernoulli(), 0.5)])
def test_the_mask_is_near_it_before_the_last_cut(rule: Any, begins: float, settings: dict[str, Any]) -> None:
    """Adam and Zhou et al.'s SGD alike; followed on the way down, and held."""
    seen: dict[int, float] = {}

    class Seen(PressDensity):
        def after_step(self, loop: Any) -> None:
            scores = [layer.supermask.scores for layer in layers(loop.model)]
            seen[loop.step] = sum(int((s > 0).sum()) for s in scores) / sum(s.numel() for s in scores)
            super().after_step(loop)

    model = network()
    attach(model, rule)
    recipe = replace(RECIPE, length="400it", **settings)
    train(model, splits(), recipe, hooks=[Seen(0.3, 0.5), Refresh()])
    assert seen[160] == pytest.approx(planned(begins, 0.3, 0.8), abs=0.06)
    assert seen[400] == pytest.approx(0.3, abs=0.03)


def test_what_excludes_each_other_is_refused() -> None:
    with pytest.raises(TombolaError, match=r"density is 0\.1 and mask_decay 0\.5"):
        tb.LearnedMask(density=0.1, mask_decay=0.5)
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(TombolaError, match="reached_at is"):
            tb.LearnedMask(density=0.1, reached_at=share)
    with pytest.raises(TombolaError, match=r"density is 1\.5"):
        tb.LearnedMask(density=1.5)
    with pytest.raises(TombolaError, match="nothing is kept of"):
        tb.find(network(), splits(), tb.LearnedMask(density=1e-6), recipe=RECIPE)
    with pytest.raises(TombolaError, match="only with the last of 200 iterations"):
        tb.find(network(), splits(), tb.LearnedMask(density=0.5, stop_when_stable=True), recipe=RECIPE)


def test_without_a_density_nothing_is_pressed() -> None:
    method = tb.LearnedMask(rule="threshold")
    assert method.density is None
    assert not method.hooks(None)  # type: ignore[arg-type]


def test_a_ticket_to_start_from_is_where_it_begins() -> None:
    start = tb.find(network(), splits(), tb.EdgePopup(density=0.7), recipe=replace(RECIPE, length="8it"))
    found = tb.find(network(), splits(), tb.LearnedMask(density=0.3), recipe=RECIPE, start=start)
    assert found.mask.kept == round(0.3 * found.mask.total)
    assert (sum(int((keep & start.mask[name]).sum()) for name, keep in found.mask.items())) > 0.8 * found.mask.kept
