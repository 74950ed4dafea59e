"""An input for a network, made from what a ticket records, where the user has none at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.ticket.ticket import Ticket


def example_input(ticket: Ticket, batch: int, shape: Sequence[int] | None = None) -> Tensor:
    """Standard normal values, (batch, *shape), always the same: float32, or what the ticket's stored weights are.

    `shape`: of one input, without the batch; None: what the ticket records.

    Raises:
        TombolaError: no shape is given or recorded, or one that is none, or a batch below 1.
    """
    recorded = ticket.origin.network.input_shape if ticket.origin.network else None
    chosen = tuple(shape) if shape else recorded
    if chosen is None:
        raise TombolaError(
            "the ticket does not record its network's input shape; give one: input_shape, e.g. [3, 32, 32]"
        )
    if not all(1 <= size < 2**31 for size in (batch, *chosen)):
        raise TombolaError(f"batch {batch} of inputs of shape {list(chosen)}; all sizes must be 1 or more, below 2^31")
    known = ticket.origin.views()
    dtype = next((known[name].dtype for name in ticket.mask if name in known), torch.float32)
    draw = torch.Generator("cpu").manual_seed(0)
    return torch.randn(batch, *chosen, generator=draw, dtype=torch.float32, device="cpu").to(dtype)
