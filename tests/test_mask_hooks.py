"""Hooks of learned masks at single steps: who is drawn anew, who leaves for good, and what a resumed run knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_tickets import MASKED, network
from tombola.levels.hooks import FreezeOut, Phases, Redraw, Refresh
from tombola.mask import Mask
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.supermask import Bernoulli, Masked, Round, TopK, attach, read
from tombola.supermask.layers import layers


def at(step: int, model: nn.Module, **more: Any) -> Any:
    return SimpleNamespace(step=step, model=model, **more)


def scores_of(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: layer.supermask.scores for layer in layers(model)}


# -- pruned weights drawn anew


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_pruned_weights_are_drawn_anew_by_seed_name_and_step(probability: float) -> None:
    model = network()
    attach(model, TopK(0.5))
    fresh = {layer.name: torch.full_like(layer.weight, 7.0) for layer in layers(model)}
    steps: list[int] = []
    hook = Redraw(lambda step: steps.append(step) or fresh, every=3, probability=probability, seed=5)
    before = {layer.name: layer.weight.detach().clone() for layer in layers(model)}
    for step in (0, 1, 2, 4):
        hook.before_step(at(step, model))
    assert not steps
    assert all(torch.equal(layer.weight, before[layer.name]) for layer in layers(model))
    for step in (3, 6):
        hook.before_step(at(step, model))
        for name, supermask, weight in layers(model):
            drawn = philox.uniform(derive(5, "redrawn", name, step), weight.numel()) < probability
            hit = torch.from_numpy(drawn).view_as(weight) & ~supermask.mask
            assert torch.equal(weight, torch.where(hit, fresh[name], before[name]))
            before[name] = weight.detach().clone()
    assert steps == [3, 6]


# -- scores that leave for good


def held_scores(model: nn.Module) -> dict[str, Tensor]:
    """0.01, 0.02, .. in the first layer, and 0.31, 0.32, .. in the second."""
    found = scores_of(model)
    with torch.no_grad():
        for name, begin in zip(MASKED, (0, 30), strict=True):
            found[name].copy_((1 + begin + torch.arange(found[name].numel())).view_as(found[name]) / 100)
    return found


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_lowest_scores_leave_for_good(scope: str) -> None:
    model = network()
    attach(model, Round())
    found = held_scores(model)
    hook = FreezeOut({2: 0.5, 4: 0.2}, scope)
    hook.on_start(at(0, model))
    whole = {name: scores.detach().clone() for name, scores in found.items()}
    for scores in found.values():
        scores.grad = torch.ones_like(scores)
    hook.after_backward(at(1, model))
    hook.after_step(at(1, model))
    assert all(torch.equal(scores, whole[name]) for name, scores in found.items())
    assert all(bool((scores.grad == 1).all()) for scores in found.values())
    assert hook.state_dict() == {"active": {}}

    # the 15 and 10 largest of each layer, or the 25 largest of all
    rest = {"layer": (15, 10), "global": (5, 20)}[scope]
    hook.after_step(at(2, model))
    for (name, scores), count in zip(found.items(), rest, strict=True):
        active = whole[name] > whole[name].max() - (count - 0.5) / 100
        assert int(active.sum()) == count
        assert torch.equal(scores, whole[name] * active)
        with torch.no_grad():
            scores += 0.3  # momentum goes on
        hook.after_backward(at(3, model))
        assert torch.equal(scores.grad, active.float())
    hook.after_step(at(3, model))
    gone = {name: scores == 0 for name, scores in found.items()}
    assert [int((~zero).sum()) for zero in gone.values()] == list(rest)

    first = found[MASKED[0]]
    with torch.no_grad():
        first[gone[MASKED[0]]] = 1.0  # who has left does not come back
        for scores in found.values():
            scores[scores > 0.4] += 5  # beyond 1 all count alike: ties go to the lower index
    hook.after_step(at(4, model))
    assert not bool(first[gone[MASKED[0]]].any())
    left = sum(int((scores != 0).sum()) for scores in found.values())
    assert left == 10
    resumed = FreezeOut({}, scope)
    resumed.load_state_dict(hook.state_dict())
    resumed.on_start(at(4, model))
    assert resumed.state_dict()["active"].keys() == set(MASKED)
    for scores in found.values():
        scores.grad = torch.ones_like(scores)
    resumed.after_backward(at(5, model))
    assert sum(int(scores.grad.sum()) for scores in found.values()) == 10
    nothing = FreezeOut({}, scope)
    nothing.load_state_dict({"active": {}})
    nothing.on_start(at(0, model))
    assert nothing.state_dict() == {"active": {}}


def test_scores_beyond_1_count_as_1_and_below_0_as_0() -> None:
    model = network()
    attach(model, Round())
    with torch.no_grad():
        for scores in scores_of(model).values():
            scores.fill_(0.5)
            scores.flatten()[-4:] = torch.tensor([1.0, 3.0, -2.0, 0.0])
            scores.flatten()[0] = 1.0
    hook = FreezeOut({1: 0.1}, "layer")
    hook.after_step(at(1, model))
    first, second = (scores.flatten() for scores in scores_of(model).values())
    assert first.nonzero().flatten().tolist() == [0, 26, 27]  # of 30 three
    assert second.nonzero().flatten().tolist() == [0, 16]  # of 20 two: of equals the first


def test_at_the_last_step_all_that_take_part_are_kept() -> None:
    for densities in ({}, {1: 0.5}):
        model = network()
        attach(model, Round())
        found = held_scores(model)
        hook = FreezeOut(densities, "layer", keep_all_at=2)
        for step in (1, 2):
            before = {name: scores.detach().clone() for name, scores in found.items()}
            hook.after_step(at(step, model))
        for name, scores in found.items():
            active = before[name] > 0
            assert torch.equal(scores, torch.where(active, before[name].clamp(min=0.5), 0.0))


# -- turns, refreshes


def test_who_learns_changes_only_where_it_must() -> None:
    model = network()
    scores, weights = attach(model, TopK(0.5), weights=Masked())
    hook = Phases(lambda step: (step > 1, False))
    loop = at(0, model, optimizer=torch.optim.SGD([{"params": scores}, {"params": weights}], 0.1))
    hook.before_step(loop)  # nothing is known before the start
    assert all(parameter.requires_grad for parameter in (*scores, *weights))
    hook.on_start(loop)
    hook.before_step(loop)
    assert not any(parameter.requires_grad for parameter in (*scores, *weights))
    loop.step = 2
    hook.before_step(loop)
    assert all(parameter.requires_grad for parameter in scores)
    assert not any(parameter.requires_grad for parameter in weights)
    frozen = network()
    alone, _ = attach(frozen, TopK(0.5))
    hook = Phases(lambda step: (True, True))
    hook.on_start(at(0, frozen, optimizer=torch.optim.SGD([*alone], 0.1)))
    hook.before_step(at(0, frozen))  # there are no weights that learn
    assert not any(layer.weight.requires_grad for layer in layers(frozen))


def test_drawn_masks_are_reported_as_the_likeliest_and_come_back() -> None:
    model = network()
    attach(model, Bernoulli(), scores=0.2, seed=3)
    drawn = read(model)
    put_back = Refresh().before_eval(at(1, model))
    assert read(model) == Mask.full(drawn)
    put_back()
    assert read(model) == drawn
    Refresh().after_step(at(1, model))
    assert read(model) != drawn
