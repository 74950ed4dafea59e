"""What a training loop runs equals the definition in plain torch, for every rule, weight rule and representation."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.levels.hooks import Redraw
from tombola.methods import (
    binary_weights,
    edge_popup,
    gem_miner,
    iterand,
    joint,
    learned_mask,
    multi_prize,
    multicoat,
    signed,
)
from tombola.methods.base import SupermaskMethod
from tombola.methods.binary_weights import BinaryWeights
from tombola.methods.edge_popup import EdgePopup
from tombola.methods.gem_miner import GemMiner
from tombola.methods.iterand import IteRand
from tombola.methods.joint import Joint
from tombola.methods.learned_mask import LearnedMask
from tombola.methods.multi_prize import MultiPrize
from tombola.methods.multicoat import Multicoat
from tombola.methods.signed import SignedSupermask
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.supermask import (
    FROZEN,
    Bernoulli,
    Binary,
    Coats,
    Dense,
    Identity,
    Masked,
    MaskRule,
    Represent,
    Round,
    Signed,
    SignedConstant,
    SrSte,
    Threshold,
    TopK,
    WeightRule,
    attach,
    refresh,
)
from tombola.supermask.layers import groups, layers
from tombola.supermask.rules import largest

RULES: list[MaskRule] = [
    TopK(0.3),
    TopK(0.3, "global"),
    TopK(0.5, pattern="2:4"),
    TopK(0.5, pattern="block:2"),
    TopK(0.5, "global", "channel"),
    TopK(0.3, whole=("0.*",)),
    Threshold(),
    Bernoulli(),
    Round(),
    Signed(0.1),
    Coats((0.6, 0.3, 0.1)),
]
WEIGHTS: list[WeightRule] = [FROZEN, Masked(), Dense(), SrSte(0.01)]
REPRESENTS: list[Represent] = [
    Identity(),
    Identity(rescale=True),
    SignedConstant(),
    SignedConstant(rescale=True),
    Binary(),
    Binary(per_channel=True),
]
COMBINATIONS = [(r, w, p) for r, w, p in product(RULES, WEIGHTS, REPRESENTS) if p.trainable or not w.trained]


def states(model: nn.Module, steps: int = 4) -> list[dict[str, Tensor]]:
    """The state of an attached network after each of a few steps of training: weights, scores, masks and scales."""
    own = groups(model)
    optimizer = torch.optim.SGD([p for group in own for p in group], lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    after = [dict(model.state_dict())]
    for _ in range(steps):
        x, y = torch.randn(8, 12, generator=draw).to(dtype), torch.randint(0, 4, (8,), generator=draw)
        F.cross_entropy(model(x).float(), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        refresh(model)
        after.append({name: value.clone() for name, value in model.state_dict().items()})
        after[-1] |= {f"effective {layer.name}": layer.supermask(layer.weight).detach() for layer in layers(model)}
    return after


def network(
    rule: MaskRule, weights: WeightRule, represent: Represent, fused: bool, dtype: torch.dtype = torch.float32
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).to(dtype)
    attach(model, rule, weights=weights, represent=represent, fused=fused, outputs=())
    for layer in layers(model):  # scores that tie, and some that are 0
        layer.supermask.scores.data.mul_(8).round_().div_(8)
    refresh(model)
    return model


@pytest.mark.parametrize(("rule", "weights", "represent"), COMBINATIONS, ids=str)
def test_the_fused_form_is_the_definition_to_the_bit(rule: MaskRule, weights: WeightRule, represent: Represent) -> None:
    fused, plain = (states(network(rule, weights, represent, flag)) for flag in (True, False))
    for step, (ours, theirs) in enumerate(zip(fused, plain, strict=True)):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == [], step


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_other_dtypes_too(rule: MaskRule, dtype: torch.dtype) -> None:
    fused, plain = (states(network(rule, Masked(), Identity(), flag, dtype)) for flag in (True, False))
    for ours, theirs in zip(fused, plain, strict=True):
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_step_of_edge_popup_by_hand() -> None:
    for fused in (True, False):
        model = nn.Linear(4, 1, bias=False)
        attach(model, TopK(0.5), fused=fused)
        (layer,) = layers(model)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[2.0, -1.0, 0.5, 3.0]]))
            layer.supermask.scores.copy_(torch.tensor([[0.1, -0.4, 0.3, 0.0]]))
        refresh(model)
        assert model.weight.tolist() == [[0.0, -1.0, 0.5, 0.0]]  # the 2 largest |s|
        (model(torch.tensor([[1.0, 10.0, 100.0, 1000.0]])) * 2).sum().backward()  # g = 2x
        assert layer.supermask.scores.grad is not None
        assert layer.supermask.scores.grad.tolist() == [[4.0, 20.0, 100.0, 0.0]]  # g·w·sign(s)


def test_the_largest_scores_by_hand() -> None:
    scores = torch.tensor([[0.5, -0.5, 0.0], [-2.0, 0.5, 1.0]])
    assert largest(scores, 3).tolist() == [[True, False, False], [True, False, True]]  # ties to the lower index
    assert largest(scores, 0).sum() == 0
    assert largest(scores, 6).all()


# -- the methods' files: what each paper computes is what its method trains by


def method_step(
    method: SupermaskMethod, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """One layer under a method's settings: weight, scores, mask, what the network sees, g, and both gradients."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(7, 6, bias=False)
    learning = method.learning(model)
    attach(model, learning.rule, weights=learning.weights, represent=learning.represent, scores=learning.scores)
    (layer,) = layers(model)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(6, 7, generator=draw))
        scores = layer.supermask.scores
        scores.copy_(torch.randn(6, 7, generator=draw) if float(scores.min()) < 0 else scores)
        scores.view(-1)[:3] = 0.0
    refresh(model, sample=False)
    g = torch.randn(6, 7, generator=draw)
    effective = model.weight
    (effective * g).sum().backward()  # type: ignore[no-untyped-call]
    mask = layer.supermask.mask.clone()
    return layer.weight.detach(), scores.detach(), mask, effective.detach(), g, scores.grad, layer.weight.grad


