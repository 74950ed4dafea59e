"""Tickets of about a kilobyte that claim up to 2^62 weights, or a network of billions of them.

A mask that keeps nothing, or all, takes no bytes, whatever its size; a stream of coded bits can be read on beyond its
end; coded values inflate a thousandfold; and a network by name can be asked for with any widths. A file may claim 2^24
weights, and 256 more for each of its bytes: what is beyond that is refused before memory is taken, until the user says
how many he wants. `tombola info` reads the header alone.
"""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import torch

import _hostile
from tombola.ticket import format as container
from tombola.ticket import table as overview
from tombola.ticket.bitcode import BitWriter
from tombola.ticket.codec import encode
from tombola.ticket.deflate import deflated
from tombola.ticket.layout import PARTS
from tombola.ticket.ticket import Ticket

NETWORKS: list[dict[str, Any]] = [
    {"name": "mlp", "args": {"hidden": [100_000, 100_000]}},
    {"name": "mlp", "args": {"hidden": [1] * 100_000}},
    {"name": "wrn-28-9999", "args": {}},
    {"name": "wrn-99999998-1", "args": {}},
    {"name": "conv-8", "args": {"width": 1e9}},
]


def attack(folder: Path) -> None:
    file = folder / "huge.ticket"
    for shape in ([2**28], [2**14, 2**14], [2**31, 2**31], [2**63 - 1]):
        for stream in streams():
            file.write_bytes(claiming(shape, stream))
            assert file.stat().st_size < 2000
            bounded(lambda: _hostile.refused(Ticket.load, file))
            if max(shape) < 2**31:
                bounded(lambda: overview.table(Ticket.look(file)) and overview.info(Ticket.look(file)))
    for count in (2**22, 2**24, 2**40):
        file.write_bytes(inflating(count))
        bounded(lambda: _hostile.refused(Ticket.load, file))
    for network in NETWORKS:
        header, tensors = encode(_hostile.real())
        named = {**header["origin"]["network"], "input_shape": [3, 32, 32], **network}
        file.write_bytes(container.pack({**header, "origin": {**header["origin"], "network": named}}, tensors))
        bounded(lambda: _hostile.refused(lambda: Ticket.load(file).build()))


def streams() -> list[bytes]:
    """Nothing kept; and bits that go on after the stream's end."""
    nothing, endless = BitWriter(), BitWriter()
    nothing.bits(np.zeros(8, np.bool_))
    endless.bits(np.arange(800) % 3 == 0)
    return [nothing.data(), endless.data()]


def claiming(shape: list[int], stream: bytes) -> bytes:
    """A small file whose one mask claims this shape."""
    header, _ = encode(_hostile.real())
    mask = {"name": "w", "shape": shape, "kept": 0, "coding": "bernoulli", "bytes": len(stream)}
    origin = {**header["origin"], "kind": "seeded", "init": "x", "seed": 0, "weights_hash": "0" * 64}
    lists = {"masks": [mask], **{part: [] for part in PARTS}}
    coded = torch.frombuffer(bytearray(stream), dtype=torch.uint8)
    return container.pack({**header, **lists, "origin": origin, "provenance": {}}, {"coded": coded})


def inflating(count: int) -> bytes:
    """A small file with a tensor of so many values, each byte of which inflates a thousandfold."""
    ticket = _hostile.real().without_origin()
    header, tensors = encode(ticket)
    stream = b"\x01" + deflated(bytes(2**22))
    entry = {"kind": "state", "name": "x", "dtype": "float8_e5m2", "shape": [count], "bytes": len(stream)}
    coded = torch.cat([tensors["coded"], torch.frombuffer(bytearray(stream), dtype=torch.uint8)])
    return container.pack({**header, "floats": [*header["floats"], entry]}, {**tensors, "coded": coded})


def bounded(act: Any) -> None:
    """`act` within a few megabytes, and without a long wait."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        act()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**20, f"{peak:,} bytes were taken"
    assert time.process_time() - begun < 20, "it hangs"
