"""A ticket that names its base by content instead of holding it: a task costs its mask, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tombola.errors import TicketError
from tombola.ticket import base as bases
from tombola.ticket.origin import Origin
from tombola.ticket.tensors import first_few, same_bits, show
from tombola.ticket.ticket_data import TicketData


def on_base(
    ticket: TicketData, base: bases.Base, model: nn.Module | None = None, trusted: Sequence[str] = ()
) -> dict[str, Any]:
    """The fields of `ticket` that change when `base` has its origin's weights; {} where it names that base already.

    Tensors that the base has bit for bit are named by their hashes. Of the others masked weights stay with the origin,
    and everything else moves to `state`, as it was trained.

    Raises:
        TicketError: the base has no masked weight of the ticket, or the ticket has no origin.
    """
    origin, values = ticket.origin, bases.completed(bases.state_of(base), ticket.origin.tied)
    if origin.base is not None:
        bases.check_base(origin.base, str(origin.weights_hash), values)
        return {}
    whole = origin.state_dict(model, trusted)
    same = [name for name, value in whole.items() if name in values and _same(values[name], value)]
    if not any(name in ticket.mask for name in same):
        listed = first_few([show(name) for name in ticket.mask])
        raise TicketError(
            f"the base has none of the ticket's masked weights ({listed}) as they were before training; give the "
            "checkpoint that the search started from"
        )
    rest = {
        name: ticket.state.get(name, value)
        for name, value in whole.items()
        if name not in same and name not in ticket.mask and name not in ticket.tied
    }
    once = {alias: owner for alias, owner in origin.tied.items() if alias in rest and _again(rest, alias, owner)}
    hashes = {name: bases.content_hash(whole[name]) for name in same}
    named = Origin(
        network=origin.network,
        init=origin.init,
        init_args=origin.init_args,
        seed=origin.seed,
        tensors={name: whole[name] for name in ticket.mask if name not in hashes} or None,
        tied=once | {alias: owner for alias, owner in origin.tied.items() if alias in hashes and owner in hashes},
        weights_hash=bases.combined(hashes),
        base={name: digest[: bases.SHORT] for name, digest in hashes.items()},
    )
    state = {**ticket.state, **{name: value for name, value in rest.items() if name not in once}}
    return {"origin": named, "state": {name: value for name, value in state.items() if name not in once}}


def _same(given: Tensor, value: Tensor) -> bool:
    return given.shape == value.shape and same_bits(given, value)


def _again(values: Mapping[str, Tensor], alias: str, owner: str) -> bool:
    """Whether an alias has what its owner has."""
    return owner in values and same_bits(values[alias], values[owner])