def same(ours: Tensor | None, theirs: Tensor) -> bool:
    return ours is not None and torch.equal(ours, theirs)


@pytest.mark.parametrize("method", [EdgePopup(density=0.3), IteRand(density=0.3), Joint(density=0.3)], ids=str)
def test_edge_popup_is_as_its_file_defines_it(method: SupermaskMethod) -> None:
    weight, scores, mask, effective, g, score_gradient, _ = method_step(method)
    assert same(mask, edge_popup.mask(scores, 0.3))
    assert same(effective, weight * mask)
    assert same(score_gradient, edge_popup.score_gradient(g, weight, scores))


@pytest.mark.parametrize("rule", joint.RULES)
def test_joint_training_is_as_its_file_defines_it(rule: str) -> None:
    weight, _, mask, _, g, _, weight_gradient = method_step(Joint(weight_gradient=rule, sr_ste_decay=0.25))
    assert same(weight_gradient, joint.weight_gradient(g, weight, mask, rule, 0.25))


def test_multicoats_are_as_their_file_defines_them() -> None:
    densities = (0.6, 0.3, 0.1)
    weight, scores, mask, effective, g, score_gradient, _ = method_step(Multicoat(densities=densities))
    assert same(mask, multicoat.mask(scores, densities))
    assert same(effective, weight * mask)
    assert same(score_gradient, multicoat.score_gradient(g, weight, scores))


def test_gem_miner_is_as_its_file_defines_it() -> None:
    weight, scores, mask, effective, g, score_gradient, _ = method_step(GemMiner())
    assert same(mask, gem_miner.mask(scores))
    assert same(effective, weight * mask)
    assert same(score_gradient, gem_miner.score_gradient(g, weight, torch.ones_like(scores)))


def test_signed_supermasks_are_as_their_file_defines_them() -> None:
    weight, scores, mask, effective, g, score_gradient, _ = method_step(SignedSupermask(threshold=0.2))
    assert same(mask, signed.mask(scores, 0.2))
    assert same(effective, weight * mask)
    assert same(score_gradient, signed.score_gradient(g, weight))


@pytest.mark.parametrize("rule", ["threshold", "bernoulli"])
def test_learned_masks_are_as_their_file_defines_them(rule: str) -> None:
    method = LearnedMask(rule=rule)
    weight, scores, mask, effective, g, score_gradient, _ = method_step(method)
    assert same(mask, learned_mask.mask(scores))
    assert same(effective, weight * mask)
    assert same(score_gradient, learned_mask.score_gradient(g, weight, scores))
    uniform = torch.rand(6, 7, generator=torch.Generator().manual_seed(1))
    if rule == "bernoulli":
        assert same(method.learning(nn.Linear(7, 6)).rule.mask(scores, uniform), learned_mask.mask(scores, uniform))


def test_multi_prize_tickets_are_as_their_file_defines_them() -> None:
    weight, scores, mask, effective, g, score_gradient, _ = method_step(MultiPrize(density=0.3))
    assert same(mask, multi_prize.mask(scores, 0.3))
    torch.testing.assert_close(effective, multi_prize.effective_weight(weight, mask), rtol=1e-6, atol=0)
    assert same(score_gradient, multi_prize.score_gradient(g, weight, scores))


def test_binary_weights_are_as_their_file_defines_them() -> None:
    weight, _, _, effective, g, _, weight_gradient = method_step(BinaryWeights())
    torch.testing.assert_close(effective, binary_weights.effective_weight(weight), rtol=1e-6, atol=0)
    assert weight_gradient is not None
    torch.testing.assert_close(weight_gradient, binary_weights.weight_gradient(g, weight), rtol=1e-6, atol=0)


def test_redraws_are_as_iterands_file_defines_them() -> None:
    model = nn.Linear(7, 6, bias=False)
    attach(model, TopK(0.3))
    (layer,) = layers(model)
    before, fresh = layer.weight.detach().clone(), torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    loop: Any = SimpleNamespace(step=4, model=model)
    Redraw(lambda step: {"weight": fresh}, every=2, probability=0.5, seed=3).before_step(loop)
    uniform = torch.from_numpy(philox.uniform(derive(3, "redrawn", "weight", 4), 42)).view(6, 7)
    assert same(layer.weight.detach(), iterand.redrawn(before, layer.supermask.mask, fresh, uniform, 0.5))
