"""Hostile files: whatever the bytes, a ticket or one line of TicketError, soon and in little memory."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli_calls import call
from tombola.errors import TicketError
from tombola.mask import Mask
from tombola.ticket import format as container
from tombola.ticket import masks
from tombola.ticket.bitcode import BitReader, BitWriter
from tombola.ticket.codec import encode
from tombola.ticket.layout import PARTS
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.representation import Representation
from tombola.ticket.table import info, table
from tombola.ticket.ticket import Ticket

Content = tuple[dict[str, Any], dict[str, torch.Tensor]]
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rich() -> Ticket:
    """A ticket with every kind of part: coded and packed masks, signs, a multiplier, pruned values, plain tensors."""
    torch.manual_seed(1)
    weight = {"a": torch.randn(64, 96), "b": torch.randn(40, 30), "c": torch.randn(7)}
    rows = torch.rand(64, 1) < 0.5
    keep = {"a": (torch.rand(64, 96) < 0.3) & rows, "b": torch.rand(40, 30) < 0.1, "c": torch.rand(7) < 0.5}
    state = {**weight, "bias": torch.zeros(3), "count": torch.tensor(5), "flag": torch.tensor([True])}
    final = {name: -value if value.is_floating_point() else value for name, value in state.items()}
    return Ticket.from_models(
        origin=Origin.stored(state),
        mask=Mask(keep),
        final_state={**final, "bias": torch.ones(3)},
        provenance={"method": "x", "deep": [{"a": [1, 2.5, None]}]},
        representation=Representation("signed_constant", {"a": torch.tensor(0.5)}),
        multiplier={"b": torch.where(torch.rand(40, 30) < 0.5, 1, -1).to(torch.int8) * keep["b"]},
        pruned_values={"c": torch.zeros(int((~keep["c"]).sum()))},
    )


def begun() -> Ticket:
    """A ticket of values that actions gave: first ones as numbers and as signs, pruned ones as bits or trained."""
    torch.manual_seed(2)
    state = {name: torch.randn(30, 20) for name in ("a", "b", "c")}
    keep = {name: torch.rand(30, 20) < 0.3 for name in state}
    signs = {name: torch.where(torch.rand(int(mask.sum())) < 0.5, 1, -1).to(torch.int8) for name, mask in keep.items()}
    bits = {name: (torch.rand(int((~mask).sum())) < 0.5).to(torch.int8) for name, mask in keep.items()}
    return Ticket(
        origin=Origin.stored(state),
        mask=Mask(keep),
        representation=Representation("signed_constant", {"a": torch.tensor(0.5)}, on="origin"),
        begin={"a": signs["a"], "b": torch.randn(int(keep["b"].sum()))},
        pruned_rule="train",
        pruned_values={"a": bits["a"], "b": torch.randn(int((~keep["b"]).sum())), "c": bits["c"]},
        trained={"c": torch.randn(int(keep["c"].sum()))},
    )


RICH, BEGUN = rich(), begun()
DATA = RICH.to_bytes()
ALONE = RICH.without_origin()


def content(ticket: Ticket = RICH) -> Content:
    header, tensors = encode(ticket)
    return json.loads(container.canonical(header)), {name: tensor.clone() for name, tensor in tensors.items()}


def reseal(data: bytes) -> bytes:
    """The bytes with a matching checksum put in, where there is a place for it."""
    marker = b'"tombola":"{\\"checksum\\":\\"'
    at = data.find(marker) + len(marker)
    body = bytearray(data)
    if at >= len(marker) and at + 64 <= len(body):
        body[at : at + 64] = b"0" * 64
        body[at : at + 64] = hashlib.sha256(body).hexdigest().encode()
    return bytes(body)


def with_index(index: bytes, tensors: dict[str, torch.Tensor]) -> bytes:
    """A sealed file whose tensor "index" holds these bytes."""
    held = {**tensors, "index": torch.frombuffer(bytearray(index), dtype=torch.uint8)}
    return reseal(safetensors.torch.save(held, {"tombola": '{"checksum":"' + "0" * 64 + '","format":4}'}))


def refused(data: bytes, **more: Any) -> str:
    with pytest.raises(TicketError) as caught:
        Ticket.from_bytes(data, **more)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 800
    return message


def survives(data: bytes) -> None:
    """Refused in one line, or a ticket that is its own file's content."""
    found: TicketError | None = None
    try:
        ticket = Ticket.from_bytes(data)
    except TicketError as error:
        found = error
    if found is None:
        assert Ticket.from_bytes(ticket.to_bytes()) == ticket
    else:
        assert str(found)
        assert "\n" not in str(found)


