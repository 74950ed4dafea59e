"""The layout of a ticket's tensors: all coded streams in one, all plain values of one dtype in another, and an index.

A tensor of its own costs about 100 bytes in the safetensors header, which a network of many small tensors cannot
afford. Masks, multipliers and signs are coded (masks.py, bitcode.py), and so are floating-point values where that is
smaller (floats.py); everything else is stored as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket import fields, floats, frozen, masks
from tombola.ticket.bitcode import BitReader, BitWriter
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.tensors import DTYPES, Tensors, check_name, count_kept, raw_bytes, show
from tombola.ticket.ticket_data import TicketData

PLAIN = ("begin", "multiplier", "origin", "pruned", "scale", "state", "step", "trained")
"""Kinds of tensors besides masks."""
SYMBOLS = ("begin", "multiplier", "pruned", "trained")  # int8, one per kept weight, or per pruned one
DTYPE_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
PARTS = {
    "symbols": {"bytes", "kind", "name"},
    "floats": {"bytes", "dtype", "kind", "name", "shape"},
    "tensors": {"dtype", "kind", "name", "shape"},
}
"""The index's lists besides masks, and the keys of their entries."""
Place = tuple[int, dict[str, Any]]
"""Where a stream or tensor begins in what holds it (in bytes of "coded", in values of one dtype), and its entry."""


# ---- writing --------------------------------------------------------------------------------


def write(ticket: TicketData) -> tuple[dict[str, Any], Tensors]:
    """The index's lists "masks", "symbols", "floats" and "tensors", and the file's tensors, but for the index."""
    streams: list[bytes] = []
    index: dict[str, Any] = {"masks": [], **{part: [] for part in PARTS}}
    for name, keep in ticket.mask.items():
        coding, mask = _coded(keep.numpy(), ticket.frozen.get(name))
        streams.append(mask)
        index["masks"].append({"name": name, "shape": list(keep.shape), "kept": count_kept(keep),
                               "coding": coding, "bytes": len(mask)})  # fmt: skip
    coded: dict[str, list[bytes]] = {"symbols": [], "floats": []}
    plain: dict[str, list[np.ndarray[Any, np.dtype[np.uint8]]]] = {}
    for kind, name, tensor in plain_tensors(ticket):
        part, entry, stream = entry_of(kind, name, tensor)
        index[part].append(entry)
        if stream is None:
            plain.setdefault(entry["dtype"], []).append(raw_bytes(tensor))
        else:
            coded[part].append(stream)
    joined = b"".join([*streams, *coded["symbols"], *coded["floats"]]) or b"\0"
    tensors = {f"values/{dtype}": _joined(parts, DTYPE_NAMES[dtype]) for dtype, parts in plain.items()}
    return index, {"coded": torch.frombuffer(bytearray(joined), dtype=torch.uint8), **tensors}


def entry_of(kind: str, name: str, tensor: Tensor) -> tuple[str, dict[str, Any], bytes | None]:
    """The list of the index that a tensor is in, its entry there, and its stream; None where it is stored as it is."""
    entry: dict[str, Any] = {"kind": kind, "name": name}
    if kind in SYMBOLS and (stream := _symbols_of(tensor)) is not None:
        return "symbols", {**entry, "bytes": len(stream)}, stream
    entry |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if (stream := floats.encode(tensor)) is not None:
        return "floats", {**entry, "bytes": len(stream)}, stream
    return "tensors", entry, None


def _coded(keep: np.ndarray[Any, np.dtype[np.bool_]], part: FrozenPart | None) -> tuple[str, bytes]:
    """Coding and stream of a mask: the smallest, without what a frozen part gives, if that is smaller."""
    found = masks.encode(keep)
    stream = None if part is None else frozen.write(keep, part)
    return found if stream is None or len(stream) >= len(found[1]) else (frozen.CODING, stream)


def plain_tensors(ticket: TicketData) -> list[tuple[str, str, Tensor]]:
    """(kind, name, tensor) of everything but the masks, sorted; multipliers at kept weights only."""
    kept = {name: factor[ticket.mask[name]] for name, factor in (ticket.multiplier or {}).items()}
    kinds: dict[str, Mapping[str, Tensor] | None] = {
        "begin": ticket.begin,
        "multiplier": kept,
        "origin": ticket.origin.tensors,
        "pruned": ticket.pruned_values,
        "scale": ticket.representation.scales,
        "state": ticket.state,
        "step": ticket.steps,
        "trained": ticket.trained,
    }
    return [(kind, name, part[name]) for kind, part in kinds.items() if part for name in sorted(part)]


def _symbols_of(values: Tensor) -> bytes | None:
    """int8 values as coded symbols; None where these are other values, or no smaller."""
    if values.dtype != torch.int8 or values.ndim != 1:
        return None
    writer = BitWriter()
    writer.values(values.numpy())
    stream = writer.data()
    return stream if len(stream) <= values.numel() else None


