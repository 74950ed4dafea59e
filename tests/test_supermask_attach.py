"""Supermasks on any model: what is masked, exactly how much, what is frozen, what comes back, and the edges."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import tombola as tb
from tombola.errors import TombolaError
from tombola.mask import Mask, prunable
from tombola.select.select import EmptyLayerWarning, select
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
    make_permanent,
    plain_state,
    read,
    refresh,
    rules,
)
from tombola.supermask.attach import detach, layers, multipliers, set_rule, start_scores
from tombola.supermask.rules import MaskRule


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 7), nn.Linear(7, 2)
    )


def inputs(count: int = 6) -> Tensor:
    return torch.randn(count, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def scores_of(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: layer.supermask.scores.detach() for layer in layers(model)}


def train(model: nn.Module, steps: int = 4, lr: float = 0.5, x: Tensor | None = None) -> None:
    """A user's own loop, with everything handed to one optimiser."""
    x = inputs() if x is None else x
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        refresh(model)


# -- exactly how much is kept


@settings(max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    density=st.floats(0.01, 1),
    scope=st.sampled_from(["layer", "global"]),
    pattern=st.sampled_from(["element", "block:2", "channel"]),
    seed=st.integers(0, 99),
)
def test_masks_are_those_of_a_selection_from_the_scores(
    sizes: list[tuple[int, int]], density: float, scope: str, pattern: str, seed: int
) -> None:
    model = nn.ModuleList(nn.Linear(*size) for size in sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)
        attach(model, TopK(density, scope, pattern), seed=seed)
        sizes_of = {name: s.abs() for name, s in scores_of(model).items()}
        assert read(model) == select(sizes_of, density=density, scope=scope, pattern=pattern)
    if scope == "layer" and pattern == "element":
        assert read(model).counts() == {n: (round(density * s.numel()), s.numel()) for n, s in sizes_of.items()}


def test_half_rounds_to_even_and_ties_go_to_the_lower_index() -> None:
    model = nn.ModuleList([nn.Linear(5, 1), nn.Linear(7, 1)])
    attach(model, TopK(0.5), scores=-1.0)
    assert read(model)["0.weight"].tolist() == [[True, True, False, False, False]]  # round(2.5) = 2
    assert read(model)["1.weight"].tolist() == [[True] * 4 + [False] * 3]  # round(3.5) = 4
    model = nn.ModuleList([nn.Linear(5, 1), nn.Linear(7, 1)])
    attach(model, TopK(0.5, "global"), scores=1.0)
    assert read(model).counts() == {"0.weight": (5, 5), "1.weight": (1, 7)}  # the earlier layer wins


def test_two_of_four() -> None:
    model = nn.Linear(10, 3)
    attach(model, TopK(0.5, pattern="2:4"))
    groups = read(model)["weight"][:, :8].reshape(-1, 4)
    assert groups.sum(1).tolist() == [2] * 6
    assert read(model)["weight"][:, 8:].sum(1).tolist() == [1] * 3


LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("linear", lambda: nn.Linear(6, 5), (2, 6)),
    ("conv1d", lambda: nn.Conv1d(2, 5, 3), (2, 2, 9)),
    ("conv2d", lambda: nn.Conv2d(2, 6, 3, groups=2), (2, 2, 5, 5)),
    ("1x1", lambda: nn.Conv2d(3, 5, 1), (2, 3, 2, 2)),
    ("conv3d", lambda: nn.Conv3d(1, 3, 3), (2, 1, 4, 4, 4)),
    ("transposed", lambda: nn.ConvTranspose2d(2, 3, 3), (2, 2, 3, 3)),
]


@pytest.mark.parametrize("pattern", ["element", "block:2", "channel", "1:2"])
@pytest.mark.parametrize(("make", "shape"), [layer[1:] for layer in LAYERS], ids=[layer[0] for layer in LAYERS])
def test_every_layer_takes_every_pattern(make: Callable[[], nn.Module], shape: tuple[int, ...], pattern: str) -> None:
    model = make()
    before = model.weight.detach().clone()  # type: ignore[union-attr, operator]
    attach(model, TopK(0.5, pattern=pattern))
    mask = read(model)["weight"]
    assert torch.equal(model.weight, before * mask)  # type: ignore[arg-type]
    model(torch.randn(shape)).sum().backward()
    scores = next(layers(model)).supermask.scores
    assert scores.grad is not None
    assert scores.grad.shape == before.shape
    if pattern == "channel":
        rows = mask.flatten(1)
        assert bool((rows.all(1) | ~rows.any(1)).all())
        assert int(rows.all(1).sum()) == round(0.5 * len(rows))


