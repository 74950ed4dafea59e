"""The hooks of learned masks by hand, one step at a time; masks made final for an evaluation and put back."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tombola.levels.hooks import Anneal, LogUtilisation, MaskDecay, Phases, Refresh
from tombola.results.trial import Utilisation
from tombola.supermask import Bernoulli, Identity, Masked, Threshold, TopK, attach, read, refresh
from tombola.supermask.layers import layers
from tombola.supermask.masks import final_masks


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def at(step: int, model: nn.Module, **more: Any) -> Any:
    return SimpleNamespace(step=step, model=model, **more)


def test_mask_decay_adds_the_slope_of_the_sigmoid() -> None:
    model = network()
    first, second = attach(model, Threshold()).scores
    with torch.no_grad():
        first.fill_(0.0)
    first.grad = torch.full_like(first, 3.0)
    MaskDecay(0.8).after_backward(at(1, model))
    assert first.grad.tolist() == [[pytest.approx(3.2)] * 4] * 3  # 3 + 0.8 / 4
    assert second.grad is None


def test_densities_are_logged_at_every_evaluation() -> None:
    model, log = network(), LogUtilisation()
    attach(model, TopK(0.5))
    log.after_eval(at(3, model))
    model[1].parametrizations.weight[0].mask.fill_(False)  # type: ignore[union-attr, index]
    log.after_eval(at(6, model))
    rows = [
        Utilisation(step=3, densities={"0.weight": 0.5, "1.weight": 0.5}),
        Utilisation(step=6, densities={"0.weight": 0.5, "1.weight": 0.0}),
    ]
    assert log.rows == rows
    resumed = LogUtilisation()
    resumed.load_state_dict(copy.deepcopy(log.state_dict()))
    resumed.after_eval(at(9, model))
    assert resumed.rows == [*rows, rows[1].replace(step=9)]
    assert log.rows == rows


def test_a_rule_is_annealed_from_the_start_and_before_every_refresh() -> None:
    model = network()
    attach(model, TopK(1.0))
    hook = Anneal(lambda step: TopK(1.0 / (2 + step)))
    hook.on_start(at(0, model))
    assert read(model).counts() == {"0.weight": (6, 12), "1.weight": (3, 6)}
    for step, kept in ((1, {"0.weight": (4, 12), "1.weight": (2, 6)}), (2, {"0.weight": (3, 12), "1.weight": (2, 6)})):
        hook.after_step(at(step, model))
        Refresh().after_step(at(step, model))
        assert read(model).counts() == kept
    before = read(model)
    hook.on_start(at(4, model))  # a resumed run goes on with the masks that it had
    assert read(model) == before
    refresh(model)
    assert read(model).counts()["0.weight"] == (2, 12)


def test_scores_and_weights_learn_by_turns() -> None:
    model = network()
    scores, weights = attach(model, TopK(0.5), weights=Masked())
    hook = Phases(lambda step: (step % 2 == 0, step % 2 == 1))
    loop = at(0, model, optimizer=torch.optim.SGD([{"params": scores}, {"params": weights}], 0.1))
    hook.on_start(loop)
    for step in range(4):
        loop.step = step
        hook.before_step(loop)
        assert [p.requires_grad for p in scores] == [step % 2 == 0] * 2
        assert [p.requires_grad for p in weights] == [step % 2 == 1] * 4


@pytest.mark.parametrize("error", [False, True])
def test_final_masks_are_the_likeliest_and_the_drawn_ones_come_back(error: bool) -> None:
    model, twin = network(), network()
    for each in (model, twin):
        attach(each, Bernoulli(), represent=Identity(rescale=True), scores="torch_default", seed=3)
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyError) if error else final_masks(twin), final_masks(model):
        for layer in layers(model):
            likeliest = layer.supermask.scores > 0
            assert torch.equal(layer.supermask.mask, likeliest)
            assert layer.supermask.scale == likeliest.numel() / int(likeliest.sum())
        if error:
            raise KeyError
    assert all(torch.equal(value, drawn[name]) for name, value in model.state_dict().items())
    refresh(model)
    refresh(twin)
    assert read(model) == read(twin)
    other = network()
    attach(other, Threshold())
    next(layers(other)).supermask.mask.fill_(False)
    with final_masks(other):  # no mask of a rule that draws none
        assert read(other).kept == 6
