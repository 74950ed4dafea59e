"""The ticket file: what goes in comes out, bytes are reproducible, and every damage is a TicketError."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.ticket import format as container
from tombola.ticket import layout, masks
from tombola.ticket.codec import encode
from tombola.ticket.deflate import deflated
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.pack import pack
from tombola.ticket.representation import Representation
from tombola.ticket.table import info
from tombola.ticket.tensors import same_bits
from tombola.ticket.ticket import Ticket

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
OTHERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64]
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)


def ramp(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, start: int = -3) -> torch.Tensor:
    count = max(1, int(torch.Size(shape).numel()))
    return (torch.arange(start, start + count) / 4).reshape(shape).to(dtype)


def small() -> Ticket:
    weight = ramp((3, 5))
    keep = torch.tensor([[1, 0, 0, 1, 1], [0, 0, 0, 0, 1], [1, 1, 0, 0, 1]], dtype=torch.bool)
    origin = Origin.stored({"fc.weight": weight, "fc.bias": torch.zeros(3), "n": torch.tensor(7)})
    return Ticket.from_models(
        origin=origin,
        mask=Mask({"fc.weight": keep}),
        final_state={"fc.weight": weight + 1, "fc.bias": torch.ones(3), "n": torch.tensor(7)},
        provenance={"method": "imp", "seeds": [0, 1], "density": 0.4, "data": {"digest": "0" * 64}},
    )


SMALL = small().to_bytes()


Tensors = dict[str, torch.Tensor]


def content() -> tuple[dict[str, Any], Tensors]:
    """The header of `small` without its lists of tensors, and its tensors: plain ones as "kind/name", coded streams."""
    header, tensors = encode(small())
    plain = {f"{kind}/{name}": tensor for kind, name, tensor in layout.plain_tensors(small())}
    del header["tensors"]
    return header, {**plain, "coded": tensors["coded"]}


def sealed(header: dict[str, Any], tensors: Tensors) -> bytes:
    """A file with any content and a matching checksum, as an attacker would write it."""
    plain = {key.partition("/")[::2]: tensor for key, tensor in sorted(tensors.items()) if key != "coded"}
    names = {key: str(tensor.dtype).removeprefix("torch.") for key, tensor in plain.items()}
    entries = [
        {"kind": kind, "name": name, "dtype": names[kind, name], "shape": list(tensor.shape)}
        for (kind, name), tensor in plain.items()
    ]
    values = {
        f"values/{dtype}": torch.cat([tensor.reshape(-1) for key, tensor in plain.items() if names[key] == dtype])
        for dtype in set(names.values())
    }
    return container.pack({"tensors": entries, **header}, {**values, "coded": tensors["coded"]})


def with_format(number: object) -> bytes:
    """`small` with another format number, under a matching checksum."""
    _, tensors = container.unpack(SMALL)
    tensors = {**tensors, "index": safetensors.torch.load(SMALL)["index"]}
    text = '{"checksum":"' + "0" * 64 + f'","format":{json.dumps(number)},"news":1}}'
    data = bytearray(safetensors.torch.save(tensors, {"tombola": text}))
    at = data.index(MARKER) + len(MARKER)
    data[at : at + 64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


MARKER = b'"tombola":"{\\"checksum\\":\\"'


def refused(data: bytes) -> str:
    with pytest.raises(TicketError) as caught:
        Ticket.from_bytes(data)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert len(message) < 800
    return message


# ---- round trips


@st.composite
def tickets(draw: st.DrawFn) -> Ticket:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    state: dict[str, torch.Tensor] = {}
    masks: dict[str, torch.Tensor] = {}
    for index in range(draw(st.integers(1, 3))):
        shape = draw(SHAPES)
        state[f"läyer/{index}.weight"] = torch.randn(shape).to(draw(st.sampled_from(FLOATS)))
        masks[f"läyer/{index}.weight"] = torch.rand(shape) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    for index in range(draw(st.integers(0, 3))):
        shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
        state[f"other.{index}"] = (torch.randn(shape) * 9).to(draw(st.sampled_from(FLOATS + OTHERS)))
    final = {
        n: torch.randn_like(t) if t.is_floating_point() and draw(st.booleans()) else t.clone() for n, t in state.items()
    }
    pruned = {
        name: torch.randn(int((~keep).sum())).to(state[name].dtype)
        for name, keep in masks.items()
        if draw(st.booleans())
    }
    multiplier = {name: keep.to(torch.int8) * -3 for name, keep in masks.items() if draw(st.booleans())}
    kind: Any = draw(st.sampled_from(["identity", "signed_constant", "binary", "rescaled"]))
    scales = {} if kind == "identity" else {next(iter(masks)): torch.tensor(0.5)}
    return Ticket.from_models(
        origin=Origin.stored(
            state, NetworkSpec("user.net", {"width": [1, 2]}), "kaiming", draw(st.integers(0, 2**64 - 1))
        ),
        mask=Mask(masks),
        final_state=final,
        provenance=draw(
            st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5))
        ),
        representation=Representation(kind, scales, draw(st.sampled_from(["both", "origin"]))),
        multiplier=multiplier,
        pruned_rule=draw(st.sampled_from(["zero", "origin"])),
        pruned_values=pruned,
    )


@given(tickets())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bytes_round_trip(ticket: Ticket) -> None:
    data = ticket.to_bytes()
    back = Ticket.from_bytes(data)
    assert back.to_bytes() == data
    assert back == ticket
    assert back.mask == ticket.mask
    assert list(back.mask) == list(ticket.mask)
    for part in ("state", "trained", "multiplier", "pruned_values"):
        mine, its = getattr(ticket, part) or {}, getattr(back, part) or {}
        assert mine.keys() == its.keys()
        assert all(same_bits(mine[name], its[name]) for name in mine)
    assert back.origin.tensors is not None
    assert ticket.origin.tensors is not None
    assert all(same_bits(t, back.origin.tensors[n]) for n, t in ticket.origin.tensors.items())
    assert back.origin.network == ticket.origin.network
    assert back.origin.seed == ticket.origin.seed
    assert back.provenance == ticket.provenance


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "a.ticket"
    digest = small().save(path)
    assert digest == small().digest == Ticket.load(path).digest
    data = path.read_bytes()
    at = data.index(MARKER) + len(MARKER)
    blank = data[:at] + b"0" * 64 + data[at + 64 :]
    assert hashlib.sha256(blank).hexdigest().encode() == data[at : at + 64]
    assert list(tmp_path.iterdir()) == [path]
    small().save(path)  # over an old file
    assert Ticket.load(path) == pickle.loads(pickle.dumps(small()))


def test_the_digest_is_of_the_json_and_the_tensors() -> None:
    """As the page on the file says, without a line of the code that writes it."""
    weight, keep = ramp((3, 5)), small().mask["fc.weight"]
    origin = {"fc.bias": torch.zeros(3), "fc.weight": weight, "n": torch.tensor(7)}
    tensors = {
        "mask/fc.weight": keep,
        **{f"origin/{name}": tensor for name, tensor in origin.items()},
        "state/fc.bias": torch.ones(3),
        "trained/fc.weight": (weight + 1)[keep],
    }
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hashed.update(tensor.numpy().tobytes())
    header = {
        "masks": ["fc.weight"], "origin": ORIGIN, "provenance": small().provenance, "pruned": "zero",
        "representation": {"kind": "identity", "on": "both"}, "rewrites": [], "tensors": hashed.hexdigest(), "tied": {},
    }  # fmt: skip
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == small().digest


def test_the_digest_does_not_depend_on_how_the_file_is_coded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tombola.ticket.masks.CODINGS", ("packed", "bernoulli"))
    monkeypatch.setattr("tombola.ticket.masks.encode", lambda keep: ("bernoulli", masks._write(keep, "bernoulli")))
    monkeypatch.setattr("tombola.ticket.format._deflate", lambda text: deflated(text, 1))
    data = small().to_bytes()
    assert data != SMALL
    assert Ticket.from_bytes(data).digest == small().digest


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": {}}, {"pruned_rule": "origin"}, {"rewrites": ({"kind": "binary-activations"},)},
        {"state": {}}, {"trained": None}, {"pruned_values": {"fc.weight": torch.tensor(0.0)}},
        {"mask": Mask({"fc.weight": torch.ones(3, 5) > 0}), "trained": None},
        {"representation": Representation("rescaled", {"fc.weight": torch.tensor(1.0)})},
        {"multiplier": {"fc.weight": small().mask["fc.weight"].to(torch.int8)}},
        {"origin": replace(small().origin, seed=3)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_part_counts_for_the_digest(change: dict[str, Any]) -> None:
    other = replace(small(), **change)
    assert other.digest != small().digest
    assert other != small()


def test_bytes_do_not_depend_on_the_process_or_on_dict_order() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import test_ticket_format as t; print(t.small().digest)"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "4242",  # this process has another one
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == small().digest
    header, tensors = encode(small())
    shuffled = dict(reversed(header.items())), dict(reversed(tensors.items()))
    assert container.pack(*shuffled) == SMALL


@pytest.mark.parametrize("number", [5, 2**63])
def test_newer_format_is_named(number: int) -> None:
    message = refused(with_format(number))
    assert f"made by a newer Tombola: format {number}, this one reads formats 3 and 4; update Tombola" in message


@pytest.mark.parametrize("number", [0, -1, True, 1.0, "1", None, [1], 1, 2])
def test_other_formats(number: object) -> None:
    assert "reads formats 3 and 4" in refused(with_format(number))


def test_files_of_format_3_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no list of coded values."""
    header, tensors = encode(small())
    assert header.pop("floats") == []
    path, odd = tmp_path / "old.ticket", tmp_path / "odd.ticket"
    with monkeypatch.context() as older:
        older.setattr("tombola.ticket.format.FORMAT", 3)
        path.write_bytes(container.pack(header, tensors))
        odd.write_bytes(container.pack({**header, "floats": []}, tensors))
    for read in (Ticket.load, Ticket.look):
        with pytest.raises(TicketError, match="a ticket of format 3 has no list 'floats'"):
            read(odd)
    assert Ticket.load(path) == small()
    assert info(Ticket.look(path))["format"] == 3
    assert Ticket.load(path).to_bytes() == SMALL


