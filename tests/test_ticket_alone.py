"""Tickets without their origin: the trained network bit for bit in a smaller file, and a clear no to all else."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from cli_calls import call, last_json
from supermask_searches import start_for
from test_storage import OPTIONS, QUICK, content, streams
from test_ticket_build import convnet, masked_training, random_mask, trained_ticket
from test_ticket_format import tickets
from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.methods import METHODS
from tombola.search.find import find
from tombola.study.mask_overlap import compare_tickets
from tombola.study.verify import verify
from tombola.ticket import format as container
from tombola.ticket.codec import encode
from tombola.ticket.origin import Origin
from tombola.ticket.pack import pack
from tombola.ticket.storage import bits_per_weight, bound_bytes
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket

GOLDEN = Path(__file__).parent / "data" / "no-origin.ticket"
GOLDEN_FLOATS = Path(__file__).parent / "data" / "no-origin-floats.ticket"
GOLDEN_DIGEST = "69e8e062552e27273d01e284778399ce52d45b3016065c211f70db2116d39bde"


def same_networks(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def reread(ticket: Ticket) -> Ticket:
    again = Ticket.from_bytes(ticket.to_bytes())
    assert again == ticket
    return again


# ---- the same network


@given(tickets())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_weight_stays_to_the_bit(ticket: Ticket) -> None:
    alone, base = reread(ticket.without_origin()), ticket.origin.views()
    assert alone.origin.kind == "omitted"
    assert alone.origin.tensors is None
    for name in ticket.mask:
        expected = ticket.effective(name, base[name], (ticket.trained or {}).get(name))
        assert alone.trained is not None
        found = alone.effective(name, torch.zeros_like(base[name]), alone.trained[name])
        assert same_bits(found, expected), name
    for name, value in base.items():
        if name not in ticket.mask:
            assert same_bits(alone.state[alone.origin.tied.get(name, name)], ticket.state.get(name, value)), name
    assert alone.without_origin() is alone


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_method_s_ticket_builds_the_same_and_counts_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 40), nn.ReLU(), nn.Linear(40, 10)
    )
    start = start_for(name, model, "digits")
    ticket = find(model, "digits", METHODS[name](**OPTIONS.get(name, {})), recipe=QUICK, start=start)
    assert ticket.origin.kind == "stored"
    whole, small = tmp_path / "whole.ticket", tmp_path / "small.ticket"
    assert ticket.save(whole) == ticket.digest
    digest = ticket.save(small, origin=False)
    alone = Ticket.load(small)
    assert digest == alone.digest != ticket.digest
    assert alone.provenance["whole_ticket"] == ticket.digest
    assert alone.mask == ticket.mask
    assert same_networks(alone.build(model=model), ticket.build(model=model))
    assert same_networks(alone.build(model=copy.deepcopy(model).apply(scramble)), ticket.build(model=model))
    assert small.stat().st_size < whole.stat().st_size
    rest = sum(tensor.nbytes for tensor in alone.state.values())
    bits = bits_per_weight(ticket)
    assert bits == bits_per_weight(alone)
    assert bound_bytes(alone) == pytest.approx(bits * ticket.mask.total / 8 + rest)
    assert content(alone) <= 1.02 * bound_bytes(alone) + 8 * streams(alone)


def scramble(module: nn.Module) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.data = torch.full_like(tensor, 7)


def test_a_pretrained_start_is_smaller_than_the_dense_file() -> None:
    _, _, ticket = trained_ticket()
    dense = sum(tensor.nbytes for tensor in convnet().state_dict().values())
    assert content(ticket) > dense > content(ticket.without_origin())


def test_one_magnitude_of_frozen_weights_becomes_signs_and_a_scale() -> None:
    signs = torch.where(torch.rand(40, 50, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0)
    keep = torch.rand(40, 50, generator=torch.Generator().manual_seed(1)) < 0.5
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        weight = (signs * 0.3).to(dtype)
        ticket = Ticket(origin=Origin.stored({"w": weight}), mask=Mask({"w": keep}))
        alone = ticket.without_origin()
        assert alone.trained is not None
        assert (alone.representation.kind, alone.trained["w"].dtype) == ("signed_constant", torch.int8)
        found = alone.effective("w", torch.zeros_like(weight), alone.trained["w"])
        assert same_bits(found, torch.where(keep, weight, torch.zeros_like(weight)))
        assert bits_per_weight(ticket) == pytest.approx(1.5, abs=0.04)
    for weight in (signs * 0.3 + torch.eye(40, 50), signs * 0, signs * torch.nan, signs * torch.inf):
        alone = Ticket(origin=Origin.stored({"w": weight}), mask=Mask({"w": keep})).without_origin()
        assert alone.trained is not None
        found = alone.effective("w", torch.zeros_like(weight), alone.trained["w"])
        assert same_bits(found, torch.where(keep, weight, torch.zeros_like(weight)))


class Tied(nn.Module):
    """Two Linears that share their weight, an embedding and its reader, two names of one norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.first.weight
        self.words = nn.Embedding(5, 4)
        self.read = nn.Linear(4, 5, bias=False)
        self.read.weight = self.words.weight
        self.norm = nn.BatchNorm1d(4)
        self.same = self.norm


