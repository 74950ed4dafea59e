"""The intermediate rule: its gradient by hand, as a divergence's, by simulation, and at the poles of the raw form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from supermask_searches import RECIPE, levels_of, network, splits
from tombola.errors import TombolaError
from tombola.supermask import Bernoulli, Intermediate, SignedConstant, attach, final_masks, read, refresh
from tombola.supermask.layers import layers

FLOAT = torch.float64


def gradient(rule: Intermediate, G: Any, scores: Any, mask: Any) -> Tensor:
    """dL/ds where dL/dM = G; all as lists or numbers."""
    g, s = (torch.as_tensor(values, dtype=FLOAT) for values in (G, scores))
    return rule.gradient(g, torch.ones_like(g), s, torch.as_tensor(mask))


@pytest.mark.parametrize(("raw", "pruned"), [(False, 0.5), (True, 0.5526)])
def test_the_vector_of_the_specification(raw: bool, pruned: float) -> None:
    found = gradient(Intermediate(0.1, raw), [0.5, 0.5], [0.0, 0.0], [True, False])
    assert found.tolist() == pytest.approx([-0.4524, pruned], abs=1e-4)


@pytest.mark.parametrize(
    ("G", "kept", "expected"),
    [
        (3.0, True, 0.8 - 1 / 4),  # keeping it costs: a step leads from 1 to 1/4
        (-3.0, True, 0.8 - 1),  # keeping it helps: stay
        (3.0, False, 0.8 - 0),  # leaving it out helps: stay
        (-3.0, False, 0.8 - 3 / 4),  # leaving it out costs
        (0.0, True, 0.8 - 1),
        (0.0, False, 0.8),
        (1e30, True, 0.8),
        (-1e30, False, 0.8 - 1),
    ],
)
def test_by_hand(G: float, kept: bool, expected: float) -> None:
    found = gradient(Intermediate(), [G], [math.log(0.8 / 0.2)], [kept])
    assert found.item() == pytest.approx(expected)


def test_it_is_the_gradient_of_the_divergence_from_the_moved_draw() -> None:
    """By the definition with two choices: pi = h(z - a·Delta), and KL(pi || softmax) differentiated by the logit."""
    draw = torch.Generator().manual_seed(0)
    G, scores = (torch.randn(50, generator=draw, dtype=FLOAT) for _ in range(2))
    mask = torch.rand(50, generator=draw) < 0.5
    z = torch.stack([mask, ~mask], 1).to(FLOAT)
    loss = torch.stack([G, torch.zeros_like(G)], 1)  # of keeping and of leaving out
    drawn = (loss * z).sum(1, keepdim=True)
    for rule, cut in ((Intermediate(0.3), True), (Intermediate(0.3, raw=True), False)):
        parts = z - 0.3 * (loss - drawn)
        parts = parts.clamp(min=0) if cut else parts
        pi = parts / parts.sum(1, keepdim=True)
        leaf = scores.clone().requires_grad_()
        log_p = torch.stack([nn.functional.logsigmoid(leaf), nn.functional.logsigmoid(-leaf)], 1)
        (-(pi * log_p).sum()).backward()  # but for the entropy of pi, a constant
        assert leaf.grad is not None
        assert torch.allclose(gradient(rule, G, scores, mask), leaf.grad)


def test_its_mean_over_draws_is_that_of_the_specification() -> None:
    """For small aG: clamped a(p·max(G, 0) - (1 - p)·max(-G, 0)), raw a·G."""
    draws, p = 400_000, 0.7
    mask = torch.rand(draws, generator=torch.Generator().manual_seed(0)) < p
    scores = [math.log(p / (1 - p))] * draws
    for G in (0.5, -0.5):
        cut = gradient(Intermediate(0.1), [G] * draws, scores, mask).mean().item()
        raw = gradient(Intermediate(0.1, raw=True), [G] * draws, scores, mask).mean().item()
        assert cut == pytest.approx(0.1 * (p * max(G, 0) - (1 - p) * max(-G, 0)), abs=4e-3)
        assert raw == pytest.approx(0.1 * G, abs=6e-3)


def test_it_never_exceeds_1_and_the_raw_form_stays_finite() -> None:
    G = [g for size in (0.0, 1e-30, 0.5, 1.0, 1.5, 1e9) for g in (size, -size)]
    for mask in (True, False):
        for scores in (0.0, 40.0, -40.0):
            cut, raw = (
                gradient(Intermediate(1.0, raw), G, [scores] * len(G), [mask] * len(G)) for raw in (False, True)
            )
            assert float(cut.abs().max()) <= 1
            assert bool(raw.isfinite().all())
            assert float(raw.abs().max()) <= 1 + 1e7
    at_the_pole = gradient(Intermediate(1.0, raw=True), [-1.0, 1.0], [0.0, 0.0], [True, False])
    assert at_the_pole.tolist() == pytest.approx([0.5 - 1e7, 0.5 + 1e7])


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_a_step_that_is_none_is_refused(step: float) -> None:
    with pytest.raises(TombolaError, match="sampling step is"):
        Intermediate(step)
    with pytest.raises(TombolaError, match="sampling_step is"):
        tb.LearnedMask(rule="intermediate", sampling_step=step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_layer_learns_by_the_mask_that_it_was_drawn_with(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 5, bias=False).to(dtype)
    attach(model, Intermediate(2.0), represent=SignedConstant(), seed=3)
    supermask: Any = model.parametrizations.weight[0]  # type: ignore[union-attr,index]
    with torch.no_grad():
        supermask.scores.copy_(torch.linspace(-2, 2, 30).view(5, 6))
    refresh(model)
    mask = supermask.mask.clone()
    assert 0 < int(mask.sum()) < 30
    g = torch.linspace(-3, 3, 30).view(5, 6).to(dtype)
    model.weight.backward(g)
    base = model.parametrizations.weight.original.sign() * supermask.scale  # type: ignore[union-attr,operator]
    wide = torch.promote_types(dtype, torch.float32)
    expected = Intermediate(2.0).gradient(g.to(wide), base.to(wide), supermask.scores.detach(), mask)
    assert supermask.scores.grad.dtype == wide
    assert torch.allclose(supermask.scores.grad, expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)


def test_masks_are_drawn_and_tickets_hold_the_likeliest() -> None:
    ours, theirs = network(), network()
    for model, rule in ((ours, Intermediate()), (theirs, Bernoulli())):
        attach(model, rule, seed=1)
        with torch.no_grad():
            for layer in layers(model):
                layer.supermask.scores.copy_(torch.linspace(-1, 1, layer.weight.numel()).view_as(layer.weight))
        refresh(model)
    assert read(ours) == read(theirs)
    with final_masks(ours):
        assert all(torch.equal(layer.supermask.mask, layer.supermask.scores > 0) for layer in layers(ours))


def test_a_search_gives_both_accuracies() -> None:
    result = levels_of(tb.LearnedMask(rule="intermediate", sampling_step=10.0, samples=3), recipe=RECIPE)[-1].result
    assert result.samples == 3
    assert result.val_accuracy_sampled is not None
    assert 0 < result.density < 1


def test_its_options_are_its_own() -> None:
    for options in ({"sampling_step": 2.0}, {"sampling_raw": True}):
        with pytest.raises(TombolaError, match="are for rule intermediate, not bernoulli"):
            tb.LearnedMask(**options)
    plain = tb.find(network(), splits(), tb.LearnedMask(rule="intermediate", sampling_step=50.0), recipe=RECIPE)
    raw = tb.LearnedMask(rule="intermediate", sampling_step=50.0, sampling_raw=True)
    assert tb.find(network(), splits(), raw, recipe=replace(RECIPE, lr=0.01)) != plain