@pytest.mark.parametrize("packed", [True, False])
def test_attention_projections(packed: bool) -> None:
    model = nn.MultiheadAttention(8, 2, kdim=None if packed else 6, batch_first=True)
    attach(model, TopK(0.25))
    names = ["in_proj_weight"] if packed else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    assert list(read(model)) == [*names, "out_proj.weight"]
    assert all(kept == round(0.25 * n) for kept, n in read(model).counts().values())
    x, k = torch.randn(2, 3, 8), torch.randn(2, 4, 8 if packed else 6)
    value = torch.randn(2, 4, 8)
    model(x, k, value)[0].sum().backward()
    assert all(layer.supermask.scores.grad is not None for layer in layers(model))
    model.eval()
    out = model(x, k, value)[0]
    make_permanent(model)
    torch.testing.assert_close(model(x, k, value)[0], out)


def test_a_transformer_layer_in_its_fast_path() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    attach(model, TopK(0.5))
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        out = model(x)
        make_permanent(model)
        torch.testing.assert_close(model(x), out)


def test_channels_last_changes_nothing_but_the_memory() -> None:
    plain, last = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4, 3)) for _ in "ab")
    last.load_state_dict(plain.state_dict())
    x = torch.randn(5, 3, 3, 3)
    attach(plain, TopK(0.3), scores="signed_constant")  # all |scores| tie
    attach(last, TopK(0.3), scores="signed_constant")
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    refresh(last)
    assert read(plain) == read(last)
    for _ in range(3):
        train(plain, 1, x=x)
        train(last, 1, x=x.contiguous(memory_format=torch.channels_last))
        for a, b in zip(scores_of(plain).values(), scores_of(last).values(), strict=True):
            torch.testing.assert_close(a, b)
    assert next(layers(last)).supermask.mask.is_contiguous(memory_format=torch.channels_last)


def test_a_weight_that_lies_transposed() -> None:
    model = nn.Linear(6, 4, bias=False)
    model.weight = nn.Parameter(torch.randn(6, 4).t())
    before = model.weight.detach().clone()
    attach(model, TopK(0.5))
    train(model, 2, x=torch.randn(3, 6))
    assert read(model).kept == 12
    make_permanent(model)
    assert bool(((model.weight == before) | (model.weight == 0)).all())


# -- which weights are frozen, and thawed


@pytest.mark.parametrize("represent", [Identity(), Identity(True), SignedConstant(), Binary(), Binary(True)])
@pytest.mark.parametrize("rule", [TopK(0.5), Threshold(), Bernoulli()])
def test_frozen_weights_do_not_move_by_a_bit(rule: MaskRule, represent: Represent) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    groups = attach(model, rule, represent=represent)
    assert groups.weights == []
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
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


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


# -- draws


def test_stochastic_masks_follow_the_seed_alone() -> None:
    def drawn(seed: int, steps: int = 3) -> list[Mask]:
        model = network()
        attach(model, Bernoulli(), seed=seed)
        masks = [read(model)]
        for _ in range(steps):
            refresh(model)
            masks.append(read(model))
        return masks

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = network()
    torch.set_rng_state(state)
    attach(first, Bernoulli(), seed=5)
    train(first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    again = drawn(5)
    assert drawn(5) == again
    assert len({str([t.tolist() for t in mask.values()]) for mask in again}) == 4
    assert drawn(6)[0] != again[0]
    a, b = again[0]["4.weight"].flatten()[:36], again[0]["0.weight"].flatten()
    assert not torch.equal(a, b)  # each layer has its own generator
    assert abs(again[0].density - 0.5) < 0.1


def test_scores_follow_seed_and_name() -> None:
    weight = torch.zeros(3, 4)
    one = start_scores("torch_default", "a", weight, 0)
    assert torch.equal(one, start_scores("torch_default", "a", weight, 0))
    assert not torch.equal(one, start_scores("torch_default", "b", weight, 0))
    assert not torch.equal(one, start_scores("torch_default", "a", weight, 1))
    assert bool((one.abs() <= 0.5).all())
    unit = start_scores("unit", "a", weight, 0)
    assert bool(((unit >= 0) & (unit < 1)).all())
    assert start_scores(0.25, "a", weight, 0).tolist() == [[0.25] * 4] * 3
    assert start_scores("kaiming_normal", "bias", torch.zeros(7), 0).shape == (7,)
    assert start_scores("kaiming_normal", "scalar", torch.zeros(()), 0).shape == ()
    with pytest.raises(TombolaError, match="allowed: kaiming_normal"):
        start_scores("gaussian", "a", weight, 0)


# -- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("represent", [Identity(), Identity(True), SignedConstant(), Binary(), Binary(True)])
def test_half_precision_models_have_scores_in_float32(dtype: torch.dtype, represent: Represent) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)).to(dtype)
    attach(model, TopK(0.5), represent=represent)
    train(model, x=torch.randn(3, 6, dtype=dtype))
    assert all(score.dtype == torch.float32 for score in scores_of(model).values())
    assert model(torch.randn(3, 6, dtype=dtype)).dtype == dtype
    assert read(model).kept == 20
    make_permanent(model)
    assert model[0].weight.dtype == dtype