def test_shared_weights_are_stored_once_and_stay_shared() -> None:
    torch.manual_seed(0)
    before = Tied()
    after = copy.deepcopy(before)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.add_(1)
    mask = Mask({"first.weight": torch.eye(4) > 0})
    ticket = Ticket.from_models(origin=Origin.stored(before), mask=mask, final_state=after.state_dict(), provenance={})
    alone = reread(ticket.without_origin())
    assert alone.origin.tied == {
        "read.weight": "words.weight", **{f"same.{leaf}": f"norm.{leaf}" for leaf in nn.BatchNorm1d(4).state_dict()}
    }  # fmt: skip
    assert "read.weight" not in alone.state
    assert same_networks(alone.build(model=Tied()), ticket.build(model=Tied()))
    assert alone.build(model=Tied()).get_submodule("read").weight is not None
    untied = after.state_dict() | {"read.weight": torch.zeros(5, 4)}  # no longer equal: both are kept
    parted = Ticket.from_models(origin=Origin.stored(before), mask=mask, final_state=untied, provenance={})
    assert same_bits(parted.without_origin().state["read.weight"], torch.zeros(5, 4))


def test_pruned_weights_that_stay_at_the_origin_are_stored() -> None:
    before = convnet()
    after, mask = copy.deepcopy(before), random_mask(before)
    masked_training(after, mask)
    more: dict[str, Any] = {"pruned_rule": "origin", "pruned_values": {"4.weight": torch.tensor(0.25)}}
    ticket = Ticket.from_models(
        origin=Origin.stored(before), mask=mask, final_state=after.state_dict(), provenance={}, **more
    )
    alone = reread(ticket.without_origin())
    assert alone.pruned_rule == "zero"
    assert same_networks(alone.build(model=convnet()), ticket.build(model=convnet()))


def test_a_seeded_origin_takes_no_space_and_stays(tmp_path: Path) -> None:
    ticket = find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=QUICK)
    assert ticket.without_origin() is ticket
    assert ticket.save(tmp_path / "t.ticket", origin=False) == ticket.digest


def test_rounding_takes_every_kept_weight() -> None:
    before, mask = convnet(), random_mask(convnet())
    ticket = Ticket(origin=Origin.stored(before), mask=mask)  # nothing was trained
    alone = ticket.without_origin().rounded("float16")
    assert alone.trained is not None
    assert {value.dtype for value in alone.trained.values()} == {torch.float16}
    weight = alone.build(model=convnet()).state_dict()["0.weight"]
    assert torch.equal(weight, (before.state_dict()["0.weight"] * mask["0.weight"]).half().float())


# ---- what it cannot do


@pytest.fixture(scope="module")
def alone() -> Ticket:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return find(model, "digits", {"density": 0.5, "rounds": 1}, recipe=QUICK).without_origin()


def test_everything_that_needs_the_origin_says_so(alone: Ticket) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    calls = (
        lambda: alone.build("origin", model=model),
        lambda: verify(alone, model=model, replicates=1),
        lambda: find(model, "digits", {"density": 0.2, "rounds": 1}, recipe=QUICK, start=alone),
        lambda: compare_tickets(alone, alone, model=model),
        lambda: alone.origin.state_dict(model),
    )
    for each in calls:
        with pytest.raises(TombolaError, match="saved without its origin: it can be built, deployed") as told:
            each()
        assert "\n" not in str(told.value)


def test_another_architecture_is_refused(alone: Ticket) -> None:
    for model in (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 12)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double(),
    ):
        with pytest.raises(TicketError, match="does not fit"):
            alone.build(model=model)


@pytest.mark.parametrize(
    "change",
    [
        {"pruned_rule": "origin"},
        {"trained": None},
        {"origin": {"tied": {"x": "nowhere"}}},
        {"origin": {"tied": {"1.weight": "1.bias"}}},
        {"origin": {"weights_hash": None}},
        {"origin": {"weights_hash": "xyz"}},
        {"origin": {"tensors": {"w": torch.ones(2)}}},
    ],
    ids=str,
)
def test_parts_that_do_not_stand_alone_are_refused(alone: Ticket, change: dict[str, Any]) -> None:
    def changed() -> Ticket:
        origin = replace(alone.origin, **change["origin"]) if "origin" in change else alone.origin
        return replace(alone, **{**change, "origin": origin})

    with pytest.raises(TicketError):
        changed()


