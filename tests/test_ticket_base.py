"""Tickets on a base: named by its content, refused on any other, the same network bit for bit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file
from torch import nn

from cli_calls import call, last_json
from test_ticket_alone import Tied, same_networks
from test_ticket_format import tickets
from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.methods.edge_popup import EdgePopup
from tombola.search.find import find
from tombola.ticket import format as container
from tombola.ticket.base import combined, content_hash, refitted
from tombola.ticket.codec import encode
from tombola.ticket.origin import Origin
from tombola.ticket.storage import bits_per_weight, bound_bytes
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket


def backbone(outputs: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU())
    torch.manual_seed(outputs)
    return body.append(nn.Linear(64, outputs))


def task(outputs: int, seed: int = 0) -> Ticket:
    """A random mask on the backbone, a new head that was trained, norm statistics that moved."""
    network = backbone(outputs)
    draw = torch.Generator().manual_seed(seed)
    mask = Mask(
        {name: torch.rand(network.get_parameter(name).shape, generator=draw) < 0.5 for name in ("0.weight", "4.weight")}
    )
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ("6.weight", "6.bias", "1.running_mean"):
        state[name] += torch.rand(state[name].shape, generator=draw)
    return Ticket.from_models(origin=Origin.stored(network), mask=mask, final_state=state, provenance={})


def reread(ticket: Ticket) -> Ticket:
    again = Ticket.from_bytes(ticket.to_bytes())
    assert again == ticket
    return again


# ---- the same network


@given(tickets())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_ticket_whose_base_has_all_of_its_origin_holds_none_of_it(ticket: Ticket) -> None:
    base = ticket.origin.state_dict()
    on_base = reread(ticket.on_base(base))
    assert on_base.origin.kind == "base"
    assert on_base.origin.tensors is None
    assert on_base.state.keys() == ticket.state.keys()
    assert on_base.on_base(base) is on_base
    assert on_base.without_origin() is on_base
    for name in ticket.mask:
        trained = (ticket.trained or {}).get(name)
        assert same_bits(on_base.effective(name, base[name], trained), ticket.effective(name, base[name], trained))


@pytest.mark.parametrize("outputs", [10, 3])
def test_it_builds_the_same_and_costs_its_mask_and_head(outputs: int, tmp_path: Path) -> None:
    whole, base = task(outputs), backbone()
    on_base = reread(whole.on_base(base))
    expected = whole.build(model=backbone(outputs))
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    for given_base in (base, base.state_dict(), tmp_path / "base.safetensors"):
        model = backbone(outputs).apply(scramble)
        assert same_networks(on_base.build(base=given_base, model=model), expected)
    built = on_base.build(base=base)
    assert same_networks(built, expected)
    assert isinstance(built[6], nn.Linear)
    assert built[6].out_features == outputs
    assert same_networks(base, backbone())
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(built.eval()(x), expected.eval()(x))
    assert same_networks(on_base.build(model=base), expected)
    entropy, head = on_base.mask.total / 8, 4 * (64 * outputs + outputs)
    assert set(on_base.state) == {"6.bias", "6.weight", "1.running_mean"}
    assert bound_bytes(on_base) == pytest.approx(entropy + head + 4 * 8, abs=4)
    assert len(on_base.to_bytes()) < bound_bytes(on_base) + 2500
    assert bits_per_weight(on_base) == pytest.approx(1, abs=0.01)
    assert on_base.provenance["whole_ticket"] == whole.digest


def scramble(module: nn.Module) -> None:
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tensor.data = torch.full_like(tensor, 7)


def test_the_origin_is_there_where_the_base_has_all_of_it() -> None:
    base = backbone()
    whole = task(10)
    on_base = whole.on_base(base)
    assert same_networks(on_base.build("origin", base=base), whole.build("origin", model=backbone()))
    assert same_networks(on_base.build("origin", model=base), whole.build("origin", model=backbone()))
    other_head = task(3).on_base(base)
    with pytest.raises(TicketError, match=r"'6.weight'; '6.bias' are not the base's.*not trained again"):
        other_head.build("origin", base=base)


def test_a_masked_head_of_another_size_is_held_whole() -> None:
    network = backbone(3)
    keep = torch.eye(3, 64) > 0
    mask = Mask({"4.weight": torch.eye(64, 288) > 0, "6.weight": keep})
    whole = Ticket(origin=Origin.stored(network), mask=mask)
    on_base = reread(whole.on_base(backbone(10)))
    assert list(on_base.origin.tensors or {}) == ["6.weight"]
    assert list(on_base.state) == ["6.bias"]
    assert same_networks(on_base.build(base=backbone(10)), whole.build(model=network))


def test_a_seeded_ticket_may_name_its_drawn_network_as_its_base() -> None:
    ticket = find("mlp", "digits", EdgePopup(), recipe={"length": "2it", "batch_size": 8})
    assert ticket.origin.kind == "seeded"
    base = ticket.origin.network_module()
    on_base = reread(ticket.on_base(base))
    assert on_base.origin.seed == ticket.origin.seed
    assert same_networks(on_base.build(base=base), ticket.build())
    assert same_networks(on_base.build(base=base.state_dict()), ticket.build())


def test_shared_weights_stay_shared() -> None:
    torch.manual_seed(0)
    before = Tied()
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.first.weight.add_(1)
        after.norm.weight.add_(1)
    mask = Mask({"first.weight": torch.eye(4) > 0})
    whole = Ticket.from_models(origin=Origin.stored(before), mask=mask, final_state=after.state_dict(), provenance={})
    once = {name: value for name, value in before.state_dict().items() if name not in ("read.weight", "again.weight")}
    for base in (before, before.state_dict(), once):
        on_base = reread(whole.on_base(base))
        model = None if isinstance(base, nn.Module) else Tied()
        assert same_networks(on_base.build(base=base, model=model), whole.build(model=Tied()))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (5, 6)),
        (nn.Conv2d(6, 4, 3, groups=2), (8, 3, 3, 3)),
        (nn.Conv1d(6, 4, 3, bias=False), (2, 6, 3)),
    ],
)
def test_layers_of_other_sizes_say_their_size(layer: nn.Module, shape: tuple[int, ...]) -> None:
    bias = {} if layer.bias is None else {"bias": torch.zeros(shape[0])}
    made = refitted(layer, {"weight": torch.ones(shape), **bias})
    assert repr(made) == repr(type(layer)(6, shape[0], *([] if isinstance(layer, nn.Linear) else [3]), **_more(layer)))
    assert layer.weight.shape[0] == 4
    x = torch.ones(1, 6, *[5] * (len(shape) - 2))
    assert made(x).shape[1] == shape[0]


def _more(layer: nn.Module) -> dict[str, Any]:
    groups = {"groups": layer.groups} if isinstance(layer, nn.Conv2d) else {}
    return {**groups, "bias": layer.bias is not None}


# ---- other bases


def test_one_weight_that_is_one_ulp_off_is_another_base() -> None:
    on_base, base = task(10).on_base(backbone()), backbone()
    with torch.no_grad():
        base[4].weight[3, 5] = torch.nextafter(base[4].weight[3, 5], torch.tensor(9.0))
    with pytest.raises(TicketError, match=r"differs from the one.*in '4.weight' of 11 tensors") as told:
        on_base.build(base=base)
    assert str(on_base.origin.weights_hash)[:12] in str(told.value)
    assert "\n" not in str(told.value)


def test_an_unused_head_of_the_base_may_be_another() -> None:
    on_base, base = task(3).on_base(backbone()), backbone(7)
    assert same_networks(on_base.build(base=base), task(3).build(model=backbone(3)))


def test_what_is_no_base_of_it_is_refused() -> None:
    on_base, base = task(10).on_base(backbone()), backbone()
    state = base.state_dict()
    cases: list[tuple[Any, str]] = [
        (None, r"a base that it does not hold \(hash [0-9a-f]{12}\)"),
        (base[:4], "the base lacks '4.weight'"),
        ({name: value for name, value in state.items() if name != "1.running_var"}, "lacks '1.running_var'"),
        (backbone().double(), "differs from the one"),
        ({"0.weight": 3}, "give a network, its state_dict"),
        ("missing.safetensors", "is not a file"),
    ]
    for given_base, words in cases:
        model = backbone() if isinstance(given_base, dict | str) else None
        with pytest.raises(TombolaError, match=words) as told:
            on_base.build(base=given_base, model=model)
        assert "\n" not in str(told.value)
    with pytest.raises(TicketError, match="names no base; leave base out"):
        task(10).build(base=base)
    with pytest.raises(TicketError, match="the base has none of the ticket's masked weights"):
        task(10).on_base(backbone().apply(scramble))
    with pytest.raises(TicketError, match="saved without its origin"):
        task(10).without_origin().on_base(base)
    deeper = nn.Sequential(*backbone(), nn.Linear(10, 10))
    with pytest.raises(TicketError, match=r"knows no '7.weight'; '7.bias'"):
        on_base.build(base=deeper)


def test_hashes_are_those_of_the_format() -> None:
    import hashlib

    tensor = torch.tensor([1.0, 2.0])
    by_hand = hashlib.sha256(b"torch.float32\0(2,)\0" + tensor.numpy().tobytes()).hexdigest()
    assert content_hash(tensor) == by_hand
    assert combined({"b": "1", "a": "2"}) == hashlib.sha256(b"a\x002\x00b\x001\x00").hexdigest()


# ---- files


@pytest.mark.parametrize(
    "change",
    [
        {"base": {}},
        {"base": {"0.weight": "xyz"}},
        {"base": "0.weight"},
        {"weights_hash": None},
        {"weights_hash": "0" * 63},
        {"kind": "stored"},
        {"kind": "foundation"},
    ],
    ids=str,
)
def test_unsound_origins_are_refused(change: dict[str, Any]) -> None:
    header, tensors = encode(task(10).on_base(backbone()))
    with pytest.raises(TicketError):
        Ticket.from_bytes(container.pack({**header, "origin": {**header["origin"], **change}}, tensors))


def test_masked_weights_are_of_the_base_or_held() -> None:
    on_base = task(10).on_base(backbone())
    named = {name: start for name, start in (on_base.origin.base or {}).items() if name != "4.weight"}
    for origin in (
        replace(on_base.origin, base=named),
        replace(on_base.origin, base=named, tensors={"4.weight": torch.zeros(3, 3)}),
        replace(on_base.origin, base=named, tensors={"4.weight": torch.zeros(64, 288), "5.weight": torch.zeros(2)}),
    ):
        with pytest.raises(TicketError, match="either the base's or held"):
            replace(on_base, origin=origin)
    with pytest.raises(TicketError, match="names 11 tensors of a base"):
        replace(on_base.origin, tensors={"4.weight": torch.zeros(64, 288)})


def test_every_changed_byte_and_every_cut_is_told() -> None:
    data = task(3).on_base(backbone()).to_bytes()
    for at in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[at] ^= 1
        for bad in (bytes(damaged), data[:at]):
            with pytest.raises(TicketError):
                Ticket.from_bytes(bad)


# ---- the command line


def test_from_the_whole_ticket_to_the_deployed_task(tmp_path: Path) -> None:
    whole, small, base = tmp_path / "whole.ticket", tmp_path / "task.ticket", tmp_path / "base.safetensors"
    first = find("mlp", "digits", "dense", recipe={"length": "2it", "batch_size": 8}).build()
    save_file({name: value.clone() for name, value in first.state_dict().items()}, base)
    status, _, err = call(
        "find", "edge-popup", "--model", "mlp", "--data", "digits", "--checkpoint", str(base), "--length", "2it",
        "--batch_size", "8", "--out", str(tmp_path / "runs"), "--progress", "false",
    )  # fmt: skip
    assert status == 0, err
    next((tmp_path / "runs").rglob("*.ticket")).rename(whole)
    told = last_json("export", str(whole), "--out", str(small), "--base", str(base))
    assert told["bytes"] == small.stat().st_size < whole.stat().st_size / 6
    assert Ticket.load(small) == Ticket.load(whole).on_base(base)
    status, out, err = call("info", str(small))
    assert status == 0, err
    assert "on a base that it names and does not hold" in out
    assert str(Ticket.load(small).origin.weights_hash) in out
    net = tmp_path / "net.safetensors"
    told = last_json("export", str(small), "--out", str(net), "--base", str(base))
    whole_net = tmp_path / "whole.safetensors"
    last_json("export", str(whole), "--out", str(whole_net))
    assert net.read_bytes() == whole_net.read_bytes()
    other = tmp_path / "other.safetensors"
    save_file({name: value + 1 for name, value in first.state_dict().items()}, other)
    for words, expected in (
        (("export", str(small), "--out", str(net)), "a base that it does not hold"),
        (("export", str(small), "--out", str(net), "--base", str(other)), "the base differs from the one"),
        (("export", str(whole), "--out", str(net), "--base", str(base)), "names no base; leave base out"),
        (("export", str(whole), "--out", str(small), "--base", str(base), "--no-origin"), "give one of the two"),
    ):
        status, _, err = call(*words)
        assert status == 2
        assert expected in err
        assert "\n" not in err.strip()
    report = last_json("verify", str(small), "--base", str(base), "--replicates", "1", "--length", "2it",
                       "--batch_size", "8", "--out", str(tmp_path / "runs"), "--progress", "false")  # fmt: skip
    assert {"ticket", "dense"} <= set(report["arms"])


def test_a_search_goes_on_from_it() -> None:
    quick = {"length": "2it", "batch_size": 8}
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    first = find(model, "digits", EdgePopup(), recipe=quick)
    again = [find(model, "digits", EdgePopup(), recipe=quick, start=one) for one in (first, first.on_base(model))]
    assert again[0].mask == again[1].mask
    assert same_networks(again[0].build(model=model), again[1].build(model=model))


def test_a_new_head_is_trained_beside_the_mask_and_held() -> None:
    quick = {"length": "3it", "batch_size": 8, "lr": 0.1}
    base = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 7))
    model = copy.deepcopy(base)
    model[3] = nn.Linear(20, 10)
    method = EdgePopup(exclude=("3.*",), train=("3.*",))
    ticket = find(model, "digits", method, recipe=quick).on_base(base)
    assert set(ticket.state) == {"3.bias", "3.weight"}
    assert list(ticket.mask) == ["1.weight"]
    assert not torch.equal(ticket.state["3.weight"], model[3].weight)
    assert same_bits(ticket.build(base=base)[1].bias, base[1].bias)
    for patterns, words in ((("1.*",), "'1.weight', which is masked"), (("fc.*",), "names no parameter")):
        with pytest.raises(TombolaError, match=words):
            find(model, "digits", replace(method, train=patterns), recipe=quick)