def test_what_the_fuzzing_starts_from() -> None:
    assert Ticket.from_bytes(DATA) == RICH
    header, tensors = content()
    assert with_index(container._deflate(container.canonical(header).encode()), tensors) == DATA
    assert {entry["coding"] for entry in header["masks"]} == {"channels", "bernoulli", "packed"}
    assert {(entry["kind"], entry["name"]) for entry in header["symbols"]} == {("trained", "a"), ("multiplier", "b")}
    assert {(entry["kind"], entry["name"]) for entry in header["floats"]} == {
        ("origin", "a"),
        ("origin", "b"),
        ("trained", "b"),
    }
    assert {entry["kind"] for entry in header["tensors"]} == {"origin", "pruned", "scale", "state", "trained"}


# ---- bytes changed under a matching checksum


@given(
    st.sampled_from([DATA, ALONE.to_bytes(), BEGUN.to_bytes()]),
    st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, 255)), min_size=1, max_size=4),
)
@RELAXED
def test_changed_bytes(start: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(start)
    for place, change in changes:
        data[place % len(data)] ^= change
    survives(reseal(bytes(data)))


@given(st.integers(0, len(DATA)), st.binary(max_size=12), st.integers(0, 40))
@RELAXED
def test_inserted_and_deleted_bytes(place: int, extra: bytes, gone: int) -> None:
    survives(reseal(DATA[:place] + extra + DATA[place + gone :]))


@given(st.data())
@RELAXED
def test_changed_streams(data: st.DataObject) -> None:
    header, tensors = content(data.draw(st.sampled_from([RICH, BEGUN])))
    coded = tensors["coded"].numpy()
    for _ in range(data.draw(st.integers(1, 5))):
        coded[data.draw(st.integers(0, len(coded) - 1))] = data.draw(st.integers(0, 255))
    survives(container.pack(header, tensors))


@given(st.binary(max_size=200))
@RELAXED
def test_random_index(index: bytes) -> None:
    survives(with_index(index or b"\0", content()[1]))
    refused(with_index(container._deflate(index), content()[1]))


SHAPES = [(64, 96), (16, 8, 3, 3), (5,), (), (1, 4096)]


@given(st.binary(max_size=300), st.sampled_from(SHAPES), st.sampled_from(masks.CODINGS))
@settings(max_examples=300, deadline=None)
def test_random_streams(data: bytes, shape: tuple[int, ...], coding: str) -> None:
    try:
        keep = masks.decode(coding, data, shape)
    except TicketError:
        return
    assert keep.shape == shape
    assert keep.dtype == np.bool_


@given(st.binary(max_size=100), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_random_symbols(data: bytes, count: int) -> None:
    try:
        values = BitReader(data).symbols(count)
    except TicketError:
        return
    assert values.shape == (count,)
    assert len(set(values.tolist())) <= 16


# ---- an index that lies


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4),
    st.lists(st.integers(-1, 9), max_size=3), st.just({}), st.sampled_from([2**40, -1, "coded", "packed", "trained"]),
)  # fmt: skip


@given(st.data())
@RELAXED
def test_any_value_of_the_index_replaced(data: st.DataObject) -> None:
    header, tensors = content(data.draw(st.sampled_from([RICH, ALONE, BEGUN])))
    place: Any = header
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 5)) == 0:
            break
        place = place[key]
    place[key] = data.draw(JUNK)
    survives(container.pack(header, tensors))


