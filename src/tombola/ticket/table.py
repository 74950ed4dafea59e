"""What a ticket holds, as a table and as JSON-able data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from tombola.coverage import density_in_words
from tombola.formats import BITS, count, density, ruled
from tombola.ticket import format as container
from tombola.ticket.codec import digest, encode
from tombola.ticket.layout import PARTS
from tombola.ticket.storage import bits_per_weight, bound_bytes, entropy
from tombola.ticket.ticket_data import TicketData


class LayerRow(NamedTuple):
    """One masked layer as `tombola info` shows it.

    `bytes`: of the file, for the layer; `coding` and `bits`: how its mask is coded and in how many bits per
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


@dataclass(frozen=True)
class FileSummary:
    """What a ticket's file holds, as in its header.

    `header`: the index, with the format; `parts`: the ticket, None where it was not decoded.
    """

    header: Mapping[str, Any]
    nbytes: int
    parts: TicketData | None

    @property
    def kept(self) -> int:
        """Weights that the masks keep."""
        return sum(entry["kept"] for entry in self.header["masks"])

    @property
    def total(self) -> int:
        """Weights under the masks."""
        return sum(math.prod(entry["shape"]) for entry in self.header["masks"])

    @property
    def density(self) -> float:
        """Kept / total; 1.0 for masks over nothing."""
        return self.kept / self.total if self.total else 1.0

    @property
    def barred_kept(self) -> int:
        """See `barred_kept`."""
        return barred_kept(self.header["provenance"], self.kept)


def file_summary(ticket: TicketData) -> FileSummary:
    """Of the file that the ticket would be."""
    header, tensors = encode(ticket)
    return FileSummary({**header, "format": container.FORMAT}, len(container.pack(header, tensors)), ticket)


def parameters(provenance: Mapping[str, Any], total: int) -> dict[str, int | None]:
    """What the density is a fraction of: `prunable` weights under the mask, `total` parameters of the whole network.

    The latter from the provenance; None where it is not recorded.
    """
    total_parameters = provenance.get("parameters")
    known = type(total_parameters) is int and total_parameters >= total
    return {"total": total_parameters if known else None, "prunable": total}


