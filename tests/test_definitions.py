"""Every method of learned masks defines what it computes in plain torch, and trains exactly that."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.methods import METHODS
from tombola.methods.base import SupermaskMethod
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.concrete import Concrete
from tombola.methods.continuous import Continuous
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.gem_miner import GemMiner
from tombola.methods.iterand import IteRand
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import RULES, LearnedMask
from tombola.methods.multi_prize import MultiPrize
from tombola.methods.multicoat import Multicoat
from tombola.methods.signed import SignedSupermask
from tombola.supermask.attach import attach
from tombola.supermask.masks import refresh

METHODS_TO_TRY: list[SupermaskMethod] = [
    EdgePopup(density=0.3),
    IteRand(density=0.3),
    Multicoat(densities=(0.6, 0.3, 0.1)),
    GemMiner(),
    Concrete(density=0.3),
    Continuous(),
    Continuous(logit=-0.3),
    SignedSupermask(threshold=0.3),
    *(LearnedMask(rule=rule, rescale=rescale) for rule in RULES for rescale in (False, True)),
    LearnedMask(rule="intermediate", sampling_step=0.3),
    LearnedMask(rule="intermediate", sampling_step=0.3, sampling_raw=True),
    LearnedMask(rule="intermediate", weights="signed_constant", rescale=True),
    LearnedMask(weights="signed_constant"),
    LearnedMask(weights="signed_constant", rescale=True),
    *(Joint(density=0.3, weight_gradient=rule) for rule in ("masked", "dense", "sr-ste")),
    Joint(density=0.3, weights="binary"),
    MultiPrize(density=0.3),
    MultiPrize(density=0.3, per_channel=True),
    BinaryWeights(),
    BinaryWeights(per_channel=True),
]


def test_every_method_of_learned_masks_is_there() -> None:
    assert {method.name for method in METHODS_TO_TRY} == {
        name for name, kind in METHODS.items() if issubclass(kind, SupermaskMethod)
    }


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("method", METHODS_TO_TRY, ids=lambda method: method.name)
def test_what_is_trained_is_what_is_defined(method: SupermaskMethod, fused: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    w, s, g = (torch.randn(8, 24, generator=draw) for _ in range(3))
    model = nn.Sequential(nn.Linear(24, 8, bias=False))
    learning = method.learning(model)
    with torch.no_grad():
        model[0].weight.copy_(w)
    attach(model, learning.rule, weights=learning.weights, represent=learning.represent, fused=fused)
    supermask: Any = model[0].parametrizations.weight[0]
    with torch.no_grad():
        supermask.scores.copy_(s)
    u = copy.deepcopy(supermask).uniform() if learning.rule.stochastic else torch.zeros_like(s)
    refresh(model)
    effective = model[0].weight
    effective.backward(g)
    defined = method.definition(w, supermask.scores.detach(), g, u)
    same = torch.equal if not isinstance(method, LearnedMask) else close
    assert same(defined.effective + 0.0, effective + 0.0)  # -0 and 0 alike
    if defined.score_gradient is not None:
        assert same(defined.score_gradient + 0.0, supermask.scores.grad + 0.0)
    latent = model[0].parametrizations.weight.original
    assert (defined.weight_gradient is None) == (latent.grad is None)
    if defined.weight_gradient is not None:
        assert close(defined.weight_gradient, latent.grad)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-7)


W, S, G = torch.tensor([0.5, -1.0, 0.25, -2.0]), torch.tensor([0.1, -0.4, 0.3, -0.2]), torch.ones(4)


@pytest.mark.parametrize(
    ("method", "effective", "score_gradient"),
    [
        (EdgePopup(density=0.5), [0, -1, 0.25, 0], [0.5, 1, 0.25, 2]),
        (MultiPrize(density=0.5), [0, -0.625, 0.625, 0], [0.5, 1, 0.25, 2]),
        (Multicoat(densities=(0.75, 0.25)), [0, -2, 0.25, -2], [0.5, 1, 0.25, 2]),
        (SignedSupermask(threshold=0.15), [0, 1, 0.25, 2], [0.5, -1, 0.25, -2]),
        (LearnedMask(rule="threshold"), [0.5, 0, 0.25, 0], None),
        (BinaryWeights(), [0.9375, -0.9375, 0.9375, -0.9375], None),
    ],
    ids=lambda value: value.name if isinstance(value, SupermaskMethod) else "",
)
def test_definitions_by_hand(
    method: SupermaskMethod, effective: list[float], score_gradient: list[float] | None
) -> None:
    found = method.definition(W, S, G, torch.zeros(4))
    assert (found.effective + 0.0).tolist() == effective
    if score_gradient is not None:
        assert found.score_gradient is not None
        assert found.score_gradient.tolist() == score_gradient


def test_half_a_score_is_kept_and_half_a_chance_is_not() -> None:
    scores = torch.tensor([0.5, 0.4999, 2.0, -1.0])
    assert GemMiner().definition(W, scores, G, G).effective.tolist() == [0.5, 0, 0.25, 0]
    assert LearnedMask().definition(W, torch.zeros(4), G, torch.tensor([0.5, 0.0, 0.4, 0.9])).effective.tolist() == [
        0, -1, 0.25, 0,
    ]  # fmt: skip


def test_only_pruned_weights_are_drawn_anew() -> None:
    fresh, mask = torch.full((4,), 9.0), torch.tensor([1.0, 0.0, 0.0, 1.0])
    drawn = IteRand(probability=0.5).redrawn(W, mask, fresh, torch.tensor([0.0, 0.0, 0.6, 0.6]))
    assert drawn.tolist() == [0.5, 9.0, 0.25, -2.0]
