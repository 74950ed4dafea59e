"""Exactly how much a supermask keeps, of every layer and in every pattern; draws and half precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from supermask_models import network, scores_of, train
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.select.select import EmptyLayerWarning, select
from tombola.supermask import (
    Bernoulli,
    Binary,
    Identity,
    Represent,
    SignedConstant,
    TopK,
    attach,
    detach,
    make_permanent,
    read,
    refresh,
)
from tombola.supermask.attach import start_scores
from tombola.supermask.layers import layers

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
        attach(model, TopK(density, scope, pattern), seed=seed, outputs=())
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
    attach(model, TopK(0.5, pattern=pattern), outputs=())
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
    vector = start_scores("torch_default", "a", torch.zeros(900), 0)  # of which the length is the fan-in
    assert 0.9 / 30 < float(vector.abs().max()) <= 1 / 30
    kernel = start_scores("torch_default", "a", torch.zeros(50, 4, 3, 3), 0)
    assert 0.9 / 6 < float(kernel.abs().max()) <= 1 / 6
    assert start_scores(0.0, "a", weight.bfloat16(), 0).dtype == torch.float32
    assert start_scores("unit", "a", weight.double(), 0).dtype == torch.float64
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
