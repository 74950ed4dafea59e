"""An example input for a network, from what its ticket records."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.ticket.ticket import Ticket

MAX_VALUES = 2**24
"""Of one input whose shape comes from a ticket, not from the user."""


def recorded_shape(ticket: Ticket) -> tuple[int, ...] | None:
    """The shape of one input, without the batch, that the ticket records: with its network, or in its provenance."""
    network, told = ticket.origin.network, ticket.provenance.get("input_shape")
    if network is not None and network.input_shape is not None:
        return network.input_shape
    if isinstance(told, list) and told and all(type(size) is int for size in told):
        return tuple(told)
    return None


def example_input(ticket: Ticket, batch: int, shape: Sequence[int] | None = None) -> Tensor:
    """Standard normal values, (batch, *shape), always the same: float32, or the dtype of the ticket's stored weights.

    `shape`: of one input, without the batch; None: what the ticket records.

    Raises:
        TombolaError: no shape is given or recorded, a size or a batch below 1; a recorded shape of more
            than `MAX_VALUES` values.
    """
    recorded = recorded_shape(ticket)
    chosen = tuple(shape) if shape else recorded
    if chosen is None:
        raise TombolaError(
            "the ticket does not record its network's input shape; give one: input_shape, e.g. [3, 32, 32]"
        )
    _check_sizes(batch, chosen)
    if not shape and math.prod(chosen) > MAX_VALUES:
        raise TombolaError(
            f"the ticket records inputs of shape {list(chosen)[:8]}, {math.prod(chosen):,} values; at most "
            f"{MAX_VALUES:,} are made unasked: give the shape yourself (input_shape)"
        )
    known = ticket.origin.views()
    dtype = next((known[name].dtype for name in ticket.mask if name in known), torch.float32)
    return random_input(batch, chosen).to(dtype)


def random_input(batch: int, shape: Sequence[int]) -> Tensor:
    """Standard normal values, (batch, *shape), always the same: float32.

    Raises:
        TombolaError: a size or a batch below 1.
    """
    _check_sizes(batch, shape)
    draw = torch.Generator("cpu").manual_seed(0)
    return torch.randn(batch, *shape, generator=draw, dtype=torch.float32, device="cpu")


def _check_sizes(batch: int, shape: Sequence[int]) -> None:
    if not all(1 <= size < 2**31 for size in (batch, *shape)):
        raise TombolaError(f"batch {batch} of inputs of shape {list(shape)}; all sizes must be 1 or more, below 2^31")
