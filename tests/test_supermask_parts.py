"""What a supermask holds: how scores begin, what is drawn when, what a copy and a loaded state remember."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from small_tickets import MASKED, mask_of, network
from tombola.errors import TombolaError
from tombola.nn.init import fans, scheme_named
from tombola.nn.outputs import OutputsKeptWarning
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.supermask import (
    Bernoulli,
    Binary,
    Identity,
    Masked,
    Signed,
    SignedConstant,
    Threshold,
    TopK,
    attach,
    read,
    refresh,
)
from tombola.supermask.layers import groups, layers, plain_state
from tombola.supermask.masks import multipliers
from tombola.supermask.parametrization import StaleMaskWarning


def scores_of(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: layer.supermask.scores for layer in layers(model)}


# -- how scores begin


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("begin", ["kaiming_normal", "torch_default", "unit", 0.25])
def test_scores_begin_as_asked_for_by_seed_and_name(begin: str | float, dtype: torch.dtype) -> None:
    model = network().to(dtype)
    attach(model, TopK(0.5), scores=begin, seed=4, include=("0.bias",))
    found = scores_of(model)
    assert set(found) == {"0.bias", *MASKED}
    for name, scores in found.items():
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert scores.requires_grad
        if not isinstance(begin, str):
            assert bool((scores == begin).all())
            continue
        key, count = derive(4, "scores", name), scores.numel()
        if begin == "unit":
            values = philox.uniform(key, count)
        else:
            around = fans(scores) if scores.dim() > 1 else (5, 5)
            values = scheme_named(begin).draw(key, count, *around)
        assert torch.equal(scores.detach(), torch.from_numpy(values).to(scores.dtype).view_as(scores))


def test_scores_have_the_layout_of_their_weight() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 3)).to(memory_format=torch.channels_last)
    attach(model, TopK(0.5))
    assert all(scores.is_contiguous(memory_format=torch.channels_last) for scores in scores_of(model).values())


@pytest.mark.parametrize("begin", [math.nan, math.inf])
def test_scores_begin_at_finite_numbers(begin: float) -> None:
    with pytest.raises(TombolaError, match=f"scores begin at {begin}"):
        attach(network(), TopK(0.5), scores=begin)


# -- what is attached


def test_the_rest_is_trained_with_the_weights_or_frozen_and_comes_back() -> None:
    def learning(model: nn.Module) -> set[str]:
        """Names, under which they were before, of what learns."""
        plain = {id(layer.weight): layer.name for layer in layers(model)}
        names = {name: plain.get(id(p), name) for name, p in model.named_parameters() if p.requires_grad}
        return {own for name, own in names.items() if not name.endswith("scores")}

    def normed() -> nn.Module:
        return nn.Sequential(*network(), nn.BatchNorm1d(4))

    norms, biases = {"3.weight", "3.bias"}, {"0.bias", "2.bias"}
    cases = [
        (tb.supermask.FROZEN, None, set()),
        (tb.supermask.FROZEN, "trained", norms | biases),
        (tb.supermask.FROZEN, "norms", norms),
        (Masked(), None, norms | biases | set(MASKED)),
        (Masked(), "frozen", set(MASKED)),
        (Masked(), "norms", norms | set(MASKED)),
    ]
    for weights, rest, expected in cases:
        model = normed()
        scores, others = attach(model, TopK(0.5), weights=weights, rest=rest)
        assert learning(model) == expected
        assert [id(s) for s in scores] == [id(s) for s in scores_of(model).values()]
        assert {id(p) for p in others} == {id(p) for p in groups(model).weights}
        assert len(others) == len(expected)
        tb.detach(model)
        assert learning(model) == norms | biases | set(MASKED)
    frozen = normed()
    frozen[0].weight.requires_grad_(False)
    frozen[3].bias.requires_grad_(False)
    attach(frozen, TopK(0.5), weights=Masked())
    assert "0.weight" not in learning(frozen)
    tb.make_permanent(frozen)
    assert learning(frozen) == (norms | biases | set(MASKED)) - {"0.weight", "3.bias"}


def test_a_start_mask_is_what_the_rule_keeps_first() -> None:
    within = mask_of(network())
    model = network()
    attach(model, TopK(0.6), mask=within)
    assert read(model)["2.weight"].sum() == 12
    assert bool(read(model)["2.weight"][within["2.weight"]].all())
    shapes = tb.Mask({name: torch.ones(2, 2, dtype=torch.bool) for name in MASKED})
    with pytest.raises(TombolaError, match=r"start mask of '0\.weight' has shape \(2, 2\), the weight \(5, 6\)"):
        attach(network(), TopK(0.6), mask=shapes)
    with pytest.raises(TombolaError, match=r"start mask and the model differ in '2\.weight'"):
        attach(network(), TopK(0.6), mask=within, exclude=("2.*",))


def test_outputs_are_kept_whole_by_channels_as_they_are_named() -> None:
    rule = TopK(0.4, pattern="channel")
    counts = {
        (): {"0.weight": (12, 30), "2.weight": (10, 20)},
        ("0.weight",): {"0.weight": (30, 30), "2.weight": (10, 20)},
        ("0.weight", "2.weight"): {"0.weight": (30, 30), "2.weight": (20, 20)},
    }
    for outputs, expected in counts.items():
        model = network()
        attach(model, rule, outputs=outputs)
        assert read(model).counts() == expected
    model = network()
    with pytest.warns(OutputsKeptWarning, match=r"2\.weight.*attach\(outputs=\(\)\)"):
        attach(model, rule)
    assert read(model).counts() == {"0.weight": (12, 30), "2.weight": (20, 20)}
    alone = network()
    attach(alone, rule, exclude=("2.*",), outputs=("2.weight",))  # not masked at all
    assert read(alone).counts() == {"0.weight": (12, 30)}
    with pytest.raises(TombolaError, match=r"9\.weight"):
        attach(network(), rule, outputs=("9.weight",))


def test_weights_that_no_gradient_reaches_are_not_trained() -> None:
    with pytest.raises(TombolaError, match="no gradient reaches weights that are represented as signed_constant"):
        attach(network(), TopK(0.5), weights=Masked(), represent=SignedConstant())
    attach(network(), TopK(0.5), represent=SignedConstant())
    attach(network(), TopK(0.5), weights=Masked(), represent=Binary())


def test_masks_of_more_values_than_two_are_read_as_copies() -> None:
    model = network()
    attach(model, Signed(), scores="kaiming_normal")
    found = multipliers(model)
    assert found is not None
    before = {name: values.clone() for name, values in found.items()}
    assert set(before) == set(MASKED)
    for layer in layers(model):
        assert torch.equal(before[layer.name], layer.supermask.mask)
        assert before[layer.name].dtype == torch.int8
        layer.supermask.mask.neg_()
    assert all(torch.equal(found[name], values) for name, values in before.items())
    assert any(bool(values.any()) for values in before.values())
    plain = network()
    attach(plain, TopK(0.5))
    assert multipliers(plain) is None


# -- what is drawn


def test_every_refresh_draws_the_next_mask_by_seed_and_name() -> None:
    model = network()
    attach(model, Bernoulli(), scores=0.4, seed=6)
    for count in (1, 2, 3):
        for name, supermask, _ in layers(model):
            assert supermask.draws.dtype == torch.int64
            assert supermask.draws.shape == ()
            assert int(supermask.draws) == count
            draw = torch.Generator().manual_seed(derive(6, "mask", name, count))
            uniform = torch.rand(supermask.scores.shape, generator=draw)
            assert torch.equal(supermask.mask, uniform < torch.sigmoid(supermask.scores))
        refresh(model)
    refresh(model, sample=False)  # the likeliest is not drawn
    assert {int(layer.supermask.draws) for layer in layers(model)} == {4}
    assert read(model).density == 1.0
    other = network()
    attach(other, Bernoulli(), scores=0.4, seed=7)
    other.load_state_dict(model.state_dict())
    assert {int(layer.supermask.draws) for layer in layers(other)} == {4}
    plain = network()
    attach(plain, TopK(0.5))
    assert not any(name.endswith("draws") for name in plain.state_dict())


def test_a_scale_follows_weights_and_mask_at_every_refresh() -> None:
    model = network()
    attach(model, Threshold(), represent=Identity(rescale=True), scores=1.0)
    (first, _) = layers(model)
    assert float(first.supermask.scale) == 1.0
    with torch.no_grad():
        first.supermask.scores.flatten()[:15] = -1.0
    assert float(first.supermask.scale) == 1.0
    refresh(model)
    assert float(first.supermask.scale) == 2.0
    binary = network()
    attach(binary, TopK(1.0), represent=Binary())
    (layer, _) = layers(binary)
    with torch.no_grad():
        layer.weight.mul_(3)
    refresh(binary)
    torch.testing.assert_close(layer.supermask.scale.flatten()[0], layer.weight.detach().abs().mean())
    assert not layer.supermask.scale.requires_grad
    absent = network()
    attach(absent, TopK(0.5))
    assert all(layer.supermask.scale is None for layer in layers(absent))


# -- masks that do not follow


def trained(model: nn.Module) -> None:
    model(torch.ones(2, 6)).sum().backward()


def moved(model: nn.Module, index: int = 0) -> None:
    with torch.no_grad():
        list(scores_of(model).values())[index].add_(0.01)


def said(model: nn.Module) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(model)
    return [str(warning.message) for warning in caught if issubclass(warning.category, StaleMaskWarning)]


def fresh() -> nn.Module:
    model = network()
    attach(model, TopK(0.5))
    return model


def test_scores_that_move_without_a_refresh_are_warned_of_once_a_model() -> None:
    model = fresh()
    moved(model)
    assert not said(model)  # nothing was trained under the mask yet
    assert not said(model)  # nothing has moved
    moved(model, 1)
    (text,) = said(model)
    assert "the scores of '2.weight' have changed" in text
    moved(model)
    assert not said(model)
    other = fresh()
    assert not said(other)
    moved(other)
    refresh(other)
    assert not said(other)
    moved(other)
    assert len(said(other)) == 1  # one model's warning is not another's


@pytest.mark.parametrize("how", ["eval", "no_grad", "frozen", "loaded", "copied", "replaced"])
def test_where_masks_may_lag_nothing_is_said(how: str) -> None:
    model = fresh()
    trained(model)
    moved(model)
    if how == "eval":
        model.eval()
    if how == "frozen":
        for scores in scores_of(model).values():
            scores.requires_grad_(False)
        for layer in layers(model):
            layer.weight.requires_grad_(True)
    if how == "loaded":
        model.load_state_dict(copy.deepcopy(model.state_dict()))
    if how == "copied":
        model = copy.deepcopy(model)
    if how == "replaced":
        for layer in layers(model):
            layer.supermask.scores = nn.Parameter(layer.supermask.scores.detach().clone())
    with warnings.catch_warnings():
        warnings.simplefilter("error", StaleMaskWarning)
        with torch.set_grad_enabled(how != "no_grad"):
            model(torch.ones(2, 6))


def test_a_copy_watches_its_own_scores() -> None:
    model = fresh()
    trained(model)
    twin = copy.deepcopy(model)
    moved(twin)
    assert not said(twin)  # the copy was not trained under its mask yet
    moved(twin)
    assert len(said(twin)) == 1


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_any_optimiser_counts_as_a_move(fused: bool) -> None:
    model = fresh()
    optimizer = torch.optim.Adam(scores_of(model).values(), 0.01, fused=fused)
    trained(model)
    optimizer.step()
    assert len(said(model)) == 1
    other = fresh()
    optimizer = torch.optim.Adam(scores_of(other).values(), 0.01, fused=fused)
    trained(other)
    optimizer.step()
    refresh(other)
    assert not said(other)
    optimizer.step()
    with pytest.warns(StaleMaskWarning, match=r"scores of '0\.weight' .*the mask read is the one from before"):
        read(other)


# -- names from before


def test_a_state_under_the_names_from_before_has_latent_weights_alone() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attach(model, Bernoulli(), represent=Identity(rescale=True))
    plain = plain_state(model)
    assert plain.keys() == before.keys()
    assert all(torch.equal(plain[name], value) for name, value in before.items())
    wrapped = nn.Sequential(nn.Sequential(network()), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    attach(wrapped[0], TopK(0.5))
    names = set(plain_state(wrapped))
    assert {"0.0.0.weight", "0.0.2.weight", "1.parametrizations.weight.original0"} <= names
    assert not any(name.endswith("scores") for name in names)


def test_what_is_drawn_does_not_depend_on_torchs_defaults() -> None:
    expected, model = network(), network()
    attach(expected, Bernoulli(), scores="kaiming_normal", seed=6)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            attach(model, Bernoulli(), scores="kaiming_normal", seed=6)
    finally:
        torch.set_default_dtype(torch.float32)
    want, have = expected.state_dict(), model.state_dict()
    assert want.keys() == have.keys()
    for name, value in want.items():
        assert have[name].dtype == value.dtype
        assert torch.equal(have[name], value), name


def test_what_is_made_permanent_is_the_likeliest_mask_of_the_present_scores() -> None:
    model = network()
    attach(model, Bernoulli(), scores="kaiming_normal", seed=6)
    before = {layer.name: layer.weight.detach().clone() for layer in layers(model)}
    likeliest = {name: scores.detach() > 0 for name, scores in scores_of(model).items()}
    assert any(not torch.equal(kept, likeliest[name]) for name, kept in read(model).items())
    mask = tb.make_permanent(model)
    for name, kept in likeliest.items():
        assert torch.equal(mask[name], kept)
        assert torch.equal(model.state_dict()[name], before[name] * kept)
    moving = fresh()
    trained(moving)
    moved(moving)
    with pytest.warns(StaleMaskWarning, match="the mask made permanent is that of the present scores"):
        tb.make_permanent(moving)


def test_a_copy_is_taken_apart_by_itself() -> None:
    model = fresh()
    twin = copy.deepcopy(model)
    tb.detach(twin)
    assert not any(True for _ in layers(twin))
    assert len(list(layers(model))) == 2
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in network().named_parameters()]
    assert model(torch.ones(2, 6)).shape == (2, 4)
