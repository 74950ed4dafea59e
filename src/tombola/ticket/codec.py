"""A ticket as a JSON header and tensors, and back; everything that is read is checked."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from typing import Any, get_args

from tombola.errors import TicketError, TombolaError
from tombola.mask import Mask
from tombola.ticket import fields, layout
from tombola.ticket import format as container
from tombola.ticket.origin import Kind, NetworkSpec, Origin
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import Tensors, check_name, hash_state, show
from tombola.ticket.ticket_data import TicketData

_TOP = {
    "floats", "format", "masks", "origin", "provenance", "pruned", "representation", "rewrites", "symbols", "tensors",
    "tied",
}  # fmt: skip
_ORIGIN = {"init", "init_args", "kind", "network", "seed", "tied", "weights_hash"}


# ---- writing --------------------------------------------------------------------------------


def encode(ticket: TicketData) -> tuple[dict[str, Any], Tensors]:
    """The header (without the format) and the tensors of the file."""
    lists, tensors = layout.write(ticket)
    return {**lists, **_header(ticket)}, tensors


def digest(ticket: TicketData) -> str:
    """sha256 (hex) of the canonical JSON of the header, the masks' names in order and the hash of all tensors.

    The tensors are those of the ticket, not of its file: masks as bools, symbols as int8, whatever a file codes them
    as.
    """
    tensors = {f"mask/{name}": keep for name, keep in ticket.mask.items()}
    tensors |= {f"{kind}/{name}": tensor for kind, name, tensor in layout.plain_tensors(ticket)}
    content = {**_header(ticket), "masks": list(ticket.mask), "tensors": hash_state(tensors)}
    return hashlib.sha256(container.canonical(content).encode()).hexdigest()


def _header(ticket: TicketData) -> dict[str, Any]:
    return {
        "origin": origin_header(ticket.origin),
        "provenance": ticket.provenance,
        "pruned": ticket.pruned_rule,
        "representation": {"kind": ticket.representation.kind, "on": ticket.representation.on},
        "rewrites": list(ticket.rewrites),
        "tied": ticket.tied,
    }


def origin_header(origin: Origin) -> dict[str, Any]:
    """An origin as it stands in the header, but for its tensors."""
    spec = origin.network
    network = spec and {
        "name": spec.name,
        "args": spec.args,
        "input_shape": None if spec.input_shape is None else list(spec.input_shape),
        "classes": spec.classes,
    }
    named = {} if origin.base is None else {"base": origin.base}
    return {
        **named,
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
    fields.keys(header, _TOP, "header")
    parts, frozen = layout.read(header, tensors, room_for(header, file_bytes, max_weights))
    representation = fields.keys(header["representation"], {"kind", "on"}, "representation")
    if not isinstance(header["rewrites"], list):
        raise TicketError("the ticket's rewrites are not a list")
    return dict(
        origin=_origin(header["origin"], parts["origin"]),
        mask=Mask(parts["mask"]),
        frozen=frozen,
        representation=Representation(
            kind=fields.text(representation["kind"], "representation"),  # type: ignore[arg-type]
            scales=parts["scale"],
            on=fields.text(representation["on"], "representation"),  # type: ignore[arg-type]
        ),
        multiplier=parts["multiplier"],
        pruned_rule=fields.text(header["pruned"], "pruned rule"),
        pruned_values=parts["pruned"],
        begin=parts["begin"],
        rewrites=tuple(header["rewrites"]),
        state=parts["state"],
        trained=parts["trained"],
        steps=parts["step"],
        tied=fields.names(header["tied"]),
        provenance=header["provenance"],
    )


def check_lists(header: dict[str, Any], tensors: Tensors) -> None:
    """TicketError if the header is unsound, as far as that shows without decoding; use inside `sound()`."""
    fields.keys(header, _TOP, "header")
    _check_origin_keys(header["origin"])
    for entry in fields.entries(header["masks"], {"bytes", "coding", "kept", "name", "shape"}, "masks"):
        shape = fields.shape(entry["shape"], check_name(entry["name"]), empty=False)
        fields.count(entry["kept"], math.prod(shape), "number of kept weights")
        fields.text(entry["coding"], "coding")
    layout.check_lists(header, tensors)
    if header["origin"]["kind"] not in get_args(Kind):
        raise TicketError(f"origin kind {show(header['origin']['kind'])} is unknown")
    if not isinstance(header["provenance"], dict):
        raise TicketError("provenance is not a mapping")


def room_for(header: dict[str, Any], file_bytes: int, max_weights: int | None) -> fields.Room:
    """How many weights a file may have, and how many its network has; use inside `sound()`."""
    _check_origin_keys(header["origin"])
    network = _network(header["origin"]["network"])
    return fields.Room(file_bytes, max_weights, 0 if network is None else network.size() or 0)


def _check_origin_keys(header: Any) -> None:
    named = isinstance(header, dict) and header.get("kind") == "base"
    fields.keys(header, _ORIGIN | ({"base"} if named else set()), "origin")


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
    _check_origin_keys(header)
    if header["kind"] not in get_args(Kind):
        raise TicketError(f"origin kind {show(header['kind'])} is unknown; known are {', '.join(get_args(Kind))}")
    named = header["kind"] == "base"
    if not named and (header["kind"] == "stored") != bool(tensors):
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
        base=fields.names(header["base"]) if named else None,
    )
