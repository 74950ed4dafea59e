"""Any network with zeros as a small file, without a search: a ticket that holds no origin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TicketError, TombolaError
from tombola.fields import checked, described
from tombola.mask import Mask
from tombola.parameters import unwrap
from tombola.ticket.omit import without_origin
from tombola.ticket.origin import NetworkSpec, Origin
from tombola.ticket.tensors import tensors_of
from tombola.ticket.ticket import Ticket

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@checked
@torch.no_grad()
def pack(
    model: nn.Module | Mapping[str, Tensor],
    provenance: Mapping[str, Any] | None = None,
    *,
    network: NetworkSpec | None = None,
) -> Ticket:
    """The network as a ticket, to be saved and built, bit for bit: its mask is where its weights are not 0.

    Masked are all floating-point tensors of two dimensions or more that have zeros; a weight of -0.0 counts as kept.
    Everything else is held as it is. `Ticket.save(path, values="float16")` rounds the kept weights.

    Args:
        model: a network with plain weights, or the dict of its tensors.
        provenance: JSON-able data about it, e.g. {"accuracy": 0.93}; under "input_shape" the shape of one input, such
            as [3, 224, 224], which `deploy` then knows.
        network: how the network is built by name, for the ticket to record: `build` then takes `trusted` for `model`.

    Raises:
        TombolaError: it has no weight that is 0, or nothing but zeros in all of them.
        TicketError: an entry is no tensor with values.
    """
    if not isinstance(model, nn.Module | Mapping):
        raise TombolaError(f"model is {described(model)}; give a network, or the dict of its tensors")
    state = tensors_of(unwrap(model)) if isinstance(model, nn.Module) else dict(model)
    origin = Origin.stored(state, network=network)
    weights = {name: value for name, value in (origin.tensors or {}).items() if may_be_masked(value)}
    masks = {name: kept for name, value in weights.items() if not bool((kept := kept_in(value)).all())}
    check_zeros(masks)
    told = {"method": {"name": "pack"}, **(provenance or {})}
    whole = Ticket.from_models(origin=origin, mask=Mask(masks), final_state=state, provenance=told)
    return replace(whole, **without_origin(whole))  # no whole ticket ever was, to be named by its digest


@checked
@torch.no_grad()
def unpack(ticket: Ticket | str | os.PathLike[str], *, max_weights: int | None = None) -> dict[str, Tensor]:
    """The tensors of a packed network, by name, on the CPU; of kept weights that were rounded, in the file's dtype.

    Args:
        ticket: what `pack` gave, or its file; another ticket needs its network: `Ticket.build`.
        max_weights: as of `Ticket.load`.

    Raises:
        TicketError: a damaged file, or a ticket with an origin.
    """
    held = ticket if isinstance(ticket, Ticket) else Ticket.load(ticket, max_weights=max_weights)
    check_whole(held.origin.omitted and not held.rewrites)
    masked = {name: weight_of(held, name, keep) for name, keep in held.mask.items()}
    state = {**held.state, **masked}
    return state | {alias: state[owner] for alias, owner in (*held.origin.tied.items(), *held.tied.items())}


def check_whole(whole: bool) -> None:
    """TicketError unless the ticket's file holds all of the network."""
    if not whole:
        raise TicketError("the ticket's weights are not all in its file; build it: Ticket.build()")


def check_zeros(masks: Mapping[str, object]) -> None:
    """TombolaError if no layer is masked."""
    if not masks:
        raise TombolaError("no weight of the network is 0, so that there is nothing to pack; prune it first")


def may_be_masked(value: Tensor) -> bool:
    """Whether a tensor is masked if it has zeros."""
    return value.is_floating_point() and value.dim() > 1


def kept_in(value: Tensor) -> Tensor:
    """Where it is not +0."""
    own = value.detach().to("cpu").contiguous()
    return own.view(_WORDS[own.element_size()]) != 0  # of no float kind but 0 are all bits


def weight_of(ticket: Ticket, name: str, keep: Tensor) -> Tensor:
    """A masked weight of a ticket without an origin, in the dtype of the file's values."""
    trained, scale = (ticket.trained or {})[name], ticket.representation.scales.get(name)
    steps = (ticket.steps or {}).get(name)
    dtype = next(tensor.dtype for tensor in (scale, steps, trained) if tensor is not None)
    return ticket.effective(name, torch.zeros(keep.shape, dtype=dtype, device="cpu"), trained)
