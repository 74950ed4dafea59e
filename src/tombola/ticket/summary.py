"""What a ticket holds, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from tombola.coverage import density_in_words
from tombola.formats import BITS, count, density
from tombola.ticket import format as container
from tombola.ticket.codec import encode
from tombola.ticket.parts import Parts
from tombola.ticket.storage import bits_per_weight, bound_bytes, entropy


class LayerRow(NamedTuple):
    """One masked layer as `tombola info` shows it.

    `bytes` is what the file spends on the layer; `coding` and `bits`: how its mask is coded and in how many bits per
    weight, beside the mask's entropy `bound`, which a mask with structure can go below.
    """

    name: str
    kept: int
    total: int
    density: float
    bytes: int
    coding: str
    bits: float
    bound: float


def parameters(ticket: Parts) -> dict[str, int | None]:
    """What the density is a fraction of: `prunable` weights under the mask, `total` parameters of the whole network.

    `total` as the provenance says; None where it does not.
    """
    found = ticket.provenance.get("parameters")
    known = type(found) is int and found >= ticket.mask.total
    return {"total": found if known else None, "prunable": ticket.mask.total}


def recipe(ticket: Parts) -> dict[str, Any] | None:
    """How its network was trained, as its provenance says; None where it does not."""
    found = ticket.provenance.get("recipe")
    return dict(found) if isinstance(found, Mapping) else None


def barred_kept(ticket: Parts) -> int:
    """How many of the kept weights its criterion bars (kept since it left too few others), as its provenance says."""
    found = ticket.provenance.get("barred_kept")
    counts = found.values() if isinstance(found, Mapping) else ()
    return min(sum(count for count in counts if type(count) is int and count > 0), ticket.mask.kept)


def describe_density(ticket: Parts) -> str:
    """The density with what it is a fraction of, to stand in a sentence ("This ticket of ...").

    "20.30 % of the 51 prunable weights, which are 0.70 % of all 7,266 parameters"; the last part only where the ticket
    records how many parameters there are.
    """
    return density_in_words(ticket.mask.kept, ticket.mask.total, parameters(ticket)["total"])


def layers(ticket: Parts) -> list[LayerRow]:
    """One row per masked layer, in the mask's order."""
    return _rows(encode(ticket)[0])


def info(ticket: Parts) -> dict[str, Any]:
    """What the ticket holds, as JSON-able data; sizes in bytes. `bound_bytes`, `bits_per_weight`: see `storage`."""
    header, tensors = encode(ticket)
    data = container.pack(header, tensors)
    sizes: dict[str, int] = {}
    for (kind, _), size in _spent(header).items():
        sizes[kind] = sizes.get(kind, 0) + size
    return {
        "format": container.FORMAT,
        "digest": container.digest_of(data),
        "bytes": len(data),
        "bytes_by_kind": sizes,
        "bound_bytes": math.ceil(bound_bytes(ticket)),
        "bits_per_weight": bits_per_weight(ticket),
        "kept": ticket.mask.kept,
        "total": ticket.mask.total,
        "parameters": parameters(ticket),
        "density": ticket.mask.density,
        "barred_kept": barred_kept(ticket),
        "trained": ticket.trained is not None,
        "recipe": recipe(ticket),
        "layers": [row._asdict() for row in _rows(header)],
        "state": {name: list(tensor.shape) for name, tensor in ticket.state.items()},
        **{key: header[key] for key in ("origin", "provenance", "pruned", "representation", "rewrites", "tied")},
    }


def table(ticket: Parts) -> str:
    """The layers, the total and the file size as plain text."""
    header, tensors = encode(ticket)
    rows = _rows(header)
    cells = [("layer", "kept", "total", "density", "coding", "bits/weight", "entropy", "bytes")]
    for row in [*rows, _total(ticket, rows)]:
        bits = f"{row.bits:.4f}", f"{row.bound:.4f}"
        cells.append(
            (row.name, count(row.kept), count(row.total), density(row.density), row.coding, *bits, count(row.bytes))
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    rule = "-" * len(lines[0])
    size, bound = count(len(container.pack(header, tensors))), count(math.ceil(bound_bytes(ticket)))
    note = (
        f"kept: {describe_density(ticket)}; bits/weight of the coded mask; the masked layers' content takes "
        f"{BITS.bare(bits_per_weight(ticket))} bits per weight; file {size} bytes, its content's bound {bound}"
    )
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], note])


def _total(ticket: Parts, rows: list[LayerRow]) -> LayerRow:
    total = ticket.mask.total
    mean = [sum(each * row.total for each, row in zip(column, rows, strict=True)) / max(total, 1)
            for column in ([row.bits for row in rows], [row.bound for row in rows])]  # fmt: skip
    size = sum(row.bytes for row in rows)
    return LayerRow("total", ticket.mask.kept, total, ticket.mask.density, size, "", mean[0], mean[1])


def _rows(header: Mapping[str, Any]) -> list[LayerRow]:
    by_name: dict[str, int] = {}
    for (_, name), size in _spent(header).items():
        by_name[name] = by_name.get(name, 0) + size
    rows = []
    for entry in header["masks"]:
        name, kept, total = entry["name"], entry["kept"], math.prod(entry["shape"])
        bits = 8 * entry["bytes"] / total if total else 0.0
        share = kept / total if total else 1.0
        rows.append(LayerRow(name, kept, total, share, by_name[name], entry["coding"], bits, entropy(kept, total)))
    return rows


def _spent(header: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Bytes in the file by kind and name of what they hold."""
    spent = {("mask", entry["name"]): entry["bytes"] for entry in header["masks"]}
    spent |= {(entry["kind"], entry["name"]): entry["bytes"] for entry in header["symbols"]}
    for entry in header["tensors"]:
        spent[entry["kind"], entry["name"]] = math.prod(entry["shape"]) * getattr(torch, entry["dtype"]).itemsize
    return spent
