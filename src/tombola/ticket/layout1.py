"""Format 1, read only: one safetensors tensor for each part of the ticket, masks as packed bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket import fields, masks
from tombola.ticket.tensors import Tensors, check_name, show

KINDS = ("mask", "multiplier", "scale", "pruned", "trained", "state", "origin")


def read(header: dict[str, Any], tensors: Tensors, room: fields.Room) -> dict[str, Tensors]:
    """The file's tensors by kind and name, in order of name, but "mask": boolean, in the header's order."""
    parts = _sort(tensors)
    asked = fields.entries(header["masks"], {"coding", "kept", "name", "shape"}, "masks")
    shapes = [fields.shape(entry["shape"], entry["name"], empty=False) for entry in asked]
    room.check(shapes)
    found: Tensors = {}
    for entry, shape in zip(asked, shapes, strict=True):
        name, coding = check_name(entry["name"]), entry["coding"]
        if name in found:
            raise TicketError(f"the ticket has two masks for {show(name)}")
        if coding == "packed":
            found[name] = _unpacked(name, shape, parts["mask"])
        elif coding == "multiplier":
            found[name] = _nonzero(name, shape, parts["multiplier"])
        else:
            raise TicketError(f"the mask of {show(name)} is coded as {show(coding)}, which format 1 does not know")
        fields.check_kept(name, found[name], entry["kept"])
    stray = [name for name in parts["mask"] if name not in found or name in parts["multiplier"]]
    if stray:
        raise TicketError(f"mask bits for {show(stray[0])}, which the ticket's header does not ask for")
    return {**parts, "mask": found}


def lists(header: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The lists "masks", "symbols" and "tensors" that format 2 would hold; nothing is decoded."""
    parts = _sort(tensors)
    asked = fields.entries(header["masks"], {"coding", "kept", "name", "shape"}, "masks")
    spent = {name: bits.nbytes for name, bits in parts.pop("mask").items()}
    return {
        "masks": [{**entry, "bytes": spent.get(fields.text(entry["name"], "mask's name"), 0)} for entry in asked],
        "symbols": [],
        "tensors": [
            {"kind": kind, "name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
            for kind, part in parts.items()
            for name, value in part.items()
        ],
    }


def _sort(tensors: Tensors) -> dict[str, Tensors]:
    parts: dict[str, Tensors] = {kind: {} for kind in KINDS}
    for key in sorted(tensors):
        kind, slash, name = key.partition("/")
        if kind not in parts or not slash:
            raise TicketError(f"tensor {show(key)} has no place in a ticket; its name starts with one of {KINDS}")
        fields.check_bool(key, tensors[key])
        parts[kind][check_name(name)] = tensors[key]
    return parts


def _unpacked(name: str, shape: tuple[int, ...], packed: Tensors) -> Tensor:
    bits = packed.get(name)
    if bits is None or bits.dtype != torch.uint8 or bits.ndim != 1:
        raise TicketError(
            f"the mask of {show(name)} has no bits, or bits of another dtype or shape than bytes in a row"
        )
    try:
        return torch.from_numpy(masks.decode("packed", bits.numpy().tobytes(), shape))
    except TicketError as error:
        raise TicketError(f"the mask of {show(name)}: {error}") from error


def _nonzero(name: str, shape: tuple[int, ...], multipliers: Tensors) -> Tensor:
    factor = multipliers.get(name)
    if factor is None or tuple(factor.shape) != shape:
        raise TicketError(f"the mask of {show(name)} is said to be its multiplier, which is missing or misshapen")
    return factor != 0