@pytest.mark.parametrize("represent", [Identity(True), SignedConstant(True), Binary()])
def test_counts_beyond_half_precision(represent: Represent) -> None:
    model = nn.Linear(400, 400, bias=False)
    attach(model, TopK(0.75), represent=represent)
    expected = model.weight.detach().clone()
    half = nn.Linear(400, 400, bias=False)
    detach(model)
    half.load_state_dict(model.state_dict())
    half.half()
    attach(half, TopK(0.75), represent=represent)
    torch.testing.assert_close(half.weight.float(), expected, rtol=5e-3, atol=1e-4)


# -- edges


def test_density_one_keeps_everything() -> None:
    model = network().eval()
    out = model(inputs())
    attach(model, TopK(1.0))
    assert read(model).density == 1.0
    assert torch.equal(model(inputs()), out)


def test_layers_with_one_weight() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with pytest.warns(EmptyLayerWarning, match=r"0\.weight, 1\.weight"):
        attach(model, TopK(0.5))
    assert read(model).kept == 0  # round(0.5) = 0
    detach(model)
    attach(model, TopK(0.51))
    assert read(model).kept == 2
    train(model, x=torch.randn(3, 1))
    make_permanent(model)
    with pytest.warns(EmptyLayerWarning, match=r"1\.weight"):
        attach(model, TopK(0.5, "global"))
    assert read(model).kept == 1


def test_shared_weights_have_one_mask() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    attach(model, TopK(0.5))
    assert list(read(model)) == ["0.weight"]
    assert torch.equal(model[0].weight, model[2].weight)
    assert len(list(layers(model))) == 1
    x = torch.randn(3, 4)
    train(model, x=x)
    out = model(x)
    twin = copy.deepcopy(model)
    assert len(list(layers(twin))) == 1
    assert sorted(plain_state(model)) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    make_permanent(model)
    assert model[2].weight is model[0].weight
    torch.testing.assert_close(model(x), out)
    assert int((model[0].weight != 0).sum()) == 8


def test_one_module_used_twice() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    attach(model, TopK(0.5))
    assert read(model).counts() == {"0.weight": (8, 16)}
    x = torch.randn(3, 4)
    train(model, x=x)
    out = model(x)
    make_permanent(model)
    assert model[0] is model[2]
    torch.testing.assert_close(model(x), out)


def test_a_tie_to_an_embedding_is_left_out() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    with pytest.raises(TombolaError, match="no prunable weight"):
        attach(model)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm1d(3), nn.Sequential()])
def test_nothing_to_mask_is_one_clear_line(model: nn.Module) -> None:
    with pytest.raises(TombolaError, match="no prunable weight") as caught:
        attach(model)
    assert "\n" not in str(caught.value)


def test_attached_twice_is_refused_and_nothing_attached_too() -> None:
    model = network()
    for function in (read, make_permanent, detach):
        with pytest.raises(TombolaError, match="call attach first"):
            function(model)
    attach(model)
    for part in (model, model[4]):
        with pytest.raises(TombolaError, match="attached to this model already"):
            attach(part)
    make_permanent(model)
    attach(model)  # attach, permanent, attach again
    assert read(model).density == pytest.approx(0.5, abs=0.01)


