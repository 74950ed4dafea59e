"""Real tickets with flipped bits, cut or grown, and with headers that say something else; most under a new checksum.

A ticket's checksum gives integrity, not authenticity: whoever changes a file computes it again. Whatever the bytes, a
victim who looks at the ticket, builds it, goes on from it or has it verified gets a ticket or one line: nothing is
imported, nothing is written, and it takes neither long nor much memory.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import _fuzz
import _hostile
from tombola.study.arms import random_mask
from tombola.study.recorded import data_of, recipe_of, recorded_name
from tombola.ticket import format as container
from tombola.ticket import table as overview
from tombola.ticket.codec import encode
from tombola.ticket.ticket import Ticket

_MARKER = b'"tombola":"{\\"checksum\\":\\"'
_BUILT = 20_000  # weights of a network that is built, so that a thousand files take minutes


def fuzz(folder: Path, seed: int, count: int) -> None:
    draw = random.Random(seed)
    starts = _starts()
    box = folder / "a" / "box"
    box.mkdir(parents=True)
    for start in starts:
        use(start.to_bytes(), box)  # imports what is used later
    with _fuzz.Watch(folder) as watch:
        for number in range(count):
            start = draw.choice(starts)
            damage = draw.choice((flipped, cut, streams_changed, header_changed, header_changed, header_changed))
            data = damage(start, draw)
            watch(f"file {number} of seed {seed} ({damage.__name__})", lambda data=data: use(data, box), data)


def _starts() -> list[Ticket]:
    """Tickets with a seeded, a stored and no origin; with signs and multipliers."""
    seeded = _hostile.real()
    model = seeded.build()
    stored = Ticket.from_models(
        origin=type(seeded.origin).stored(model, seeded.origin.network),
        mask=seeded.mask,
        final_state={name: -value for name, value in model.state_dict().items()},
        provenance=seeded.provenance,
        multiplier={name: keep.to(torch.int8) for name, keep in seeded.mask.items()},
    )
    return [seeded, stored, stored.without_origin()]


def use(data: bytes, folder: Path) -> None:
    """All that a victim may do with a ticket, as far as it costs little."""
    file = folder / "given.ticket"
    file.write_bytes(data)
    _fuzz.one_line(lambda: overview.table(held := Ticket.look(file)) and overview.info(held))
    ticket: Ticket | None = _fuzz.one_line(lambda: Ticket.load(file))
    if ticket is None:
        return
    assert repr(ticket).isprintable()
    acts: list[Callable[[], Any]] = [
        lambda: recipe_of(ticket),
        lambda: recipe_of(ticket, {"lr": 0.1}, ("torch.optim",)),
        lambda: data_of(ticket, "data"),
        lambda: recorded_name(ticket, "method"),
        lambda: random_mask(ticket, 0),
        lambda: ticket.rounded("float16"),
        lambda: ticket.without_origin(),
        ticket.info,
        ticket.table,
    ]
    if ticket.origin.network is None or (ticket.origin.network.size() or 0) < _BUILT:
        acts += [ticket.build, lambda: ticket.build("origin"), lambda: ticket.build(trusted=("torch",))]
    for act in acts:
        _fuzz.one_line(act)
    assert Ticket.from_bytes(ticket.to_bytes()) == ticket


# ---- damage


def flipped(start: Ticket, draw: random.Random) -> bytes:
    data = bytearray(start.to_bytes())
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return _maybe_sealed(data, draw)


def cut(start: Ticket, draw: random.Random) -> bytes:
    data = bytearray(start.to_bytes())
    at = draw.randrange(len(data))
    data[at : at + draw.choice((1, 4, 100, len(data)))] = draw.randbytes(draw.choice((0, 0, 1, 4, 100)))
    return _maybe_sealed(data, draw)


def streams_changed(start: Ticket, draw: random.Random) -> bytes:
    header, tensors = encode(start)
    coded = tensors["coded"].numpy().copy()
    for _ in range(draw.choice((1, 2, 8))):
        coded[draw.randrange(len(coded))] = draw.randrange(256)
    return container.pack(header, {**tensors, "coded": torch.from_numpy(coded)})


def header_changed(start: Ticket, draw: random.Random) -> bytes:
    header, tensors = encode(start)
    text = _fuzz.changed_json(container.canonical(header), draw)
    return _sealed(start.to_bytes(), container._deflate(text.encode("utf-8", "surrogatepass")), tensors)


def _maybe_sealed(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data) if draw.random() < 0.1 else reseal(bytes(data))


def reseal(data: bytes) -> bytes:
    """The bytes with a matching checksum put in, where there is a place for it."""
    at = data.find(_MARKER) + len(_MARKER)
    body = bytearray(data)
    if at >= len(_MARKER) and at + 64 <= len(body):
        body[at : at + 64] = b"0" * 64
        body[at : at + 64] = hashlib.sha256(body).hexdigest().encode()
    return bytes(body)


def _sealed(whole: bytes, index: bytes, tensors: dict[str, torch.Tensor]) -> bytes:
    import safetensors.torch

    held = {**tensors, "index": torch.frombuffer(bytearray(index), dtype=torch.uint8)}
    return reseal(safetensors.torch.save(held, {"tombola": '{"checksum":"' + "0" * 64 + '","format":3}'}))
