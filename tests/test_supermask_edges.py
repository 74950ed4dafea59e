"""Supermasks on odd models and with odd settings: each works, or says in one line why not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import tombola as tb
from supermask_models import inputs, network, scores_of, train
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.select.select import EmptyLayerWarning
from tombola.supermask import (
    Binary,
    Identity,
    SignedConstant,
    TopK,
    attach,
    detach,
    make_permanent,
    plain_state,
    read,
    refresh,
)
from tombola.supermask.layers import layers

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
