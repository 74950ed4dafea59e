"""Supermasks on any model: what is frozen and thawed, what is read, what comes back from a state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from supermask_models import inputs, network, scores_of, train
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.supermask import (
    Bernoulli,
    Binary,
    Dense,
    Identity,
    Masked,
    Represent,
    SignedConstant,
    SrSte,
    Threshold,
    TopK,
    attach,
    detach,
    make_permanent,
    plain_state,
    read,
    refresh,
    rules,
)
from tombola.supermask.layers import layers
from tombola.supermask.masks import multipliers, set_rule
from tombola.supermask.rules import MaskRule

# -- which weights are frozen, and thawed


@pytest.mark.parametrize("represent", [Identity(), Identity(True), SignedConstant(), Binary(), Binary(True)])
@pytest.mark.parametrize("rule", [TopK(0.5), Threshold(), Bernoulli()])
def test_frozen_weights_do_not_move_by_a_bit(rule: MaskRule, represent: Represent) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    groups = attach(model, rule, represent=represent)
    assert groups.weights == []
    assert repr(groups) == f"Groups({len(groups.scores)} scores, 0 weights)"
    start = {name: score.clone() for name, score in scores_of(model).items()}
    train(model)
    moved = [name for name, score in scores_of(model).items() if not torch.equal(score, start[name])]
    assert moved == list(start)
    assert all(torch.equal(value, before[name]) for name, value in plain_state(model).items() if name in before)
    detach(model)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(value.requires_grad for value in model.parameters())


def test_rest_frozen_norms_or_trained() -> None:
    def learning(**more: Any) -> set[str]:
        model = network()
        weights = {id(p) for p in attach(model, **more).weights}
        return {name for name, p in model.named_parameters() if id(p) in weights}

    rest = {"0.bias", "1.weight", "1.bias", "4.bias", "5.bias"}
    latent = {f"{i}.parametrizations.weight.original" for i in (0, 4, 5)}
    assert learning() == set()
    assert learning(rest="norms") == {"1.weight", "1.bias"}
    assert learning(rest="trained") == rest
    assert learning(weights=Masked()) == rest | latent
    assert learning(weights=Dense(), rest="frozen") == latent
    with pytest.raises(TombolaError, match="frozen, norms, trained"):
        attach(network(), rest="thawed")  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [make_permanent, detach])
def test_what_was_frozen_is_thawed_and_nothing_else(end: Callable[[nn.Module], Any]) -> None:
    model = network()
    model[4].weight.requires_grad_(False)
    model[5].bias.requires_grad_(False)
    names = [name for name, _ in model.named_parameters()]
    before = [p.requires_grad for p in model.parameters()]
    objects = [id(p) for p in model.parameters()]
    attach(model, rest="norms")
    assert not any(p.requires_grad for name, p in model.named_parameters() if name.endswith(".original"))
    end(model)
    found = dict(model.named_parameters())
    assert sorted(found) == sorted(names)
    assert {name: found[name].requires_grad for name in names} == dict(zip(names, before, strict=True))
    assert {id(p) for p in found.values()} == set(objects)  # an optimiser that holds them still does
    attach(model)
    assert end(model) is None or not prunable(model)["4.weight"].requires_grad


def test_a_frozen_submodule_stays_frozen_in_joint_training_and_its_mask_learns() -> None:
    model = network()
    model[4].requires_grad_(False)
    before = model[4].weight.detach().clone()
    attach(model, weights=Masked())
    start = scores_of(model)["4.weight"].clone()
    train(model)
    assert torch.equal(plain_state(model)["4.weight"], before)
    assert not torch.equal(scores_of(model)["4.weight"], start)


@pytest.mark.parametrize("weights", [Masked(), Dense(), SrSte()])
def test_joint_training_moves_weights_and_scores_and_keeps_the_effective_zeros(weights: Any) -> None:
    model = network()
    attach(model, TopK(0.5), weights=weights)
    before = {layer.name: layer.weight.detach().clone() for layer in layers(model)}
    train(model)
    for name, old in before.items():
        module = model[int(name[0])]
        assert not torch.equal(plain_state(model)[name], old)
        assert torch.equal(module.weight, plain_state(model)[name] * read(model)[name])


# -- reading, refreshing, making permanent


@pytest.mark.parametrize("represent", [Identity(), Identity(True), SignedConstant(), SignedConstant(True), Binary()])
@pytest.mark.parametrize("rule", [TopK(0.4), TopK(0.4, "global"), Threshold(), Bernoulli()])
def test_make_permanent_leaves_the_effective_weights(rule: MaskRule, represent: Represent) -> None:
    model = network()
    names = list(model.state_dict())
    attach(model, rule, represent=represent)
    train(model)
    refresh(model, sample=False)
    model.eval()
    out, mask = model(inputs()), read(model)
    assert make_permanent(model) == mask
    assert torch.equal(model(inputs()), out)
    assert sorted(model.state_dict()) == sorted(names)
    if not isinstance(represent, SignedConstant):
        assert Mask.from_zeros(model) == mask
    assert not any(hasattr(m, "parametrizations") for m in model.modules())


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("pattern", ["element", "block:2"])
def test_one_selection_per_step_and_none_in_evaluation(
    scope: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("keep_largest", "select"):
        real = getattr(rules, name)
        monkeypatch.setattr(
            rules, name, lambda *args, real=real, name=name, **more: calls.append(name) or real(*args, **more)
        )
    model = network()
    attach(model, TopK(0.5, scope, pattern))
    in_place = (scope, pattern) == ("layer", "element")
    expected = ["keep_largest"] * 3 if in_place else ["select"]
    assert calls == expected
    for _ in range(3):
        calls.clear()
        train(model, 1)
        assert calls == expected
    calls.clear()
    mask = read(model)
    with torch.no_grad():
        for layer in layers(model):
            layer.supermask.scores.neg_().add_(1)
        model.eval()
        model(inputs())
        model.train()
        model(inputs())
    assert calls == []
    assert read(model) == mask
    refresh(model)
    assert read(model) != mask


def test_a_rule_may_change_between_refreshes() -> None:
    model = network()
    attach(model, TopK(0.5))
    set_rule(model, TopK(0.25))
    assert read(model).kept == round(0.5 * 36) + round(0.5 * 252) + round(0.5 * 14)
    refresh(model)
    assert read(model).kept == 9 + 63 + round(0.25 * 14)


def test_whole_layers_are_kept_and_do_not_count() -> None:
    model = network()
    attach(model, TopK(0.5, "global", whole=("5.*",)))
    counts = read(model).counts()
    assert counts["5.weight"] == (14, 14)
    assert counts["0.weight"][0] + counts["4.weight"][0] == round(0.5 * (36 + 252))
    for scope in ("layer", "global"):
        model = network()
        attach(model, TopK(0.5, scope, whole=("*",)))
        assert read(model).density == 1.0


def test_a_mask_that_is_read_is_a_copy() -> None:
    model = network()
    attach(model)
    mask = read(model)
    mask["4.weight"].fill_(False)
    assert read(model)["4.weight"].any()
    assert multipliers(model) is None


# -- states and copies


@pytest.mark.parametrize("rule", [TopK(0.5), TopK(0.5, "global", "block:2"), Threshold(), Bernoulli()])
@pytest.mark.parametrize("represent", [Identity(), Binary()])
def test_a_state_dict_comes_back(rule: MaskRule, represent: Represent) -> None:
    first, second = network(), network()
    attach(first, rule, represent=represent, seed=1)
    train(first)
    attach(second, rule, represent=represent, seed=1)
    second.load_state_dict(first.state_dict(), strict=True)
    assert read(first) == read(second)
    assert torch.equal(first.eval()(inputs()), second.eval()(inputs()))
    train(first.train())
    second.train()
    train(second)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_plain_state_is_the_state_before() -> None:
    model = network()
    before = model.state_dict()
    attach(model, Bernoulli(), represent=Binary())
    found = plain_state(model)
    assert sorted(found) == sorted(before)
    network().load_state_dict(found, strict=True)


def test_other_parametrisations_keep_their_names_in_a_plain_state() -> None:
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Linear(4, 4),
    )
    before = model.state_dict()
    attach(model, exclude=["0.*", "1.*", "2.*"])
    assert list(read(model)) == ["3.weight"]
    found = plain_state(model)
    assert sorted(found) == sorted(before)


def test_a_deep_copy_goes_its_own_way() -> None:
    model = network()
    attach(model, weights=Masked(), rest="frozen", seed=3)
    twin = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(twin)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    train(model)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    make_permanent(twin)
    assert all(p.requires_grad for p in twin.parameters())
    assert list(read(model))


def test_a_mask_to_start_from_need_not_lie_in_memory_as_the_weights_do() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.randn(2, 3, 5, 5))
    model.to(memory_format=torch.channels_last)
    kept = torch.rand(4, 3, 3, 3) < 0.5
    start = Mask({"0.weight": kept, "2.weight": torch.ones(2, 36, dtype=torch.bool)})
    attach(model, TopK(float(kept.float().mean())), mask=start)
    assert torch.equal(read(model)["0.weight"], kept)