def test_files_of_older_formats_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "old.ticket"
    for number, tensors in ((1, {"mask/w": torch.zeros(1)}), (2, {"index": torch.zeros(1)})):
        safetensors.torch.save_file(tensors, path, {"tombola": f'{{"digest":"{"0" * 64}","format":{number}}}'})
        for read in (Ticket.load, Ticket.look):
            with pytest.raises(
                TicketError, match=f"an older Tombola: format {number}, this one reads formats 3 and 4; make"
            ):
                read(path)


# ---- damage


@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_any_changed_byte(place: int, change: int) -> None:
    data = bytearray(SMALL)
    data[place] ^= change
    refused(bytes(data))


@given(st.integers(0, len(SMALL) - 1))
@settings(max_examples=100, deadline=None)
def test_any_truncation(length: int) -> None:
    refused(SMALL[:length])


@given(st.integers(0, len(SMALL)), st.binary(min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_any_insertion(place: int, extra: bytes) -> None:
    refused(SMALL[:place] + extra + SMALL[place:])


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes(data: bytes) -> None:
    refused(data)
    refused(len(data).to_bytes(8, "little") + data)


def test_files_that_are_no_tickets(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, foreign, {"tombola": "{}"})
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.touch()
    text.write_text("hello, this is no ticket at all")
    huge = tmp_path / "huge"
    with huge.open("wb") as file:  # sparse: 50 GB that must never be read
        file.write((99_000_000_000).to_bytes(8, "little"))
        file.truncate(50_000_000_000)
    missing = tmp_path / "missing"
    for path in (foreign, empty, text, huge, missing, tmp_path, Path("/dev/zero"), Path("a\0b")):
        for read in (Ticket.load, Ticket.look):
            with pytest.raises(TicketError) as caught:
                read(path)
            assert repr(str(path)) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_files_of_other_programs_say_how_to_go_on(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    x = torch.ones(1, 3)
    for name, value in (("state.pt", model.state_dict()), ("module.pt", model)):
        torch.save(value, tmp_path / name)
    torch.save(model.state_dict(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "python.pkl").write_bytes(pickle.dumps({"a": 1}))
    safetensors.torch.save_file(model.state_dict(), tmp_path / "plain.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, x), tmp_path / "script.pt")
        torch.export.save(torch.export.export(model, (x,)), tmp_path / "program.pt2")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.9.0\x3a\x04")
    said = {
        "state.pt": "weights or a module of torch", "module.pt": "weights or a module of torch",
        "legacy.pt": "a pickle, which", "python.pkl": "a pickle, which", "plain.safetensors": "weights alone",
        "script.pt": "a TorchScript file", "program.pt2": "a torch.export program", "net.onnx": "an ONNX network",
    }  # fmt: skip
    assert sorted(said) == sorted(path.name for path in tmp_path.iterdir())
    for name, what in said.items():
        for read in (Ticket.load, Ticket.look):
            with pytest.raises(TicketError, match=f"not a ticket but {what}") as caught:
                read(tmp_path / name)
            assert "tombola.deploy(model, example)" in str(caught.value)
            assert str(caught.value).endswith("tombola.pack(model)")
            assert "\n" not in str(caught.value)
    with torch.no_grad():
        model.weight[0, 0] = 0
    ticket = pack(model)  # as the lines say
    assert torch.equal(ticket.build(model=torch.nn.Linear(3, 2)).weight, model.weight)


def test_cut_archives_are_no_tickets_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"a": torch.ones(2)}, path)
    whole = path.read_bytes()
    for data in (b"\x08", b"\x80", b"\x08\x01", b"PK"):
        path.write_bytes(data)
        with pytest.raises(TicketError, match="not a ticket"):
            Ticket.load(path)
    for size in (4, 9, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(TicketError, match="not a ticket"):
            Ticket.load(path)


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ticket"
    small().save(path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TombolaError, match="No space left"):
        small().save(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["a.ticket"]
    assert path.read_bytes() == before
    (tmp_path / "folder").mkdir()
    for wrong in (tmp_path / "none" / "a.ticket", tmp_path / "folder", Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(TombolaError, match="cannot write"):
            small().save(wrong)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ticket", "folder"]


# ---- hostile content under a matching checksum


def test_sealing_itself_is_accepted() -> None:
    header, tensors = content()
    assert Ticket.from_bytes(sealed(header, tensors)) == small()


MASK = {"bytes": 2, "coding": "packed", "kept": 7, "name": "fc.weight", "shape": [3, 5]}
ORIGIN: dict[str, Any] = {
    "kind": "stored",
    "network": None,
    "init": None,
    "init_args": {},
    "seed": None,
    "tied": {},
    "weights_hash": None,
}
NETWORK: dict[str, Any] = {"name": "n", "args": {}, "input_shape": None, "classes": None}
SHAPES_REFUSED: tuple[Any, ...] = (
    [3, 6], [5, 3, 2**62], [2**47, 2**47], [-3, -5], [0], [], [3.0, 5], [True, 15], "15", None, [1] * 2000,
    [10**40],
)  # fmt: skip
REPRESENTATIONS: tuple[tuple[Any, Any], ...] = (
    ("binary", "both"),
    ("odd", "both"),
    ("identity", "odd"),
    (None, "both"),
    ([], {}),
)
ORIGINS: tuple[dict[str, Any], ...] = (
    {"kind": "seeded"}, {"kind": 3}, {"more": 1}, {"init": 4}, {"init_args": []}, {"weights_hash": "0" * 64},
    {"seed": "1"}, {"seed": -1}, {"seed": 2**64}, {"seed": True},
    {"tied": {"a": "gone"}}, {"tied": {"fc.bias": "n"}}, {"network": "os.system"},
)  # fmt: skip
CODINGS: tuple[Any, ...] = ("multiplier", "rans", None, [], {})
NETWORKS: tuple[dict[str, Any], ...] = (
    {"args": [1]}, {"name": None}, {"name": ""}, {"input_shape": [0]}, {"input_shape": "3"},
    {"input_shape": [1.5]}, {"classes": 0}, {"classes": True}, {"classes": 2**80}, {"odd": 1},
)  # fmt: skip
HEADERS: list[dict[str, Any]] = [
    {"extra": 1},
    {"masks": None},
    {"masks": [1]},
    {"masks": [MASK, MASK]},
    {"masks": []},
    *({"masks": [{**MASK, "shape": shape}]} for shape in SHAPES_REFUSED),
    *({"masks": [{**MASK, "kept": kept}]} for kept in (6, "7", None, -1)),
    *({"masks": [{**MASK, "name": name}]} for name in ("other", "", None, 3, "a\nb", "x" * 5000, "\ud800")),
    *({"masks": [{**MASK, "coding": coding}]} for coding in CODINGS),
    *({"representation": {"kind": kind, "on": on}} for kind, on in REPRESENTATIONS),
    {"representation": "identity"},
    {"pruned": "one"},
    {"pruned": []},
    {"rewrites": {}},
    {"rewrites": [1]},
    {"rewrites": [{"no": 1}]},
    {"provenance": []},
    {"provenance": None},
    {"tied": []},
    {"tied": {"x": 1}},
    {"tied": {"fc.bias": "fc.weight"}},
    {"tied": {"gone": "fc.weight"}},
    {"tied": {"n": "fc.bias"}},
    {"origin": None},
    {"origin": {}},
    *({"origin": {**ORIGIN, **change}} for change in ORIGINS),
    *({"origin": {**ORIGIN, "network": {**NETWORK, **change}}} for change in NETWORKS),
]


@pytest.mark.parametrize("change", HEADERS, ids=lambda change: json.dumps(change)[:70])
def test_hostile_header(change: dict[str, Any]) -> None:
    header, tensors = content()
    refused(sealed({**header, **change}, tensors))


@pytest.mark.parametrize("key", sorted(content()[0]))
def test_missing_key(key: str) -> None:
    header, tensors = content()
    del header[key]
    refused(sealed(header, tensors))


TENSORS: list[dict[str, torch.Tensor | None]] = [
    {"odd": torch.ones(1)},
    {"odd/fc.weight": torch.ones(1)},
    {"mask/": torch.ones(1)},
    {"mask/other": torch.ones(1, dtype=torch.uint8)},
    {"coded": torch.zeros(0, dtype=torch.uint8)},
    {"coded": torch.tensor([255, 255], dtype=torch.uint8)},
    {"coded": torch.tensor([0b10011000, 0b01110011], dtype=torch.uint8)},
    {"coded": torch.zeros(3, dtype=torch.uint8)},
    {"coded": torch.zeros(2, dtype=torch.int8)},
    {"coded": torch.zeros(2, 1, dtype=torch.uint8)},
    {"multiplier/fc.weight": torch.ones(8, dtype=torch.int8)},
    {"scale/fc.weight": torch.ones(())},
    {"trained/fc.weight": torch.ones(6)},
    {"trained/fc.weight": torch.ones(7, dtype=torch.float64)},
    {"trained/fc.weight": torch.ones(7, dtype=torch.int8)},
    {"trained/fc.bias": torch.ones(3)},
    {"pruned/fc.weight": torch.ones(7)},
    {"pruned/fc.weight": torch.ones(8, dtype=torch.int64)},
    {"state/fc.weight": torch.ones(3, 5)},
    {"state/fc.bias": torch.ones(4)},
    {"state/fc.bias": torch.ones(3, dtype=torch.float64)},
    {"state/new": torch.ones(4)},
    {"origin/fc.weight": None},
    {"origin/fc.weight": torch.ones(5, 3)},
    {"origin/fc.bias": None},
    {"origin/a\nb": torch.ones(1)},
]


@pytest.mark.parametrize("change", TENSORS, ids=lambda change: repr(next(iter(change))))
def test_hostile_tensors(change: dict[str, torch.Tensor | None]) -> None:
    header, tensors = content()
    mixed = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    refused(sealed(header, mixed))


def test_two_checksums_are_refused() -> None:
    marker = 'a"tombola":"{"checksum":"'
    assert Ticket.from_bytes(container.pack(*encode_with(marker))).provenance == {"x": marker}
    refused(SMALL[:8] + SMALL[8:].replace(b'"__metadata__":{', b'"__metadata__":{"tombola":"{\\"checksum\\":\\"",'))


def encode_with(text: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    header, tensors = encode(small())
    return {**header, "provenance": {"x": text}}, tensors


def test_bool_bytes_must_be_bool() -> None:
    ticket = Ticket(
        origin=Origin.stored({"w": torch.ones(2), "flag": torch.tensor([True, False])}),
        mask=Mask({"w": torch.ones(2) > 0}),
    )
    header, tensors = encode(ticket)
    assert Ticket.from_bytes(container.pack(header, tensors)) == ticket
    tensors["values/bool"].view(torch.uint8)[0] = 7
    assert "bool" in refused(container.pack(header, tensors))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, [[[]]] * 2 + [torch.ones(1)]])
def test_provenance_must_be_json(value: object) -> None:
    with pytest.raises(TicketError, match="provenance"):
        Ticket(origin=small().origin, mask=small().mask, provenance={"x": value})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TicketError, match="provenance"):
        Ticket(origin=small().origin, mask=small().mask, provenance={"x": loop})


def test_info_counts_bytes() -> None:
    info = small().info()
    assert info["bytes"] == len(SMALL)
    assert (info["kept"], info["total"]) == (7, 15)
    # 15 bits in 2 bytes, 7 trained floats, 15 origin floats
    bits = {"coding": "packed", "bits": 16 / 15, "bound": pytest.approx(0.996792)}
    kept = {"name": "fc.weight", "kept": 7, "total": 15, "density": 7 / 15, "bytes": 2 + 28 + 60}
    assert info["layers"] == [{**kept, **bits}]
    assert info["bytes_by_kind"] == {"mask": 2, "trained": 28, "state": 12, "origin": 60 + 12 + 8}
    assert info["bound_bytes"] == 2 + 28 + 12 + 80  # 15 * 0.9968 bits are 1.87 bytes
    assert json.loads(json.dumps(info)) == info
    assert "46.67 % of the 15 prunable weights" in small().table()
    assert small().density == 7 / 15
