"""What a ticket holds, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from tombola.ticket import format as container
from tombola.ticket.codec import KINDS, encode
from tombola.ticket.parts import Parts


class LayerRow(NamedTuple):
    """One masked layer as `tombola info` shows it; `bytes` is what the file spends on it."""

    name: str
    kept: int
    total: int
    density: float
    bytes: int


def layers(ticket: Parts) -> list[LayerRow]:
    """One row per masked layer, in the mask's order."""
    _, tensors = encode(ticket)
    rows = []
    for name, (kept, total) in ticket.mask.counts().items():
        size = sum(t.nbytes for kind in KINDS if (t := tensors.get(f"{kind}/{name}")) is not None)
        rows.append(LayerRow(name, kept, total, kept / total if total else 1.0, size))
    return rows


def info(ticket: Parts) -> dict[str, Any]:
    """What the ticket holds, as JSON-able data; sizes in bytes."""
    header, tensors = encode(ticket)
    data = container.pack(header, tensors)
    return {
        "format": container.FORMAT,
        "digest": container.digest_of(data),
        "bytes": len(data),
        "bytes_by_kind": _sizes(tensors),
        "kept": ticket.mask.kept,
        "total": ticket.mask.total,
        "density": ticket.mask.density,
        "trained": ticket.trained is not None,
        "layers": [row._asdict() for row in layers(ticket)],
        "state": {name: list(tensor.shape) for name, tensor in ticket.state.items()},
        **{key: header[key] for key in ("origin", "provenance", "pruned", "representation", "rewrites", "tied")},
    }


def table(ticket: Parts) -> str:
    """The layers, the total and the file size as plain text."""
    rows = layers(ticket)
    kept, total = ticket.mask.kept, ticket.mask.total
    rows.append(LayerRow("total", kept, total, ticket.mask.density, sum(row.bytes for row in rows)))
    cells = [("layer", "kept", "total", "density", "bytes")]
    cells += [(r.name, f"{r.kept:,}", f"{r.total:,}", f"{r.density:.4f}", f"{r.bytes:,}") for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    rule = "-" * len(lines[0])
    note = f"density = kept / the {total:,} weights under the mask; file {len(container.pack(*encode(ticket))):,} bytes"
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], note])


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for key, tensor in tensors.items():
        kind = key.partition("/")[0]
        sizes[kind] = sizes.get(kind, 0) + tensor.nbytes
    return sizes