def change(header: dict[str, Any], part: str, at: int, **values: Any) -> dict[str, Any]:
    """The header with values of one entry changed."""
    entries = [dict(entry) for entry in header[part]]
    entries[at].update(values)
    return {**header, part: entries}


LIES: list[tuple[str, int, dict[str, Any], str]] = [
    ("masks", 0, {"bytes": 10**9}, "coded streams take"),
    ("masks", 0, {"bytes": -4}, "no number of bytes"),
    ("masks", 0, {"bytes": True}, "no number of bytes"),
    ("masks", 0, {"kept": 3}, "its header says '3'"),
    ("masks", 0, {"coding": "rans"}, "is coded as 'rans'"),
    ("masks", 0, {"coding": "bernoulli"}, "mask of 'a'"),
    ("masks", 0, {"shape": [96, 64]}, "'a'"),
    ("masks", 0, {"shape": [0, 96]}, "no weight's shape"),
    ("masks", 1, {"name": "a"}, "two masks for one name"),
    ("symbols", 0, {"kind": "state"}, "have no place"),
    ("symbols", 0, {"kind": []}, "have no place"),
    ("symbols", 0, {"name": "bias"}, "have no place"),
    ("symbols", 1, {"kind": "multiplier", "name": "b"}, "there twice"),
    ("floats", 0, {"kind": "mask"}, "no place"),
    ("floats", 0, {"kind": []}, "no place"),
    ("floats", 0, {"name": "c"}, "there twice"),
    ("floats", 0, {"name": ""}, "cannot name"),
    ("floats", 0, {"dtype": "int32"}, "no floating-point dtype"),
    ("floats", 0, {"dtype": ["float32"]}, "no floating-point dtype"),
    ("floats", 0, {"dtype": "float64"}, "values of 'a'"),
    ("floats", 0, {"shape": [2**40]}, "cannot be 1099511627776 values"),
    ("floats", 0, {"shape": [0]}, "no weight's shape"),
    ("floats", 0, {"shape": [10]}, "values of 'a'"),
    ("floats", 0, {"bytes": 8}, "coded streams take"),
    ("tensors", 0, {"dtype": "float64"}, "does not hold as such"),
    ("tensors", 0, {"dtype": ["float32"]}, "'"),
    ("tensors", 0, {"shape": [10**9]}, "values left in"),
    ("tensors", 0, {"shape": [1]}, "does not ask for"),
    ("tensors", 0, {"kind": "mask"}, "no place"),
    ("tensors", 0, {"name": "b"}, "there twice"),
]


@pytest.mark.parametrize(("part", "at", "values", "message"), LIES, ids=lambda lie: str(lie)[:40])
def test_lies_are_named(part: str, at: int, values: dict[str, Any], message: str) -> None:
    header, tensors = content()
    assert message in refused(container.pack(change(header, part, at, **values), tensors))


@pytest.mark.parametrize(
    ("part", "at", "values", "message"),
    [
        (
            "symbols",
            0,
            {"name": "b"},
            "have no place in a ticket, or are there twice|ends elsewhere than its content|int8 is for signs",
        ),
        ("symbols", 1, {"kind": "begin", "name": "c"}, "coded|symbols|first values of 'c'"),
        ("symbols", 1, {"name": "odd"}, "have no place"),
        ("floats", 0, {"name": "a"}, "has no place in a ticket, or is there twice"),
    ],
)
def test_lies_about_first_and_pruned_values_are_named(part: str, at: int, values: dict[str, Any], message: str) -> None:
    header, tensors = content(BEGUN)
    assert re.search(message, refused(container.pack(change(header, part, at, **values), tensors)))


def test_first_values_have_one_meaning() -> None:
    fields = {**BEGUN.__dict__}
    for odd, message in (
        ({"begin": {"b": torch.ones(3)}}, "first values of 'b' have shape"),
        ({"begin": {"b": torch.ones(int(BEGUN.mask["b"].sum()), dtype=torch.int8)}}, "int8 is for signs"),
        ({"begin": {"odd": torch.ones(3)}}, "first values for 'odd', which has no mask"),
        ({"representation": Representation("rescaled", {"c": torch.tensor(2.0)})}, "first values of kept weights"),
        ({"multiplier": {"c": BEGUN.mask["c"].to(torch.int8)}}, "first values of kept weights"),
        ({"pruned_rule": "trains"}, "pruned rule 'trains' is unknown"),
    ):
        with pytest.raises(TicketError, match=message):
            Ticket(**{**fields, **odd})


