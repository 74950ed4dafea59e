"""What a training loop runs equals the definition in plain torch, for every rule, weight rule and representation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.mask import Mask
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
    read,
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


class Positive(MaskRule):
    """A rule of somebody's own: its definition alone."""

    start = 1e-4

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        return scores > 0

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        return torch.ones_like(scores)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        return {name: torch.where(mask[name], s.abs(), -s.abs()) for name, s in scores.items()}


def test_a_rule_of_ones_own_needs_no_more_than_its_definition() -> None:
    def trained(fused: bool) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
        attach(model, Positive(), fused=fused)
        assert read(model).density == 1
        return states(model)

    with torch.random.fork_rng():
        fused, plain = trained(True), trained(False)
    for ours, theirs in zip(fused, plain, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    masks = [value for name, value in fused[-1].items() if name.endswith("mask")]
    assert 0 < sum(int(mask.sum()) for mask in masks) < sum(mask.numel() for mask in masks)
    model = nn.Linear(12, 16)
    kept = Mask({"weight": torch.arange(192).view(16, 12) % 3 == 0})
    attach(model, Positive(), mask=kept)
    assert read(model) == kept