def _joined(parts: list[np.ndarray[Any, np.dtype[np.uint8]]], dtype: torch.dtype) -> Tensor:
    joined = torch.from_numpy(np.concatenate(parts))
    # no view of nothing has wider entries
    return joined.view(dtype) if len(joined) else torch.empty(0, dtype=dtype, device="cpu")


# ---- reading --------------------------------------------------------------------------------


def read(
    index: dict[str, Any], tensors: Tensors, room: fields.Room
) -> tuple[dict[str, Tensors], dict[str, FrozenPart]]:
    """The ticket's tensors by kind and name: masks boolean, multipliers in full; and what of the masks is frozen.

    Sizes are checked before all else.
    """
    parts_of_masks: dict[str, FrozenPart] = {}
    asked = fields.entries(index["masks"], {"bytes", "coding", "kept", "name", "shape"}, "masks")
    symbols, coded = (fields.entries(index[part], PARTS[part], part) for part in ("symbols", "floats"))
    shapes = {check_name(entry["name"]): fields.shape(entry["shape"], entry["name"], empty=False) for entry in asked}
    if len(shapes) != len(asked):
        raise TicketError("the ticket has two masks for one name")
    room.check(shapes.values())
    parts = {"mask": {}, **_plain(index["tensors"], tensors)}
    streams = _cut(tensors, [entry["bytes"] for entry in (*asked, *symbols, *coded)])
    for entry, stream in zip(asked, streams, strict=False):
        name = entry["name"]
        parts["mask"][name], part = _mask(name, entry["coding"], stream, shapes[name])
        parts_of_masks |= {} if part is None else {name: part}
        fields.check_kept(name, parts["mask"][name], entry["kept"])
    for entry, stream in zip(symbols, streams[len(asked) :], strict=False):
        kind, name = entry["kind"], check_name(entry["name"])
        if kind not in SYMBOLS or name not in shapes or name in parts[kind]:
            raise TicketError(f"symbols {show(kind)} of {show(name)} have no place in a ticket, or are there twice")
        keep = parts["mask"][name]
        parts[kind][name] = _symbols(name, stream, count_kept(~keep if kind == "pruned" else keep))
    for entry, stream in zip(coded, streams[len(asked) + len(symbols) :], strict=True):
        kind, name = _place_of(entry, parts)
        parts[kind][name] = decode_floats(entry, stream)
    parts["multiplier"] = {
        name: _spread(name, kept, parts["mask"].get(name)) for name, kept in parts["multiplier"].items()
    }
    ordered = {kind: values if kind == "mask" else dict(sorted(values.items())) for kind, values in parts.items()}
    return ordered, parts_of_masks


def places(index: dict[str, Any]) -> dict[tuple[str, str], Place]:
    """(kind, name) -> the place of each stream ("mask" and symbols) and plain tensor of an index that was checked."""
    found: dict[tuple[str, str], Place] = {}
    start = 0
    coded = [("mask", one) for one in index["masks"]]
    coded += [(one["kind"], one) for part in ("symbols", "floats") for one in index[part]]
    for kind, entry in coded:
        if (kind, entry["name"]) in found:
            raise TicketError(f"{show(kind)} of {show(entry['name'])} is there twice")
        found[kind, entry["name"]] = start, entry
        start += entry["bytes"]
    used: dict[str, int] = {}
    for entry in index["tensors"]:
        key, at = (entry["kind"], entry["name"]), used.get(entry["dtype"], 0)
        if key in found:
            raise TicketError(f"{show(key[0])} of {show(key[1])} is there twice")
        found[key] = at, entry
        used[entry["dtype"]] = at + math.prod(entry["shape"])
    return found


def check_lists(index: dict[str, Any], tensors: Tensors) -> None:
    """TicketError if the lists "symbols", "floats" and "tensors" do not fit the file; nothing is decoded."""
    symbols, coded = (fields.entries(index[part], PARTS[part], part) for part in ("symbols", "floats"))
    for entry in symbols:
        if entry["kind"] not in SYMBOLS:
            raise TicketError(f"symbols {show(entry['kind'])} of {show(entry['name'])} have no place in a ticket")
        check_name(entry["name"])
    taken = {kind: set(plain) for kind, plain in _plain(index["tensors"], tensors).items()}
    for entry in coded:
        kind, name = _place_of(entry, taken)
        taken[kind].add(name)
        _float_spec(entry)
    _check_coded(tensors, [entry["bytes"] for entry in (*index["masks"], *symbols, *coded)])


