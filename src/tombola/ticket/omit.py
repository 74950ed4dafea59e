"""A ticket without the weights it started from, for inference: the trained network stays, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tombola.ticket.origin import Origin
from tombola.ticket.representation import Representation, signs_of
from tombola.ticket.tensors import hash_state, same_bits
from tombola.ticket.ticket_data import TicketData, picks


class MaskedFields(NamedTuple):
    """The fields of a ticket that hold its masked layers; see `TicketData`."""

    representation: Representation
    multiplier: Mapping[str, Tensor]
    trained: Mapping[str, Tensor]
    pruned_values: Mapping[str, Tensor]
    begin: Mapping[str, Tensor]
    steps: Mapping[str, Tensor]


def masked(ticket: TicketData) -> MaskedFields:
    """The masked layers as they are, to be read beside the origin."""
    return MaskedFields(
        ticket.representation,
        ticket.multiplier or {},
        ticket.trained or {},
        ticket.pruned_values or {},
        ticket.begin or {},
        ticket.steps or {},
    )


def masked_alone(ticket: TicketData) -> MaskedFields:
    """The masked layers as they must be held where a stored origin is left out.

    Kept weights that were never trained become trained values, signs and one scale where all of a layer's have one
    magnitude; pruned weights that stay at the origin become pruned values. With a seeded origin, or
    a base, nothing changes.
    """
    base = ticket.origin.views()
    if not base or ticket.origin.base is not None:
        return masked(ticket)
    representation, multiplier, trained, pruned, begin, steps = masked(ticket)
    trained = dict(trained)
    frozen = [name for name in ticket.mask if name not in trained]
    if begin or (representation.on == "origin" and trained):  # trained values are effective: so must the others be
        trained |= {name: ticket.effective(name, base[name], None)[ticket.mask[name]] for name in frozen}
        representation, multiplier = Representation(), {}
    else:
        scales = dict(representation.scales)
        for name in frozen:
            trained[name], scale = _latent(ticket, name, base[name])
            scales |= {} if scale is None else {name: scale}
        kind = "signed_constant" if representation.kind == "identity" and scales else representation.kind
        representation = Representation(kind, scales)
    if ticket.pruned_rule == "origin":
        pruned = {name: base[name][~keep] for name, keep in ticket.mask.items()} | dict(pruned)
    picked = [name for name, values in (ticket.pruned_values or {}).items() if picks(values, base[name])]
    pruned = dict(pruned) | {name: ticket.effective(name, base[name], None)[~ticket.mask[name]] for name in picked}
    return MaskedFields(representation, multiplier, trained, pruned, {}, steps)


def _latent(ticket: TicketData, name: str, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """The kept weights of a layer that was never trained, as latent values; and a scale where these became signs."""
    kept, representation = weight[ticket.mask[name]], ticket.representation
    if representation.kind in ("signed_constant", "binary") and name in representation.scales:
        return torch.sign(kept.double()).to(torch.int8), None
    return (representation.kind == "identity" and signs_of(kept)) or (kept, None)


def without_origin(ticket: TicketData) -> dict[str, Any]:
    """The fields of `ticket` that change when its stored origin is left out; {} where none is stored (a seed or a named
    base stays).

    Everything outside the masked layers moves to `state`. The origin keeps the hash of its weights, and its ties.
    """
    base = ticket.origin.views()
    if not base or ticket.origin.base is not None:
        return {}
    values = {
        name: ticket.state.get(name, value)
        for name, value in base.items()
        if name not in ticket.mask and name not in ticket.tied
    }
    tied = {
        alias: owner
        for alias, owner in ticket.origin.tied.items()
        if alias in values and owner in values and same_bits(values[alias], values[owner])
    }
    origin = Origin(
        network=ticket.origin.network,
        init=ticket.origin.init,
        init_args=ticket.origin.init_args,
        seed=ticket.origin.seed,
        tied=tied,
        weights_hash=hash_state(base),
        omitted=True,
    )
    state = {name: value for name, value in values.items() if name not in tied}
    return {"origin": origin, "pruned_rule": "zero", "state": state, **masked_alone(ticket)._asdict()}