@pytest.mark.parametrize("key", sorted(content()[0]))
def test_missing_and_unknown_keys(key: str) -> None:
    header, tensors = content()
    del header[key]
    assert key in refused(container.pack(header, tensors))
    assert "'odd' is unknown" in refused(container.pack({**content()[0], "odd": 1}, tensors))


def test_values_that_nobody_asks_for() -> None:
    header, tensors = content()
    for more in ({"odd": torch.ones(1)}, {"values/float16": torch.ones(1).half()}, {"values/int8": torch.ones(1, 1)}):
        assert "does not ask for" in refused(container.pack(header, {**tensors, **more}))
    for less in ("coded", "values/float32"):
        refused(container.pack(header, {name: tensor for name, tensor in tensors.items() if name != less}))
    refused(container.pack(header, {**tensors, "coded": tensors["coded"].to(torch.int16)}))
    refused(container.pack(header, {**tensors, "coded": tensors["coded"][None]}))


def test_an_index_that_grows_is_cut_off() -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeeze.compress(b"[" + b" " * (container.INDEX_LIMIT + 9) + b"]") + squeeze.flush()
    assert len(bomb) < 10**6
    limit = 2**20 + 160 * len(bomb)
    assert f"index has more than {limit} bytes" in refused(with_index(bomb, content()[1]))
    header, tensors = content()
    with pytest.raises(TicketError, match="shorten the provenance"):
        container.pack({**header, "provenance": "x" * container.INDEX_LIMIT}, tensors)


@pytest.mark.parametrize(
    "inner",
    [
        "[" * 100_000 + "]" * 100_000,
        "[" * 60 + "]" * 60,
        "NaN",
        "1e999",
        '"open',
        "",
        "1" * 5000,
        str(2**64),
        str(-(2**63) - 1),
        '{"a":1,"a":2}',
    ],
)
def test_hostile_json(inner: str) -> None:
    text = container.canonical(content()[0]).replace('"provenance":{', '"provenance":{"x":' + inner + ",", 1)
    refused(with_index(container._deflate(text.encode()), content()[1]))


@pytest.mark.parametrize("kind", ["trained", "state"])
def test_a_part_missing_from_a_ticket_without_origin(kind: str) -> None:
    """Loading or building says so: no value of the module that is handed in stays in its place."""
    header, tensors = content(ALONE)
    lists = {part: [entry for entry in header[part] if entry.get("kind") != kind] for part in PARTS}
    kept = {**ALONE.__dict__, kind: None if kind == "trained" else {}}
    assert lists != {part: header[part] for part in lists}
    refused(container.pack({**header, **lists}, tensors))
    with pytest.raises(TicketError):
        Ticket(**kept).build(model=Bare())


