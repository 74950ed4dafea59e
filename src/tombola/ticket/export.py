"""A ticket's network as a plain state_dict, for any other program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from tombola.models.checkpoint import check_suffix, separate, write_state
from tombola.ticket.ticket import Ticket, Weights


def export_state(
    ticket: Ticket,
    path: Path,
    *,
    weights: Weights = "final",
    model: nn.Module | None = None,
    trusted: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Write the state_dict of `ticket.build(weights)`: a plain network, pruned weights as zeros.

    The suffix decides the format: .safetensors (tied tensors are written once per name), .pt or .pth
    (torch.save, readable with weights_only). Returns what was written, on the CPU.

    Raises:
        TombolaError: another suffix, or the file cannot be written; TicketError: the network cannot be built.
    """
    check_suffix(path)
    built = ticket.build(weights, model=model, trusted=trusted)
    state = separate(built.state_dict())
    write_state(path, state)
    return state
