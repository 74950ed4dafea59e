"""Weights that a layer computes from others: what the layer uses is held, or they are refused by name."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import tombola as tb
from hold_models import X, is_held, is_zero, nested, some_mask, step, weight
from tombola.errors import TombolaError
from tombola.hold import hold, release
from tombola.mask import Mask
from tombola.supermask import Binary, Masked, SignedConstant


class Shifted(nn.Module):
    """A user's own parametrisation, under which 0 does not stay 0."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 1

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight - 1


def orthogonal(module: nn.Module) -> None:
    parametrizations.orthogonal(module)


def spectral(module: nn.Module) -> None:
    parametrizations.spectral_norm(module)


def weight_norm(module: nn.Module) -> None:
    parametrizations.weight_norm(module)


def shifted(module: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", Shifted())


def two(module: nn.Module) -> None:
    shifted(module)
    weight_norm_of_that = Shifted()
    parametrize.register_parametrization(module, "weight", weight_norm_of_that)


KINDS: list[Callable[[nn.Module], None]] = [orthogonal, spectral, weight_norm, shifted, two]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_weight_that_the_layer_uses_is_held(kind: Callable[[nn.Module], None], when: str) -> None:
    model = nested()
    mask = some_mask(model)
    if when == "before":
        kind(model.head)
        kind(model.encoder[2])
    names = list(model.state_dict())
    held = hold(model, mask)
    if when == "after":
        kind(model.head)
        kind(model.encoder[2])
        names = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        step(model, optimizer)
        assert is_held(model, mask)
    assert list(model.state_dict()) == names
    model.load_state_dict(before)
    model.encoder(X)
    assert is_held(model, mask)
    twin = copy.deepcopy(model)
    twin(X)
    assert is_held(twin, mask)
    release(twin)
    step(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
    assert not is_held(twin, mask)
    assert is_held(model, mask)
    if kind is not spectral:  # which has moved its vectors on
        step(model, optimizer)
        used = weight(model, "head.weight")
        held.release()
        kept = mask["head.weight"]
        assert torch.allclose(weight(model, "head.weight")[kept], used[kept])
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert not is_zero(weight(model, "head.weight")[~kept])
        assert len(model.head.parametrizations.weight) == (2 if kind is two else 1)  # type: ignore[union-attr, arg-type]


def test_values_on_a_computed_weight_and_the_hold_after_the_parametrisation_is_removed() -> None:
    model = nested()
    mask = some_mask(model)
    values = {name: torch.full(kept.shape, -0.25) for name, kept in mask.items()}
    shifted(model.head)
    with hold(model, mask, values):
        model(X)
        assert bool((weight(model, "head.weight")[~mask["head.weight"]] == -0.25).all())
        parametrize.remove_parametrizations(model.head, "weight")
        model.head.weight.data.fill_(1.0)
        model(X)
        assert bool((weight(model, "head.weight")[~mask["head.weight"]] == -0.25).all())
        assert bool((weight(model, "head.weight")[mask["head.weight"]] == 1).all())


def test_a_parametrisation_that_comes_later_still_ends_masked() -> None:
    model = nested()
    mask = some_mask(model)
    shifted(model.head)
    with hold(model, mask):
        shifted(model.head)  # now behind the masking
        model(X)
        assert is_zero(weight(model, "head.weight")[~mask["head.weight"]])
        assert len(model.head.parametrizations.weight) == 3  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("represent", [None, Binary(), SignedConstant()])
def test_supermask_layers_are_held_in_what_they_use(represent: object) -> None:
    model = nested()
    mask = some_mask(model)
    tb.attach(model, tb.TopK(0.9), represent=represent)  # type: ignore[arg-type]
    with hold(model, mask):
        model(X)
        assert is_held(model, mask)
        tb.make_permanent(model)
        model(X)
        assert is_held(model, mask)
        for parameter in model.parameters():
            parameter.data.fill_(1.0)
        model(X)
        assert is_held(model, mask)
    model = nested()
    with hold(model, mask):
        groups = tb.attach(model, tb.TopK(0.9), weights=Masked())
        optimizer = torch.optim.SGD([*groups.scores, *groups.weights], lr=0.1)
        for _ in range(2):
            step(model, optimizer)
            tb.refresh(model)
            model(X)
            assert is_held(model, mask)


def test_masks_of_torch_prune_are_held_along() -> None:
    model = nested()
    mask = some_mask(model)
    prune.random_unstructured(model.head, "weight", amount=3)
    theirs = model.head.weight_mask == 0
    with hold(model, mask):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step(model, optimizer)
        model.head.weight_orig.data.fill_(1.0)  # type: ignore[union-attr, operator]
        model(X)
        assert torch.equal(weight(model, "head.weight") == 0, ~mask["head.weight"] | theirs)
        prune.remove(model.head, "weight")
        model.head.weight.data.fill_(1.0)
        model(X)
        assert torch.equal(weight(model, "head.weight") == 0, ~mask["head.weight"])


@pytest.mark.parametrize("when", ["before", "after"])
def test_weights_that_hooks_compute_are_refused_by_name(when: str) -> None:
    model = nested()
    mask = some_mask(model)
    cases = (
        (nn.utils.weight_norm, model.head, "head", "weight_g and weight_v"),
        (nn.utils.spectral_norm, model.encoder[0], "encoder.0", "weight_orig"),
    )
    for compute, module, name, source in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            only = Mask({f"{name}.weight": mask[f"{name}.weight"]})
            if when == "before":
                compute(module)  # type: ignore[operator]
                with pytest.raises(TombolaError, match=rf"'{name}\.weight' is computed from .*{source}"):
                    hold(model, only)
            else:
                with hold(model, only):
                    compute(module)  # type: ignore[operator]
                    with pytest.raises(TombolaError, match=rf"'{name}\.weight' is computed from .*{source}"):
                        model(X)


def test_what_is_not_dense_is_refused_by_name() -> None:
    keep = torch.ones(3, 3, dtype=torch.bool)
    lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(TombolaError, match=r"'0\.weight' has no shape yet"):
        hold(lazy, Mask({"0.weight": keep}))
    sparse = nn.Linear(3, 3)
    sparse.weight = nn.Parameter(torch.eye(3).to_sparse())
    with pytest.raises(TombolaError, match=r"'weight' is torch.float32 \(torch.sparse_coo\)"):
        hold(sparse, Mask({"weight": keep}))


# ---- Mask.apply_ -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [orthogonal, shifted], ids=lambda kind: kind.__name__)
def test_applying_a_mask_to_a_computed_weight_is_refused_and_changes_nothing(kind: Callable[[nn.Module], None]) -> None:
    model = nested()
    mask = some_mask(model)
    kind(model.head)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TombolaError, match=r"'head\.weight' is parametrised.*tb\.hold"):
        mask.apply_(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_applying_a_mask_where_0_stays_0() -> None:
    model = nested()
    mask = some_mask(model)
    tb.attach(model, tb.TopK(0.9))
    mask.apply_(model)
    assert all(bool((weight(model, name)[~kept] == 0).all()) for name, kept in mask.items())
