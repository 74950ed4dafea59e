"""A ticket as a JSON header and tensors, and back; everything that is read is checked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.ticket import fields, layout1, layout2
from tombola.ticket.origin import Kind, NetworkSpec, Origin
from tombola.ticket.parts import Parts
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import Tensors, check_name, show

_TOP = {"digest", "format", "masks", "origin", "provenance", "pruned", "representation", "rewrites", "tied"}
_LISTS = {"symbols", "tensors"}  # since format 2
_ORIGIN = {"init", "init_args", "kind", "network", "seed", "tied", "weights_hash"}


# ---- writing --------------------------------------------------------------------------------


def encode(ticket: Parts) -> tuple[dict[str, Any], Tensors]:
    """The header (without digest and format) and the tensors of the file."""
    lists, tensors = layout2.write(ticket)
    header = {
        **lists,
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


def decode(header: dict[str, Any], tensors: Tensors, file_bytes: int, max_weights: int | None = None) -> dict[str, Any]:
    """The fields of the Ticket that `header` and `tensors` hold; use inside `sound()`."""
    layout = _layout(header)
    parts = layout.read(header, tensors, room_for(header, file_bytes, max_weights))
    representation = fields.keys(header["representation"], {"kind", "on"}, "representation")
    if not isinstance(header["rewrites"], list):
        raise TicketError("the ticket's rewrites are not a list")
    return dict(
        origin=_origin(header["origin"], parts["origin"]),
        mask=Mask(parts["mask"]),
        representation=Representation(
            kind=fields.text(representation["kind"], "representation"),  # type: ignore[arg-type]
            scales=parts["scale"],
            on=fields.text(representation["on"], "representation"),  # type: ignore[arg-type]
        ),
        multiplier=parts["multiplier"],
        pruned_rule=fields.text(header["pruned"], "pruned rule"),
        pruned_values=parts["pruned"],
        rewrites=tuple(header["rewrites"]),
        state=parts["state"],
        trained=parts["trained"],
        tied=fields.names(header["tied"]),
        provenance=header["provenance"],
    )


def lists(header: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """The header with the lists of format 2, checked as far as can be without decoding; use inside `sound()`."""
    layout = _layout(header)
    fields.keys(header["origin"], _ORIGIN, "origin")
    found = {**header, **layout1.lists(header, tensors)} if layout is layout1 else header
    for entry in fields.entries(found["masks"], {"bytes", "coding", "kept", "name", "shape"}, "masks"):
        shape = fields.shape(entry["shape"], check_name(entry["name"]), empty=False)
        fields.count(entry["kept"], math.prod(shape), "number of kept weights")
        fields.text(entry["coding"], "coding")
    if layout is layout2:
        layout2.check_lists(header, tensors)
    if header["origin"]["kind"] not in get_args(Kind):
        raise TicketError(f"origin kind {show(header['origin']['kind'])} is unknown")
    if not isinstance(header["provenance"], dict):
        raise TicketError("provenance is not a mapping")
    return found


def room_for(header: dict[str, Any], file_bytes: int, max_weights: int | None) -> fields.Room:
    """How many weights a file may have, and how many its network has; use inside `sound()`."""
    fields.keys(header["origin"], _ORIGIN, "origin")
    network = _network(header["origin"]["network"])
    return fields.Room(file_bytes, max_weights, 0 if network is None else network.size() or 0)


def _layout(header: dict[str, Any]) -> ModuleType:
    first = header["format"] == 1
    fields.keys(header, _TOP if first else _TOP | _LISTS, "header")
    return layout1 if first else layout2


def _network(header: Any) -> NetworkSpec | None:
    if header is None:
        return None
    fields.keys(header, {"args", "classes", "input_shape", "name"}, "network")
    shape = header["input_shape"]
    if shape is not None and not isinstance(shape, list):
        raise TicketError(f"the network's input_shape is {show(shape)}, not a list of integers")
    return NetworkSpec(
        name=fields.text(header["name"], "network name"),
        args=header["args"],
        input_shape=None if shape is None else tuple(shape),
        classes=header["classes"],
    )


def _origin(header: Any, tensors: Tensors) -> Origin:
    fields.keys(header, _ORIGIN, "origin")
    if header["kind"] not in get_args(Kind):
        raise TicketError(f"origin kind {show(header['kind'])} is unknown; known are {', '.join(get_args(Kind))}")
    if (header["kind"] == "stored") != bool(tensors):
        raise TicketError(f"the ticket's origin is {header['kind']} but holds {len(tensors)} tensors")
    return Origin(
        network=_network(header["network"]),
        init=header["init"],
        init_args=header["init_args"],
        seed=header["seed"],
        tensors=tensors or None,
        tied=fields.names(header["tied"]),
        weights_hash=header["weights_hash"],
        omitted=header["kind"] == "omitted",
    )
