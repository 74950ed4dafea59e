"""A ticket as a JSON header and named tensors, and back; everything that is read is checked.

Tensors: mask/<name> packed bits, multiplier/<name>, scale/<name>, pruned/<name>, trained/<name>,
state/<name>, origin/<name>. The header names the coding of every mask, so that new codings fit without a new
file layout.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.parts import Parts
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import check_name, show

KINDS = ("mask", "multiplier", "scale", "pruned", "trained", "state", "origin")
_TOP = {"digest", "format", "masks", "origin", "provenance", "pruned", "representation", "rewrites", "tied"}
Tensors = dict[str, Tensor]


# ---- writing --------------------------------------------------------------------------------


def encode(ticket: Parts) -> tuple[dict[str, Any], Tensors]:
    """The header (without digest and format) and the tensors of the file."""
    parts: dict[str, Mapping[str, Tensor] | None] = {
        "multiplier": ticket.multiplier,
        "scale": ticket.representation.scales,
        "pruned": ticket.pruned_values,
        "trained": ticket.trained,
        "state": ticket.state,
        "origin": ticket.origin.tensors,
    }
    tensors = {f"{kind}/{name}": t for kind, part in parts.items() for name, t in (part or {}).items()}
    masks = []
    for name, keep in ticket.mask.items():
        coding = "multiplier" if ticket.multiplier is not None and name in ticket.multiplier else "packed"
        masks.append({"name": name, "shape": list(keep.shape), "kept": int(keep.sum()), "coding": coding})
        if coding == "packed":
            tensors[f"mask/{name}"] = torch.from_numpy(np.packbits(keep.reshape(-1).numpy()))
    header = {
        "masks": masks,
        "origin": _origin_header(ticket.origin),
        "provenance": ticket.provenance,
        "pruned": ticket.pruned_rule,
        "representation": {"kind": ticket.representation.kind, "on": ticket.representation.on},
        "rewrites": list(ticket.rewrites),
        "tied": ticket.tied,
    }
    return header, tensors


def _origin_header(origin: Origin) -> dict[str, Any]:
    spec = origin.network
    network = spec and {
        "name": spec.name,
        "args": spec.args,
        "input_shape": None if spec.input_shape is None else list(spec.input_shape),
        "classes": spec.classes,
    }
    return {
        "kind": origin.kind,
        "network": network,
        "init": origin.init,
        "init_args": origin.init_args,
        "seed": origin.seed,
        "tied": origin.tied,
        "weights_hash": origin.weights_hash,
    }


# ---- reading --------------------------------------------------------------------------------


@contextlib.contextmanager
def sound() -> Iterator[None]:
    """Turn whatever crafted content raises inside into a TicketError of one line."""
    try:
        yield
    except TicketError:
        raise
    except TombolaError as error:
        raise TicketError(str(error)) from error
    except Exception as error:  # crafted content may reach torch with anything
        raise TicketError(f"the ticket's content is unsound: {type(error).__name__} {show(error)}") from error


def decode(header: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The fields of the Ticket that `header` and `tensors` hold; use inside `sound()`."""
    _keys(header, _TOP, "header")
    parts = _sort(tensors)
    mask = Mask(_masks(header["masks"], parts))
    representation = header["representation"]
    _keys(representation, {"kind", "on"}, "representation")
    if not isinstance(header["rewrites"], list):
        raise TicketError("the ticket's rewrites are not a list")
    return dict(
        origin=_origin(header["origin"], parts["origin"]),
        mask=mask,
        representation=Representation(
            kind=_text(representation["kind"], "representation"),  # type: ignore[arg-type]
            scales=parts["scale"],
            on=_text(representation["on"], "representation"),  # type: ignore[arg-type]
        ),
        multiplier=parts["multiplier"],
        pruned_rule=_text(header["pruned"], "pruned rule"),
        pruned_values=parts["pruned"],
        rewrites=tuple(header["rewrites"]),
        state=parts["state"],
        trained=parts["trained"],
        tied=_names(header["tied"]),
        provenance=header["provenance"],
    )


def _keys(value: Any, allowed: set[str], what: str) -> None:
    if not isinstance(value, dict):
        raise TicketError(f"the ticket's {what} is not a JSON object")
    odd = sorted(value.keys() ^ allowed)
    if odd:
        state = "missing from" if odd[0] in allowed else "unknown in"
        raise TicketError(f"{show(odd[0])} is {state} the ticket's {what}; expected are {sorted(allowed)}")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise TicketError(f"the ticket's {what} is {show(value)}, not a text")
    return value


