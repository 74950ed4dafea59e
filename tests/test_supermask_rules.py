"""Masks, effective weights and gradients of supermasks: by hand, and against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.supermask import (
    FROZEN,
    Bernoulli,
    Binary,
    BinaryConcrete,
    Continuous,
    Dense,
    Identity,
    Intermediate,
    Masked,
    Represent,
    SignedConstant,
    SrSte,
    Threshold,
    TopK,
    attach,
    fused,
    make_permanent,
    read,
    refresh,
)
from tombola.supermask.layers import layers
from tombola.supermask.masks import multipliers
from tombola.supermask.parametrization import Supermask
from tombola.supermask.rules import Coats, MaskRule, Round, Signed
from tombola.supermask.weights import WeightRule, weight_rule

SCORES = [0.1, -0.4, 0.3, -0.2]
WEIGHT = [0.5, -1.0, 0.25, -2.0]


def one_layer(
    rule: MaskRule,
    scores: list[float] | None = None,
    weight: list[float] | None = None,
    *,
    weights: WeightRule = FROZEN,
    represent: Represent | None = None,
) -> tuple[nn.Linear, Supermask]:
    """Linear(n, 1) with this weight and these scores, masks written."""
    values = torch.tensor([weight or WEIGHT])
    model = nn.Linear(values.shape[1], 1, bias=False)
    model.weight.data.copy_(values)
    attach(model, rule, weights=weights, represent=represent)
    supermask = next(layers(model)).supermask
    with torch.no_grad():
        supermask.scores.copy_(torch.tensor([scores or SCORES]))
    refresh(model)
    return model, supermask


def gradients(model: nn.Linear, supermask: Supermask) -> tuple[list[float], Tensor | None]:
    """dL/ds and dL/dw where dL/d(effective weight) is 1 everywhere."""
    model.weight.sum().backward()  # type: ignore[no-untyped-call]
    assert supermask.scores.grad is not None
    latent = next(layers(model)).weight
    return supermask.scores.grad[0].tolist(), latent.grad


# -- by hand


def test_edge_popup_by_hand() -> None:
    model, supermask = one_layer(TopK(0.5))
    assert supermask.mask.tolist() == [[False, True, True, False]]
    assert model.weight.tolist() == [[0, -1, 0.25, 0]]
    for_scores, for_weight = gradients(model, supermask)
    assert for_scores == [0.5, 1.0, 0.25, 2.0]  # g w sign(s), pruned or not
    assert for_weight is None


def test_binary_by_hand() -> None:
    model, supermask = one_layer(TopK(0.5), represent=Binary())
    assert supermask.scale is not None
    assert supermask.scale.item() == 0.625
    assert model.weight.tolist() == [[0, -0.625, 0.625, 0]]
    assert gradients(model, supermask)[0] == [0.5, 1.0, 0.25, 2.0]


def test_binary_per_channel_by_hand() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data.copy_(torch.tensor([[0.5, -1.0], [0.0, -2.0]]))
    attach(model, TopK(0.75), represent=Binary(per_channel=True))
    supermask = next(layers(model)).supermask
    with torch.no_grad():
        supermask.scores.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.5]]))
    refresh(model)
    assert supermask.scale is not None
    assert supermask.scale.tolist() == [[0.75], [0.0]]
    assert model.weight.tolist() == [[0.75, -0.75], [0.0, 0.0]]
    assert Binary().base(torch.tensor([0.0, -0.0, -1e-30, 3.0])).tolist() == [1, 1, -1, 1]


def test_seed_003_by_hand() -> None:
    model, supermask = one_layer(Threshold(), [1.0, 0.0, -1.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    assert supermask.mask.tolist() == [[True, False, False, True]]  # sigmoid(0) = 0.5 is not above 0.5
    at_one, at_zero, below, _ = gradients(model, supermask)[0]
    assert at_one == pytest.approx(0.1966, abs=5e-5)
    assert at_zero == 0.25
    assert below == pytest.approx(at_one)


def test_a_score_just_above_zero_keeps_and_tiny_negative_does_not() -> None:
    _, supermask = one_layer(Threshold(), [1e-30, -1e-30, -0.0, 1e-8])
    assert supermask.mask.tolist() == [[True, False, False, True]]  # though sigmoid(1e-30) rounds to 0.5


def test_signed_masks_by_hand() -> None:
    model, supermask = one_layer(Signed(0.25), [0.25, -0.25, 0.3, -0.5])  # at the threshold itself, nothing
    assert supermask.mask.tolist() == [[0, 0, 1, -1]]
    assert model.weight.tolist() == [[0, 0, 0.25, 2.0]]
    assert gradients(model, supermask)[0] == WEIGHT  # g w, kept or not
    assert read(model)["weight"].tolist() == [[False, False, True, True]]  # -1 is kept too
    found = multipliers(model)
    assert found is not None
    found["weight"].zero_()  # a copy
    assert supermask.mask.tolist() == [[0, 0, 1, -1]]
    mask = make_permanent(model)
    assert mask["weight"].tolist() == [[False, False, True, True]]
    assert model.weight.tolist() == [[0, 0, 0.25, 2.0]]
    model, _ = one_layer(Signed(0.25), [0.25, -0.25, 0.3, -0.5], represent=Identity(rescale=True))
    assert model.weight.tolist() == [[0, 0, 0.5, 4.0]]  # n by the sum of |M|
    assert Signed(0.0).threshold == 0


def test_rounded_masks_by_hand() -> None:
    model, supermask = one_layer(Round(), [0.5, 0.499, 1.5, -0.5])
    assert supermask.mask.tolist() == [[True, False, True, False]]
    assert supermask.scores[0].tolist() == pytest.approx([0.5, 0.499, 1.0, 0.0])  # held in [0, 1]
    assert gradients(model, supermask)[0] == WEIGHT


def test_what_signed_and_rounded_scores_from_a_mask_are_by_hand() -> None:
    scores, mask = torch.tensor([0.5, -0.25, 0.125, 0.75]), Mask({"a": torch.tensor([True, True, False, False])})
    assert Signed(0.25).scores_from_mask({"a": scores}, mask)["a"].tolist() == [1.0, 0.75, 0.0, 0.0]
    rounded = Round().scores_from_mask({"a": torch.tensor([0.75, 0.25, 0.125, 0.75])}, mask)["a"]
    assert rounded.tolist() == pytest.approx([0.75, 0.75, 0.125 * 0.999, 0.25 * 0.999])
    assert Threshold().scores_from_mask({"a": scores}, mask)["a"].tolist() == [1.0, 1.0, -1.0, -1.0]
    lifted = TopK().scores_from_mask({"a": torch.tensor([0.0, -0.5, 0.25, -0.125])}, mask)["a"]
    assert lifted.tolist() == pytest.approx([0.5005, -1.0005, 0.25, -0.125])  # 0 counts as positive


def test_everything_is_kept_where_seed_003_begins() -> None:
    model = nn.Linear(5, 3)
    attach(model, Threshold(), include=["bias"])
    found = {layer.name: layer.supermask for layer in layers(model)}
    assert list(found) == ["weight", "bias"]
    assert all(bool((s.scores == 1).all()) and bool(s.mask.all()) for s in found.values())


def test_signed_constants_by_hand() -> None:
    std = torch.tensor(WEIGHT).std(correction=0).item()
    model, supermask = one_layer(TopK(0.5), represent=SignedConstant())
    assert model.weight[0].tolist() == pytest.approx([0, -std, std, 0])
    assert gradients(model, supermask)[0] == pytest.approx([std, std, std, std])
    model, _ = one_layer(TopK(0.5), represent=SignedConstant(rescale=True))
    assert model.weight[0].tolist() == pytest.approx([0, -2 * std, 2 * std, 0])
    assert SignedConstant().base(torch.tensor([0.0, -0.0, 2.0])).tolist() == [0, 0, 1]


def test_rescaling_by_hand() -> None:
    model, _ = one_layer(TopK(0.75), represent=Identity(rescale=True))
    assert model.weight[0].tolist() == pytest.approx([0, -4 / 3, 1 / 3, -8 / 3])


def test_scales_of_one_kept_weight_and_of_none() -> None:
    w, std = torch.tensor([WEIGHT]), torch.tensor(WEIGHT).std(correction=0)
    one, none = torch.tensor([[False, True, False, False]]), torch.zeros(1, 4, dtype=torch.bool)
    for mask, count, alpha in ((one, 1, 1.0), (none, 0, 0.0)):
        assert Identity(rescale=True).scale(w, mask) == 4  # as of one weight where none is kept
        torch.testing.assert_close(SignedConstant(rescale=True).scale(w, mask), 4 * std)
        assert Binary().scale(w, mask) == alpha
        assert Binary(per_channel=True).scale(w, mask).tolist() == [[alpha]]
        a, b = Identity(rescale=True).mask_gradient(torch.ones(1, 4), w, mask, torch.tensor(4.0))
        assert (a * b)[0].tolist() == [4 * x + 4 * count for x in WEIGHT]  # less the mean of what is kept, 4·(-1)
    large, every = torch.full((1, 1000), 100, dtype=torch.float16), torch.ones(1, 1000, dtype=torch.bool)
    for per_channel in (False, True):  # whose sum is more than half precision holds
        found = Binary(per_channel).scale(large, every)
        assert found is not None
        assert (found.item(), found.dtype) == (100, torch.float32)
    assert Identity(rescale=True).scale(w, torch.tensor([[0, 3, 0, -1]], dtype=torch.int8)) == 1  # n by Σ|M|
    assert Binary().scale(w, torch.tensor([[0, 3, 0, -1]], dtype=torch.int8)) == 1.5  # whatever M is where it is not 0
    assert Binary(per_channel=True).scale(w, torch.tensor([[0, 3, 0, -1]], dtype=torch.int8)).tolist() == [[1.5]]


def test_masks_are_drawn_with_the_sigmoid_of_their_scores() -> None:
    model, supermask = one_layer(Bernoulli(), [40.0, -40.0, 0.0, -0.0])
    for _ in range(5):
        refresh(model)
        assert supermask.mask[0, :2].tolist() == [True, False]
    refresh(model, sample=False)
    assert supermask.mask.tolist() == [[True, False, False, False]]  # p = 0.5 is not above it
    model, supermask = one_layer(Bernoulli(), [math.log(4.0)] * 5000, [1.0] * 5000)
    assert float(supermask.mask.float().mean()) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("masked", [0.0, 1.0, 1.0, 0.0]),
        ("dense", [1.0, 1.0, 1.0, 1.0]),
        ("sr-ste", [1 + 0.5e-1, 1.0, 1.0, 1 - 2e-1]),
    ],
)
def test_weight_gradients_by_hand(rule: str, expected: list[float]) -> None:
    model, supermask = one_layer(TopK(0.5), weights=weight_rule(rule, decay=0.1))
    for_scores, for_weight = gradients(model, supermask)
    assert for_scores == [0.5, 1.0, 0.25, 2.0]
    assert for_weight is not None
    assert for_weight[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("masked", [0, 0.625, 0.625, 0]), ("dense", [0.625, 0.625, 0.625, 0])],
)
def test_binary_weight_gradient_is_clipped_straight_through(rule: str, expected: list[float]) -> None:
    model, supermask = one_layer(TopK(0.5), weights=weight_rule(rule), represent=Binary())
    _, for_weight = gradients(model, supermask)
    assert for_weight is not None
    assert for_weight[0].tolist() == expected  # |-2| > 1: none


def test_a_score_of_zero_gets_no_gradient_from_top_k() -> None:
    model, supermask = one_layer(TopK(0.5), [0.0, -0.0, 1.0, -1.0])
    assert gradients(model, supermask)[0] == [0.0, 0.0, 0.25, 2.0]


def test_weight_rules_by_name() -> None:
    assert weight_rule("frozen") is FROZEN
    assert weight_rule("sr-ste") == SrSte(2e-4)  # the paper's
    assert [weight_rule(name).trained for name in ("frozen", "masked", "dense", "sr-ste")] == [False, True, True, True]


# -- where the rule is a true gradient: finite differences

REPRESENTS: list[tuple[str, Represent]] = [
    ("identity", Identity()),
    ("rescaled", Identity(rescale=True)),
    ("signed", SignedConstant()),
    ("signed, rescaled", SignedConstant(rescale=True)),
]


def difference(function: Callable[[Tensor], Tensor], at: Tensor, eps: float = 1e-5) -> Tensor:
    """Central differences of a scalar function, float64."""
    slopes = torch.zeros_like(at)
    for i in range(at.numel()):
        step = torch.zeros(at.numel(), dtype=at.dtype)
        step[i] = eps
        step = step.view_as(at)
        slopes.view(-1)[i] = (function(at + step) - function(at - step)) / (2 * eps)
    return slopes


@pytest.mark.parametrize("values", ["bool", "signed"])
@pytest.mark.parametrize("represent", [r for _, r in REPRESENTS], ids=[name for name, _ in REPRESENTS])
def test_mask_gradient_is_the_gradient_in_the_mask(represent: Represent, values: str) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, c = (torch.randn(3, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(3, 4, generator=draw) < 0.6
    if values == "signed":
        mask = 2 * mask.to(torch.int8) - 1  # at 0 itself |M| has no slope
    scale = represent.scale(weight, mask)
    n = weight.numel()

    def loss(m: Tensor) -> Tensor:  # with a mask of real numbers
        factor = torch.tensor(1.0, dtype=torch.float64)
        if isinstance(represent, SignedConstant):
            factor = factor * weight.std(correction=0)
        if represent.rescale:  # type: ignore[attr-defined]
            factor = factor * n / (m if values == "bool" else m.abs()).sum()
        return (torch.sin(represent.base(weight) * m * factor) * c).sum()

    m = mask.double()
    effective = represent.base(weight) * m * (1.0 if scale is None else scale)
    g = torch.cos(effective) * c
    a, b = represent.mask_gradient(g, weight, mask, scale)
    torch.testing.assert_close(a * b, difference(loss, m), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("represent", [Identity(), Identity(rescale=True)], ids=["identity", "rescaled"])
def test_masked_weight_gradient_is_the_gradient_given_the_mask(represent: Represent) -> None:
    draw = torch.Generator().manual_seed(1)
    model = nn.Linear(5, 4, bias=False).double()
    attach(model, TopK(0.4), weights=Masked(), represent=represent)
    latent, c = next(layers(model)).weight, torch.randn(4, 5, generator=draw, dtype=torch.float64)

    def loss(weight: Tensor) -> Tensor:
        with torch.no_grad():
            before = latent.clone()
            latent.copy_(weight)
            value = (torch.sin(model.weight) * c).sum()
            latent.copy_(before)
        return value

    (torch.sin(model.weight) * c).sum().backward()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, difference(loss, latent.detach().clone()), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", [Threshold(), Bernoulli()], ids=["threshold", "bernoulli"])
def test_probability_rules_take_the_slope_of_the_sigmoid(rule: MaskRule) -> None:
    s = torch.linspace(-3, 3, 7, dtype=torch.float64)
    slope = difference(lambda x: torch.sigmoid(x).sum(), s)
    torch.testing.assert_close(rule.score_gradient(torch.ones_like(s), torch.ones_like(s), s, s > 0), slope)


def test_score_gradients_are_products() -> None:
    a, b, zero = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -4.0]), torch.zeros(2)
    mask = torch.tensor([True, False])
    assert Threshold().score_gradient(a, b, zero, mask).tolist() == [0.25, -3.0]  # a slope of 1/4
    for rule in (Round(), Signed()):
        assert rule.score_gradient(a, b, zero, mask).tolist() == [1.0, -12.0]
    for rule in (TopK(), Coats()):
        assert rule.score_gradient(a, b, torch.tensor([0.1, -9.0]), mask).tolist() == [1.0, 12.0]


def test_a_second_derivative_is_refused_not_wrong() -> None:
    model, supermask = one_layer(TopK(0.5))
    (first,) = torch.autograd.grad((model.weight**2).sum(), supermask.scores, create_graph=True)
    with pytest.raises(RuntimeError):
        (first.sum() + model.weight.sum()).backward()


def test_gradients_of_inputs_may_be_differentiated_again() -> None:
    model, supermask = one_layer(TopK(0.5))
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    (slope,) = torch.autograd.grad((model(x) ** 2).sum(), x, create_graph=True)
    slope.pow(2).sum().backward()
    assert supermask.scores.grad is not None
    assert bool((supermask.scores.grad != 0).any())


# -- settings that cannot be


@pytest.mark.parametrize("density", [0, 0.0, -0.1, 1.1, math.nan, True, "0.5"])
def test_densities_outside_are_one_clear_line(density: Any) -> None:
    with pytest.raises(TombolaError, match=r"\(0, 1\]") as caught:
        TopK(density)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopK(0.5, "everywhere"), "allowed: layer, global"),
        (lambda: TopK(0.5, pattern="2:5"), "0.4"),
        (lambda: TopK(0.5, "global", "2:4"), "scope layer"),
        (lambda: TopK(0.5, pattern="blocks"), "pattern"),
        (lambda: TopK(pattern=4), "pattern is 4, but it must be a text"),  # type: ignore[arg-type]
        (lambda: TopK(whole="fc"), "whole is 'fc', but it must be a list"),  # type: ignore[arg-type]
        (lambda: BinaryConcrete("0.3"), "density is '0.3', but it must be a number"),  # type: ignore[arg-type]
        (lambda: Continuous("2"), "beta is '2', but it must be a number"),  # type: ignore[arg-type]
        (lambda: Intermediate(True), "step is True, but it must be a number"),
        (lambda: Signed("0.1"), r"threshold is '0\.1', but it must be a number"),  # type: ignore[arg-type]
        (lambda: SrSte("0.1"), r"decay is '0\.1', but it must be a number"),  # type: ignore[arg-type]
        (lambda: weight_rule("thawed"), "masked, dense, sr-ste"),
        (lambda: SrSte(-1.0), "at least 0"),
        (lambda: SrSte(math.nan), "at least 0"),
        (lambda: Signed(-0.01), r"threshold is -0\.01; it must be a number of at least 0"),
        (lambda: Signed(math.inf), "threshold is inf"),
        (lambda: Coats((0.5,) * 128), "128 coats are asked for; give 1 to 127"),
    ],
)
def test_wrong_settings_are_one_clear_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TombolaError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_settings_at_their_ends() -> None:
    assert SrSte(0.0).decay == 0
    assert Coats((0.1, 0.5, 0.3)).densities == (0.5, 0.3, 0.1)
    assert (Coats((0.1, 0.5)).density, Coats((0.4,)).density) == (0.5, 0.4)
    assert len(Coats((0.5,) * 127).densities) == 127  # what int8 counts


def test_no_gradient_reaches_signed_constants() -> None:
    with pytest.raises(TombolaError, match="no gradient"):
        attach(nn.Linear(2, 2), weights=Dense(), represent=SignedConstant())


# -- the compiled loops are the plain operations

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "channels_last_3d": lambda t: t.contiguous(memory_format=torch.channels_last_3d) if t.dim() == 5 else t,
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() else t,
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "shifted": lambda t: torch.cat([t.new_zeros(3), t.reshape(-1)])[3:].view(t.shape),
}
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=5).map(tuple)
layouts = st.sampled_from(list(LAYOUTS))


def drawn(shape: tuple[int, ...], seed: int, layout: str, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return LAYOUTS[layout]((values * (values.abs() > 0.3)).to(dtype))


@settings(max_examples=120)
@given(shape=shapes, first=layouts, second=layouts, dtype=st.sampled_from(FLOATS), whole=st.booleans())
def test_keep_is_the_product(shape: tuple[int, ...], first: str, second: str, dtype: torch.dtype, whole: bool) -> None:
    values = drawn(shape, 1, first, dtype)
    mask = LAYOUTS[second](drawn(shape, 2, "contiguous") > 0)
    if whole:
        mask = mask.to(torch.int8)
    before = values.clone()
    kept = fused.keep(values, mask)
    assert torch.equal(kept, before * mask)
    assert kept.dtype == dtype
    assert torch.equal(values, before)
    assert kept.data_ptr() != values.data_ptr() or not values.numel()


@settings(max_examples=120)
@given(
    shape=shapes,
    first=layouts,
    second=layouts,
    third=layouts,
    dtype=st.sampled_from(FLOATS),
)
def test_signed_product_is_the_product(
    shape: tuple[int, ...], first: str, second: str, third: str, dtype: torch.dtype
) -> None:
    own = torch.promote_types(dtype, torch.float32)  # as scores are
    gradient, values = drawn(shape, 1, first, dtype), drawn(shape, 2, second, dtype)
    scores = drawn(shape, 3, third, own)
    found = fused.signed_product(gradient, values, scores)
    assert found.dtype == own
    assert torch.equal(found, (gradient.to(own) * values.to(own)) * torch.sign(scores))


def test_a_pruned_weight_is_exactly_zero_and_a_kept_one_itself() -> None:
    values = torch.tensor([-1.5, 2.5, -0.0, 1e-45])
    kept = fused.keep(values, torch.tensor([False, True, True, True]))
    assert kept.tolist() == [0.0, 2.5, -0.0, torch.tensor(1e-45).item()]