def _plain(index: Any, tensors: Tensors) -> dict[str, Tensors]:
    """The plain tensors by kind and name, views into the file's; all of the file's values must be asked for."""
    parts: dict[str, Tensors] = {kind: {} for kind in PLAIN}
    used = dict.fromkeys((key for key in tensors if key != "coded"), 0)
    for entry in fields.entries(index, PARTS["tensors"], "tensors"):
        kind, name = _place_of(entry, parts)
        key, shape = f"values/{show(entry['dtype'])[1:-1]}", fields.shape(entry["shape"], name, empty=True)
        values, count = tensors.get(key), math.prod(shape)
        if values is None or values.ndim != 1 or values.dtype != DTYPE_NAMES.get(entry["dtype"]):
            raise TicketError(f"tensor {show(name)} is in {show(key)}, which the file does not hold as such")
        if used[key] + count > len(values):
            raise TicketError(
                f"tensor {show(name)} takes {count} of the {len(values) - used[key]} values left in {key}"
            )
        tensor = values[used[key] : used[key] + count].reshape(shape)
        fields.check_bool(name, tensor)
        parts[kind][name] = tensor
        used[key] += count
    odd = [key for key, count in used.items() if tensors[key].ndim != 1 or count != len(tensors[key])]
    odd += [key for key in used if not key.startswith("values/")]
    if odd:
        raise TicketError(f"tensor {show(odd[0])} holds values that the ticket's index does not ask for")
    return parts


def _place_of(entry: dict[str, Any], taken: Mapping[str, Collection[str]]) -> tuple[str, str]:
    """Kind and name of a tensor, if the ticket has a place for it that is not taken."""
    kind, name = entry["kind"], check_name(entry["name"])
    if not isinstance(kind, str) or kind not in PLAIN or name in taken[kind]:
        raise TicketError(f"tensor {show(kind)} of {show(name)} has no place in a ticket, or is there twice")
    return kind, name


def decode_floats(entry: dict[str, Any], stream: bytes) -> Tensor:
    """The tensor of an entry of "floats"."""
    dtype, shape = _float_spec(entry)
    try:
        return floats.decode(stream, dtype, shape)
    except TicketError as error:
        raise TicketError(f"the values of {show(entry['name'])}: {error}") from error


def _float_spec(entry: dict[str, Any]) -> tuple[torch.dtype, tuple[int, ...]]:
    name, found = entry["name"], entry["dtype"]
    dtype = DTYPE_NAMES.get(found) if isinstance(found, str) else None
    if dtype is None or not dtype.is_floating_point:
        raise TicketError(f"the values of {show(name)} are coded as {show(found)}, which is no floating-point dtype")
    return dtype, fields.shape(entry["shape"], name, empty=False)


def _cut(tensors: Tensors, sizes: list[Any]) -> list[bytes]:
    """The streams of these sizes that "coded" holds, one after the other."""
    data, streams, start = _check_coded(tensors, sizes).numpy(), [], 0
    for size in sizes:
        streams.append(data[start : start + size].tobytes())
        start += size
    return streams


def _check_coded(tensors: Tensors, sizes: list[Any]) -> Tensor:
    """The tensor "coded"; TicketError unless it holds streams of these sizes, and nothing else."""
    coded = tensors.get("coded")
    if coded is None or coded.dtype != torch.uint8 or coded.ndim != 1:
        raise TicketError("the ticket has no coded bytes in one dimension")
    if not all(type(size) is int and 0 <= size < 2**48 for size in sizes):
        raise TicketError("a coded stream has a size that is no number of bytes")
    if (sum(sizes) or 1) != len(coded):
        raise TicketError(f"the coded streams take {sum(sizes)} bytes, the file has {len(coded)}")
    return coded


def _mask(name: str, coding: Any, stream: bytes, shape: tuple[int, ...]) -> tuple[Tensor, FrozenPart | None]:
    known = (*masks.CODINGS, frozen.CODING)
    if not isinstance(coding, str) or coding not in known:
        raise TicketError(f"the mask of {show(name)} is coded as {show(coding)}; this Tombola reads "
                          f"{known}; update Tombola")  # fmt: skip
    try:
        keep, part = frozen.read(stream, shape) if coding == frozen.CODING else (
            masks.decode(coding, stream, shape), None
        )  # fmt: skip
        return torch.from_numpy(keep), part
    except TicketError as error:
        raise TicketError(f"the mask of {show(name)}: {error}") from error


def _symbols(name: str, stream: bytes, kept: int) -> Tensor:
    try:
        reader = BitReader(stream)
        values = reader.values(kept)
        reader.end()
    except TicketError as error:
        raise TicketError(f"the symbols of {show(name)}: {error}") from error
    return torch.from_numpy(values)


def _spread(name: str, kept: Tensor, keep: Tensor | None) -> Tensor:
    """A multiplier in the weight's shape, from its values at kept weights."""
    if keep is None or kept.dtype != torch.int8 or tuple(kept.shape) != (count_kept(keep),):
        raise TicketError(f"the multiplier of {show(name)} does not hold one int8 for each kept weight")
    full = torch.zeros(keep.shape, dtype=torch.int8, device="cpu")
    full[keep] = kept
    return full