def _names(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TicketError("the ticket's ties are not a JSON object")
    return {check_name(alias): check_name(owner) for alias, owner in value.items()}


def _sort(tensors: Tensors) -> dict[str, Tensors]:
    """The file's tensors by kind and name, in order of name."""
    parts: dict[str, Tensors] = {kind: {} for kind in KINDS}
    for key in sorted(tensors):
        kind, slash, name = key.partition("/")
        if kind not in parts or not slash:
            raise TicketError(f"tensor {show(key)} has no place in a ticket; its name starts with one of {KINDS}")
        tensor = tensors[key]
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise TicketError(f"tensor {show(key)} is bool but holds other bytes than 0 and 1")
        parts[kind][check_name(name)] = tensor
    return parts


def _masks(entries: Any, parts: dict[str, Tensors]) -> Tensors:
    if not isinstance(entries, list):
        raise TicketError("the ticket's masks are not a list")
    masks: Tensors = {}
    for entry in entries:
        _keys(entry, {"coding", "kept", "name", "shape"}, "mask entry")
        name, shape, coding = check_name(entry["name"]), entry["shape"], entry["coding"]
        if name in masks:
            raise TicketError(f"the ticket has two masks for {show(name)}")
        whole = isinstance(shape, list) and len(shape) <= 64 and all(type(n) is int for n in shape)
        if not whole or not all(0 < n < 2**48 for n in shape) or math.prod(shape) >= 2**48:
            raise TicketError(f"the mask of {show(name)} has shape {show(shape)}, which is no weight's shape")
        if not isinstance(coding, str) or coding not in _CODINGS:
            raise TicketError(f"the mask of {show(name)} is coded as {show(coding)}; this Tombola reads "
                              f"{sorted(_CODINGS)}; update Tombola")  # fmt: skip
        keep = _CODINGS[coding](name, tuple(shape), parts)
        if type(entry["kept"]) is not int or int(keep.sum()) != entry["kept"]:
            raise TicketError(
                f"the mask of {show(name)} keeps {int(keep.sum())}, its header says {show(entry['kept'])}"
            )
        masks[name] = keep
    stray = [name for name in parts["mask"] if name not in masks or name in parts["multiplier"]]
    if stray:
        raise TicketError(f"mask bits for {show(stray[0])}, which the ticket's header does not ask for")
    return masks


def _unpack_bits(name: str, shape: tuple[int, ...], parts: dict[str, Tensors]) -> Tensor:
    bits, count = parts["mask"].get(name), math.prod(shape)
    if bits is None or bits.dtype != torch.uint8 or tuple(bits.shape) != ((count + 7) // 8,):
        found = "no bits" if bits is None else f"{tuple(bits.shape)} {bits.dtype}"
        raise TicketError(f"the mask of {show(name)} has {found}; shape {shape} needs {(count + 7) // 8} bytes")
    flat = np.unpackbits(bits.numpy())
    if flat[count:].any():
        raise TicketError(f"the mask of {show(name)} has bits set beyond its {count} weights")
    return torch.from_numpy(flat[:count].astype(np.bool_)).reshape(shape)


def _from_multiplier(name: str, shape: tuple[int, ...], parts: dict[str, Tensors]) -> Tensor:
    factor = parts["multiplier"].get(name)
    if factor is None or tuple(factor.shape) != shape:
        raise TicketError(f"the mask of {show(name)} is said to be its multiplier, which is missing or misshapen")
    return factor != 0


_CODINGS: dict[str, Callable[[str, tuple[int, ...], dict[str, Tensors]], Tensor]] = {
    "packed": _unpack_bits,
    "multiplier": _from_multiplier,
}


def _origin(header: Any, tensors: Tensors) -> Origin:
    _keys(header, {"init", "init_args", "kind", "network", "seed", "tied", "weights_hash"}, "origin")
    if header["kind"] not in ("seeded", "stored"):
        raise TicketError(f"origin kind {show(header['kind'])} is unknown; known are 'seeded' and 'stored'")
    if (header["kind"] == "stored") != bool(tensors):
        raise TicketError(f"the ticket's origin is {header['kind']} but holds {len(tensors)} tensors")
    network = header["network"]
    if network is not None:
        _keys(network, {"args", "classes", "input_shape", "name"}, "network")
        shape = network["input_shape"]
        if shape is not None and not isinstance(shape, list):
            raise TicketError(f"the network's input_shape is {show(shape)}, not a list of integers")
        network = NetworkSpec(
            name=_text(network["name"], "network name"),
            args=network["args"],
            input_shape=None if shape is None else tuple(shape),
            classes=network["classes"],
        )
    return Origin(
        network=network,
        init=header["init"],
        init_args=header["init_args"],
        seed=header["seed"],
        tensors=tensors or None,
        tied=_names(header["tied"]),
        weights_hash=header["weights_hash"],
    )