def recipe(provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the network was trained, from the provenance; None where it is not recorded."""
    recorded = provenance.get("recipe")
    return dict(recorded) if isinstance(recorded, Mapping) else None


def barred_kept(provenance: Mapping[str, Any], kept: int) -> int:
    """How many of the kept weights the criterion bars (kept since it left too few others), from the provenance."""
    recorded = provenance.get("barred_kept")
    counts = recorded.values() if isinstance(recorded, Mapping) else ()
    return min(sum(count for count in counts if type(count) is int and count > 0), kept)


def actions(header: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Names of the kept and the pruned action, from the provenance; None where weights rewind, or are set to 0.

    None too where all weights are kept, since there is nothing to do to them. A ticket that was given the signs of
    another says "sign-transfer".
    """
    method = header["provenance"].get("method")
    if not isinstance(method, Mapping) or all(entry["kept"] == math.prod(entry["shape"]) for entry in header["masks"]):
        return None, None
    handed = method.get("name") == "sign-transfer" and method.get("signs") != "own"
    kept_action = "sign-transfer" if handed else method.get("kept_action")
    kept, pruned = (
        name if isinstance(name, str) and name != plain and name.isprintable() and 0 < len(name) <= 200 else None
        for name, plain in ((kept_action, "rewind"), (method.get("pruned_action"), "zero"))
    )
    return kept, pruned


def describe_density(ticket: TicketData) -> str:
    """The density with what it is a fraction of, for a sentence ("This ticket of ...").

    "20.30 % of the 51 prunable weights, which are 0.70 % of all 7,266 parameters"; the last part only where the ticket
    records how many parameters there are.
    """
    kept, total = ticket.mask.kept, ticket.mask.total
    return density_in_words(kept, total, parameters(ticket.provenance, total)["total"])


def layers(ticket: TicketData) -> list[LayerRow]:
    """One row per masked layer, in the mask's order."""
    return _rows(encode(ticket)[0])


def info(file: FileSummary) -> dict[str, Any]:
    """What the ticket holds, as JSON-able data; sizes in bytes.

    `bound_bytes`, `bits_per_weight`: see `storage`; None where the masks were not decoded.
    """
    header, parts = file.header, file.parts
    kept_action, pruned_action = actions(header)
    sizes: dict[str, int] = {}
    for (kind, _), size in _bytes_by_part(header).items():
        sizes[kind] = sizes.get(kind, 0) + size
    return {
        "format": header["format"],
        "digest": None if parts is None else digest(parts),
        "bytes": file.nbytes,
        "bytes_by_kind": sizes,
        "bound_bytes": None if parts is None else math.ceil(bound_bytes(parts)),
        "bits_per_weight": None if parts is None else bits_per_weight(parts),
        "kept": file.kept,
        "total": file.total,
        "parameters": parameters(header["provenance"], file.total),
        "density": file.density,
        "barred_kept": file.barred_kept,
        "kept_action": kept_action or "rewind",
        "pruned_action": pruned_action or "zero",
        "trained": any(entry["kind"] == "trained" for part in PARTS for entry in header[part]),
        "recipe": recipe(header["provenance"]),
        "layers": [row._asdict() for row in _rows(header)],
        "state": {
            entry["name"]: entry["shape"]
            for part in ("floats", "tensors")
            for entry in header[part]
            if entry["kind"] == "state"
        },
        **{key: header[key] for key in ("origin", "provenance", "pruned", "representation", "rewrites", "tied")},
    }


def table(file: FileSummary) -> str:
    """The layers, the total and the file size as plain text."""
    rows = _rows(file.header)
    cells = [("layer", "kept", "total", "density", "coding", "bits/weight", "entropy", "bytes")]
    for row in [*rows, _total(file, rows)]:
        bits = f"{row.bits:.4f}", f"{row.bound:.4f}"
        cells.append(
            (row.name, count(row.kept), count(row.total), density(row.density), row.coding, *bits, count(row.bytes))
        )
    return "\n".join([*ruled(cells), _note(file)])


def _note(file: FileSummary) -> str:
    total = parameters(file.header["provenance"], file.total)["total"]
    head = f"kept: {density_in_words(file.kept, file.total, total)}; bits/weight of the coded mask; "
    if file.parts is None:
        return f"{head}file {count(file.nbytes)} bytes; its content's bound is not computed for so many weights"
    bound = count(math.ceil(bound_bytes(file.parts)))
    return (
        f"{head}the masked layers' content takes {BITS.bare(bits_per_weight(file.parts))} bits per weight; "
        f"file {count(file.nbytes)} bytes, its content's bound {bound}"
    )


def _total(file: FileSummary, rows: list[LayerRow]) -> LayerRow:
    mean = [sum(each * row.total for each, row in zip(column, rows, strict=True)) / max(file.total, 1)
            for column in ([row.bits for row in rows], [row.bound for row in rows])]  # fmt: skip
    size = sum(row.bytes for row in rows)
    return LayerRow("total", file.kept, file.total, file.density, size, "", mean[0], mean[1])


def _rows(header: Mapping[str, Any]) -> list[LayerRow]:
    by_name: dict[str, int] = {}
    for (_, name), size in _bytes_by_part(header).items():
        by_name[name] = by_name.get(name, 0) + size
    rows = []
    for entry in header["masks"]:
        name, kept, total = entry["name"], entry["kept"], math.prod(entry["shape"])
        bits = 8 * entry["bytes"] / total if total else 0.0
        share = kept / total if total else 1.0
        rows.append(LayerRow(name, kept, total, share, by_name[name], entry["coding"], bits, entropy(kept, total)))
    return rows


def _bytes_by_part(header: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Bytes in the file by kind and name of what they hold."""
    sizes = {("mask", entry["name"]): entry["bytes"] for entry in header["masks"]}
    sizes |= {
        (entry["kind"], entry["name"]): entry["bytes"] for part in ("symbols", "floats") for entry in header[part]
    }
    for entry in header["tensors"]:
        sizes[entry["kind"], entry["name"]] = math.prod(entry["shape"]) * getattr(torch, entry["dtype"]).itemsize
    return sizes
