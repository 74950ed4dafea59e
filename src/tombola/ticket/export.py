"""A ticket's network as a plain state_dict, for any other program."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.runs.atomic import write_bytes
from tombola.ticket.ticket import Ticket, Weights

SUFFIXES = (".safetensors", ".pt", ".pth")


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
    if path.suffix not in SUFFIXES:
        problem = "is a folder" if path.is_dir() else f"ends in {path.suffix!r}" if path.suffix else "has no ending"
        raise TombolaError(f"{path} {problem}; name a file that ends in {', '.join(SUFFIXES)}")
    built = ticket.build(weights, model=model, trusted=trusted)
    state = {name: value.detach().cpu().clone().contiguous() for name, value in built.state_dict().items()}
    write_bytes(path, _bytes(state, path.suffix))
    return state


def _bytes(state: dict[str, Tensor], suffix: str) -> bytes:
    if suffix == ".safetensors":
        return safetensors.torch.save(state)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