def test_a_file_that_says_so_but_has_too_little_is_refused(alone: Ticket) -> None:
    header, tensors = encode(alone)
    for kind in ("seeded", "stored", "left out"):
        with pytest.raises(TicketError):
            Ticket.from_bytes(container.pack({**header, "origin": {**header["origin"], "kind": kind}}, tensors))
    stored = find_stored()
    header, tensors = encode(stored)
    with pytest.raises(TicketError, match="holds 2 tensors"):
        Ticket.from_bytes(container.pack({**header, "origin": {**header["origin"], "kind": "omitted"}}, tensors))


def find_stored() -> Ticket:
    return Ticket(origin=Origin.stored(nn.Linear(3, 2)), mask=Mask({"weight": torch.ones(2, 3) > 0}))


# ---- files and the command line


def golden() -> Ticket:
    """Signs, floats, a multiplier, pruned values, a tie, statistics."""
    ramp = torch.arange(24.0).reshape(4, 6) / 8 - 1
    base = {"a": ramp, "b": torch.full((4, 6), 0.5), "c": ramp * 2, "d": torch.tensor(3), "e": ramp[0].clone()}
    base["f"] = base["e"]
    keep = torch.arange(24).reshape(4, 6) % 3 == 0
    return Ticket.from_models(
        origin=Origin.stored(base),
        mask=Mask({"a": keep, "b": keep, "c": keep}),
        final_state={**base, "a": ramp + 1, "e": ramp[0] + 1, "f": ramp[0] + 1},
        multiplier={"b": keep.to(torch.int8) * 2},
        pruned_values={"c": torch.tensor(0.125)},
        provenance={"method": "by hand"},
    ).without_origin()


def test_golden_file() -> None:
    ticket = Ticket.load(GOLDEN)
    assert ticket.digest == golden().digest == GOLDEN_DIGEST
    again, _ = container.unpack(ticket.to_bytes())
    assert again == {**container.unpack(GOLDEN.read_bytes())[0], "format": 4}  # not the bytes: zlib may change
    assert ticket.representation.kind == "signed_constant"
    assert {name: scale.tolist() for name, scale in ticket.representation.scales.items()} == {"b": 0.5}
    assert ticket.trained is not None
    assert ticket.trained["b"].tolist() == [1] * 8
    assert ticket.origin.tied == {"f": "e"}


def golden_floats() -> Ticket:
    """Coded values of three dtypes, of few and of many exponents."""
    ramp = (torch.arange(-400, 400) / 64).reshape(20, 40)
    state = {"a": ramp, "b": (ramp / 8) ** 5, "c": ramp.bfloat16(), "d": ramp.half()}
    keep = torch.arange(800).reshape(20, 40) % 2 == 0
    return Ticket.from_models(
        origin=Origin.stored(state),
        mask=Mask({"a": keep, "b": keep}),
        final_state={**state, "a": ramp + 1, "b": state["b"] * 3},
        provenance={"method": "by hand"},
    ).without_origin()


def test_golden_file_of_format_4() -> None:
    assert Ticket.load(GOLDEN_FLOATS) == golden_floats()
    header, _ = container.unpack(GOLDEN_FLOATS.read_bytes())
    assert header["format"] == 4
    assert [(entry["kind"], entry["name"]) for entry in header["floats"]] == [
        ("state", "c"), ("state", "d"), ("trained", "a"), ("trained", "b"),
    ]  # fmt: skip


def test_export_and_info(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    whole, small = tmp_path / "whole.ticket", tmp_path / "small.ticket"
    ticket = find(model, "digits", {"density": 0.5, "rounds": 1}, recipe=QUICK)
    ticket.save(whole)
    told = last_json("export", str(whole), "--out", str(small), "--no-origin")
    assert Ticket.load(small) == ticket.without_origin()
    assert told["bytes"] == small.stat().st_size < whole.stat().st_size
    status, out, err = call("info", str(small))
    assert status == 0, err
    assert "origin left out: for running only" in out
    assert last_json("info", str(small))["origin"]["kind"] == "omitted"
    status, _, err = call("verify", str(small), "--replicates", "1", "--model", "torch.nn.Identity")
    assert status == 2
    assert "saved without its origin" in err
    with pytest.raises(TombolaError, match="saved without its origin"):  # before data are asked for
        verify(pack(ticket.build(model=model)), replicates=1)
    status, _, err = call("export", str(whole), "--out", str(tmp_path / "net.pt"), "--no-origin")
    assert status == 2
    assert "--no-origin is for another ticket" in err
    status, out, err = call("export", "--help")
    assert "--no-origin" in out
    assert "cannot be verified or searched from" in " ".join(out.split())


def test_export_of_a_seeded_ticket_says_that_the_seed_stays(tmp_path: Path) -> None:
    file = tmp_path / "t.ticket"
    find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=QUICK).save(file)
    status, out, err = call("export", str(file), "--out", str(tmp_path / "u.ticket"), "--no-origin")
    assert status == 0, err
    assert "its origin is a seed, which takes no space: it stays" in out