class Bare(torch.nn.Module):
    """The module that RICH is of."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (RICH.origin.tensors or {}).items():
            self.register_buffer(name, value.clone())


def test_the_module_of_the_fuzzing_builds() -> None:
    for ticket in (RICH, ALONE):
        built = ticket.build(model=Bare()).state_dict()
        assert torch.equal(built["bias"], torch.ones(3))
        assert int(torch.count_nonzero(built["b"])) == int(RICH.mask["b"].sum())


# ---- few bytes that claim much


def claiming(shapes: list[list[int]]) -> bytes:
    """A small sealed file whose masks claim these shapes, each coded as "nothing kept" in 4 bytes."""
    writer = BitWriter()
    writer.bits(np.zeros(9, np.bool_))
    stream = writer.data()
    header, _ = encode(
        Ticket(origin=Origin(init="x", seed=0, weights_hash="0" * 64), mask=Mask({"w": torch.ones(2) > 0}))
    )
    names = [f"w{i}" for i in range(len(shapes))]
    entries = [
        {"name": name, "shape": shape, "kept": 0, "coding": "bernoulli", "bytes": len(stream)}
        for name, shape in zip(names, shapes, strict=True)
    ]
    coded = torch.frombuffer(bytearray(stream * len(shapes)), dtype=torch.uint8)
    return container.pack({**header, "masks": entries}, {"coded": coded})


@pytest.mark.parametrize(
    "shapes", [[[2**47]], [[2**20, 2**20]], [[2**28, 3]], [[2**14, 2**13]] * 40, [[2**12, 2**13]]], ids=str
)
def test_claims_are_refused_before_memory_is_taken(shapes: list[list[int]]) -> None:
    data = claiming(shapes)
    assert len(data) < 4096
    tracemalloc.start()
    try:
        message = refused(data)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
    assert "max_weights=" in message


def test_the_caller_sets_the_limit() -> None:
    data = claiming([[1000, 1000]])
    assert Ticket.from_bytes(data).mask.total == 10**6
    assert Ticket.from_bytes(data, max_weights=10**6).mask.kept == 0
    assert "at most 999,999 are read" in refused(data, max_weights=999_999)


def test_what_a_file_may_claim_grows_with_it(tmp_path: Path) -> None:
    """Beyond that it can be looked at, which decodes nothing."""
    data = claiming([[2**24 + 2**18]])
    assert len(data) < 1024
    file = tmp_path / "huge.ticket"
    file.write_bytes(data)
    assert "at most 16," in refused(data)
    held = Ticket.look(file)
    assert (held.total, held.kept, held.parts) == (2**24 + 2**18, 0, None)
    assert info(held)["bound_bytes"] is None
    assert "is not computed for so many weights" in table(held)
    assert Ticket.from_bytes(claiming([[2**24 + 2**10]])).mask.total == 2**24 + 2**10
    status, out, _ = call("info", str(file))
    assert (status, "17,039,360" in out) == (0, True)
    status, _, err = call("export", str(file))
    assert (status, "max_weights=17039360" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "args"),
    [("mlp", {"hidden": [10**5, 10**5]}), ("mlp", {"hidden": [2**40, 2**40]}), ("conv-6", {"width": 500}),
     ("wrn-28-1000", {}), ("lenet-300-100", {"width": 1e300})],
)  # fmt: skip
def test_the_network_that_a_ticket_names_is_counted_before_it_is_built(name: str, args: dict[str, Any]) -> None:
    header, tensors = content()
    network = {"name": name, "args": args, "input_shape": [3, 32, 32], "classes": 10}
    data = container.pack({**header, "origin": {**header["origin"], "network": network}}, tensors)
    tracemalloc.start()
    try:
        try:
            message = str(Ticket.from_bytes(data).build())
        except TicketError as error:
            message = str(error)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    words = r"claims [\d,]+ weights|RuntimeError|OverflowError|TypeError|is needed|ask for a smaller one"
    assert re.search(words, message), message


@pytest.mark.parametrize("name", ["wrn-" + "9" * 200 + "-1", "wrn-100000-1", "wrn-28-" + "9" * 200])
def test_names_of_networks_with_endless_numbers(name: str) -> None:
    with pytest.raises(TicketError) as caught:
        NetworkSpec(name, {}, (3, 32, 32), 10).build()
    assert str(caught.value).isprintable()


def test_more_blocks_than_weights_allow_are_refused() -> None:
    writer = BitWriter()
    for _ in range(2):
        writer.symbols((np.arange(64) % 16).astype(np.int8))
    writer.symbols(np.zeros(1, np.int8))
    with pytest.raises(TicketError, match="256 blocks for 4096 weights"):
        masks.decode("channels", writer.data(), (64, 64))


def test_classes_without_gaps() -> None:
    writer = BitWriter()
    writer.symbols(np.array([0, 2] * 32, np.int8))
    for _ in range(2):
        writer.symbols(np.zeros(1 if _ else 64, np.int8))
    with pytest.raises(TicketError, match="leave out a number"):
        masks.decode("channels", writer.data(), (64, 64))