def test_parts_attached_one_by_one_are_read_by_the_names_of_the_whole() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(3, 2)))
    for scope, pattern in (("layer", "element"), ("global", "element"), ("layer", "block:2")):
        for part in model:
            attach(part, TopK(0.5, scope, pattern))
        refresh(model)
        assert list(read(model)) == ["0.0.weight", "1.0.weight"]
        assert sorted(plain_state(model)) == ["0.0.bias", "0.0.weight", "1.0.bias", "1.0.weight"]
        mask = make_permanent(model)
        assert list(mask) == ["0.0.weight", "1.0.weight"]
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, torch.optim.swa_utils.AveragedModel])
def test_a_wrapped_model_is_refused_and_left_alone(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    with pytest.raises(TombolaError, match="attach to the bare model first") as caught:
        attach(wrap(model))
    assert "\n" not in str(caught.value)
    assert not any(hasattr(m, "parametrizations") for m in model.modules())
    attach(model)
    wrapped = nn.DataParallel(model)
    refresh(wrapped)
    assert read(wrapped) == read(model)
    make_permanent(wrapped)
    assert sorted(model.state_dict()) == sorted(network().state_dict())


OTHERS: list[tuple[str, Callable[[nn.Module], Any]]] = [
    ("orthogonal", parametrizations.orthogonal),
    ("spectral norm", parametrizations.spectral_norm),
    ("pruned by torch", lambda module: prune.random_unstructured(module, "weight", 0.5)),
]


@pytest.mark.parametrize("other", [o for _, o in OTHERS], ids=[name for name, _ in OTHERS])
def test_a_weight_that_is_something_else_already_is_refused(other: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    other(model[1])
    with pytest.raises(TombolaError, match=r"'1\.weight'") as caught:
        attach(model)
    assert "\n" not in str(caught.value)
    assert not list(layers(model)), "half attached"
    assert all(p.requires_grad for p in model.parameters())
    attach(model, exclude=["1.*"])
    assert list(read(model)) == ["0.weight"]
    train(model, x=torch.randn(3, 4))
    make_permanent(model)
    model(torch.randn(3, 4))


@pytest.mark.parametrize("norm", [weight_norm, spectral_norm, parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_are_made_of_others_are_not_prunable(norm: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    norm(model[0])
    try:
        attach(model)
    except TombolaError as error:
        assert "'0.weight'" in str(error)  # noqa: PT017
        attach(model, exclude=["0.*"])
    assert list(read(model)) == ["1.weight"]
    train(model, x=torch.randn(3, 4))
    make_permanent(model)
    model(torch.randn(3, 4))


def test_biases_and_anything_else_on_request() -> None:
    model = network()
    attach(model, TopK(0.5), include=["*.bias", "1.weight"])
    assert list(read(model)) == [name for name, _ in network().named_parameters()]
    assert read(model).counts()["4.bias"] == (round(3.5), 7)
    train(model)
    out = model.eval()(inputs())
    mask = make_permanent(model)
    assert torch.equal(model(inputs()), out)
    assert bool((model[4].bias[~mask["4.bias"]] == 0).all())


def test_a_parameter_of_no_dimension() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size, self.layer = nn.Parameter(torch.tensor(2.0)), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.size  # type: ignore[no-any-return]

    for represent in (Identity(), Identity(True), SignedConstant(), Binary(), Binary(True)):
        model = Scaled()
        attach(model, TopK(0.7), include=["size"], represent=represent)
        assert read(model).counts()["size"] == (1, 1)
        train(model, x=torch.randn(2, 3))
        make_permanent(model)


def test_weights_that_cannot_be_masked_are_refused() -> None:
    whole = nn.Linear(2, 2)
    whole.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int64), requires_grad=False)
    cases = [
        (nn.LazyLinear(3), "lazy layer"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (whole, "floating-point"),
        (nn.Linear(2, 2, dtype=torch.complex64), "floating-point"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising no elements
        cases.append((nn.Linear(0, 3), "no elements"))
    for model, words in cases:
        with pytest.raises(TombolaError, match=words) as caught:
            attach(model)
        assert "\n" not in str(caught.value)
        assert not list(layers(model))


def test_scores_that_are_not_numbers_are_named() -> None:
    for pattern in ("element", "channel"):
        model = network()
        attach(model, TopK(0.5, pattern=pattern))
        with torch.no_grad():
            scores_of(model)["4.weight"][0, 0] = torch.nan
        with pytest.raises(TombolaError, match=r"4\.weight.*") as caught:
            refresh(model)
        assert "NaN" in str(caught.value)


def test_a_start_that_cannot_be_leaves_the_model_alone() -> None:
    mask = Mask.full(network())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"scores": float("nan")}, "finite"),
        ({"scores": "gaussian"}, "allowed"),
        ({"mask": mask, "exclude": ["5.*"]}, "differ in '5.weight'"),
        ({"mask": Mask({**mask, "4.weight": mask["4.weight"][:1]})}, "4.weight"),
        ({"include": ["*.gamma"]}, "matches no parameter"),
    ]
    for settings_, words in wrong:
        model = network()
        with pytest.raises(TombolaError, match=words):
            attach(model, **settings_)
        assert not list(layers(model))
        assert all(p.requires_grad for p in model.parameters())


def test_the_public_names() -> None:
    model = network()
    groups = tb.attach(model)
    tb.refresh(model)
    assert len(groups.scores) == 3
    assert isinstance(tb.make_permanent(model), Mask)
