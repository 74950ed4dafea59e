"""Tickets of learned masks: what is built from them is what was attached, for every rule and representation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tombola.levels.learn import Learning, attached, make_ticket
from tombola.levels.search import Search
from tombola.mask import Mask
from tombola.supermask import (
    FROZEN,
    Bernoulli,
    Binary,
    Coats,
    Dense,
    Identity,
    Masked,
    Represent,
    Round,
    Signed,
    SignedConstant,
    Threshold,
    TopK,
    WeightRule,
    make_permanent,
    refresh,
)
from tombola.supermask.layers import groups
from tombola.supermask.rules import MaskRule
from tombola.ticket.export import export_state
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.ticket import Ticket


def network(tied: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 36))
    model.extend([nn.ReLU(), nn.Linear(36, 36)])
    if tied:
        model[6].weight = model[4].weight
    return model


def inputs() -> Tensor:
    return torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def search_of(model: nn.Module | None, spec: NetworkSpec | None = None) -> Search:
    """A search without anything to train on."""
    nothing: Any = None
    if model is not None:
        return Search(nothing, Origin.stored(model), 0, {"from": "a test"}, architecture=model)
    return Search(nothing, Origin.seeded(spec, "signed_constant", 3), 0, {"from": "a test"})


def trained(search: Search, learning: Learning, x: Tensor) -> nn.Module:
    """An attached model after a few steps, its masks final."""
    model = attached(search, learning)
    scores, weights = groups(model)
    optimizer = torch.optim.SGD([*scores, *weights], lr=0.3, momentum=0.9, weight_decay=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        refresh(model)
    refresh(model, sample=False)
    return model.eval()


def same_bytes(ticket: Ticket, path: Path) -> Ticket:
    """The ticket, once written and read."""
    ticket.save(path)
    loaded = Ticket.load(path)
    assert loaded == ticket
    return loaded


RULES: list[MaskRule] = [
    TopK(0.4),
    TopK(0.4, "global", "block:2"),
    Threshold(),
    Bernoulli(),
    Round(),
    Signed(),
    Coats(),
]
REPRESENTS: list[Represent] = [
    Identity(),
    Identity(True),
    SignedConstant(),
    SignedConstant(True),
    Binary(),
    Binary(True),
]


@pytest.mark.parametrize("represent", REPRESENTS, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_what_is_built_is_what_was_attached(rule: MaskRule, represent: Represent, tmp_path: Path) -> None:
    search = search_of(network())
    model = trained(search, Learning(rule, represent=represent, rest="norms"), inputs())
    ticket = same_bytes(make_ticket(search, model, (), 1), tmp_path / "a.ticket")
    assert ticket.trained is None  # frozen weights need no storing
    built = ticket.build(model=network()).eval()
    torch.testing.assert_close(built(inputs()), model(inputs()), rtol=1e-6, atol=1e-7)
    mask = make_permanent(model)
    assert ticket.mask == mask
    for name, value in built.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("weights", [Masked(), Dense()], ids=str)
@pytest.mark.parametrize("represent", [Identity(), Identity(True), Binary(), Binary(True)], ids=str)
def test_trained_weights_are_built_as_attached(weights: WeightRule, represent: Represent, tmp_path: Path) -> None:
    search = search_of(network())
    model = trained(search, Learning(TopK(0.4), weights, represent), inputs())
    ticket = same_bytes(make_ticket(search, model, (), 1), tmp_path / "a.ticket")
    built = ticket.build(model=network()).eval()
    torch.testing.assert_close(built(inputs()), model(inputs()), rtol=1e-6, atol=1e-7)
    assert Mask.from_zeros(built) == ticket.mask


@pytest.mark.parametrize(
    ("weights", "represent"),
    [
        (weights, represent)
        for weights in (FROZEN, Masked())
        for represent in (Identity(), SignedConstant(), Binary())
        if represent.trainable or not weights.trained
    ],
    ids=str,
)
def test_tied_weights_stay_tied(weights: WeightRule, represent: Represent, tmp_path: Path) -> None:
    search = search_of(network(tied=True))
    model = trained(search, Learning(TopK(0.4), weights, represent), inputs())
    ticket = same_bytes(make_ticket(search, model, (), 1), tmp_path / "a.ticket")
    assert list(ticket.mask) == ["0.weight", "4.weight"]
    assert dict(ticket.tied) == {"6.weight": "4.weight"}
    for architecture in (network(tied=True), network()):
        built = ticket.build(model=architecture).eval()
        torch.testing.assert_close(built(inputs()), model(inputs()), rtol=1e-6, atol=1e-7)
        assert torch.equal(built[4].weight, built[6].weight)  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("represent", REPRESENTS, ids=str)
def test_other_dtypes(dtype: torch.dtype, represent: Represent, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(9, 30), nn.ReLU(), nn.Linear(30, 4)).to(dtype)
    x = inputs().flatten(1).to(dtype)
    search = search_of(model)
    model = trained(search, Learning(TopK(0.4), represent=represent), x)  # type: ignore[assignment]
    ticket = same_bytes(make_ticket(search, model, (), 1), tmp_path / "a.ticket")
    built = ticket.build(model=search.architecture).eval()
    out = built(x)
    assert out.dtype == dtype
    assert torch.equal(out, model(x))


def test_an_attention_network(tmp_path: Path) -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    x = torch.randn(2, 3, 8)
    search = search_of(model)
    found = trained(search, Learning(TopK(0.4), include=("*.bias",), represent=Identity(True)), x)
    ticket = same_bytes(make_ticket(search, found, (), 1), tmp_path / "a.ticket")
    torch.testing.assert_close(ticket.build(model=model).eval()(x), found(x))


def test_a_network_that_holds_other_parametrisations() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(9, 9)),
        nn.utils.parametrizations.weight_norm(nn.Linear(9, 9)),
        nn.Linear(9, 2),
    )
    x = inputs().flatten(1)
    search = search_of(model)
    found = trained(search, Learning(TopK(0.4), Masked(), exclude=("0.*", "1.*")), x)
    ticket = make_ticket(search, found, (), 1)
    assert list(ticket.mask) == ["2.weight"]
    torch.testing.assert_close(ticket.build(model=model).eval()(x), found(x))


@pytest.mark.parametrize("represent", [Identity(), SignedConstant(True), Binary()], ids=str)
def test_frozen_weights_of_a_seed_make_a_tiny_file(represent: Represent, tmp_path: Path) -> None:
    search = search_of(None, NetworkSpec("mlp", {"hidden": [128, 64]}, (1, 8, 8), 10))
    model = trained(search, Learning(TopK(0.5), represent=represent), torch.randn(5, 1, 8, 8))
    ticket = same_bytes(make_ticket(search, model, (), 1), tmp_path / "a.ticket")
    assert ticket.origin.kind == "seeded"
    assert ticket.trained is None
    assert dict(ticket.state) == {}
    bits = 8 * (tmp_path / "a.ticket").stat().st_size / ticket.mask.total
    assert bits < 2.5  # a bit per weight for the mask, and the header of this small network
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(ticket.build().eval()(x), model(x), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("represent", [Identity(True), SignedConstant(), Binary()], ids=str)
def test_the_subnetwork_stands_alone_when_exported(represent: Represent, suffix: str, tmp_path: Path) -> None:
    search = search_of(network())
    model = trained(search, Learning(TopK(0.3), represent=represent), inputs())
    ticket, file = make_ticket(search, model, (), 1), tmp_path / f"network{suffix}"
    export_state(ticket, file, model=network())
    state = safetensors.torch.load_file(file) if suffix == ".safetensors" else torch.load(file, weights_only=True)
    alone = network()
    alone.load_state_dict(state, strict=True)
    torch.testing.assert_close(alone.eval()(inputs()), model(inputs()), rtol=1e-6, atol=1e-7)
    assert Mask.from_zeros(alone) == ticket.mask


def test_a_ticket_says_what_it_is() -> None:
    search = search_of(network())
    ticket = make_ticket(search, trained(search, Learning(TopK(0.3), represent=Binary()), inputs()), (), 3)
    json.dumps(ticket.info())
    assert ticket.representation.kind == "binary"
    assert ticket.provenance["level"] == 3
