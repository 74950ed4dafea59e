"""Checks of the values in a ticket's file: each returns its value, or raises a TicketError."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket.tensors import check_name, count_kept, show

FREE_WEIGHTS = 2**24  # weights that any file may claim
WEIGHTS_PER_BYTE = 256  # and more for each byte of the file
_SIZE_LIMIT = 2**48


def keys(value: Any, allowed: set[str], what: str) -> dict[str, Any]:
    """A JSON object with exactly the keys `allowed`."""
    if not isinstance(value, dict):
        raise TicketError(f"the ticket's {what} is not a JSON object")
    odd = sorted(value.keys() ^ allowed)
    if odd:
        state = "missing from" if odd[0] in allowed else "unknown in"
        raise TicketError(f"{show(odd[0])} is {state} the ticket's {what}; expected are {sorted(allowed)}")
    return value


def text(value: Any, what: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TicketError(f"the ticket's {what} is {show(value)}, not a string")
    return value


def count(value: Any, limit: int, what: str) -> int:
    """A whole number from 0 to `limit`."""
    if type(value) is not int or not 0 <= value <= limit:
        raise TicketError(f"the ticket's {what} is {show(value)}, not a whole number from 0 to {limit}")
    return value


def names(value: Any) -> dict[str, str]:
    """Names by alias."""
    if not isinstance(value, dict):
        raise TicketError("the ticket's ties are not a JSON object")
    return {check_name(alias): check_name(owner) for alias, owner in value.items()}


def entries(value: Any, allowed: set[str], what: str) -> list[dict[str, Any]]:
    """A list of objects with exactly the keys `allowed`."""
    if not isinstance(value, list):
        raise TicketError(f"the ticket's {what} are not a list")
    return [keys(entry, allowed, f"entry of {what}") for entry in value]


def shape(value: Any, name: str, *, empty: bool) -> tuple[int, ...]:
    """The shape of a tensor of at most 2^48 entries; with `empty`, a size may be 0."""
    smallest = 0 if empty else 1
    whole = isinstance(value, list) and len(value) <= 64 and all(type(n) is int for n in value)
    if not whole or not all(smallest <= n < _SIZE_LIMIT for n in value) or math.prod(value) >= _SIZE_LIMIT:
        what = "tensor" if empty else "weight"
        raise TicketError(f"{show(name)} has shape {show(value)}, which is no {what}'s shape")
    return tuple(value)


@dataclass(frozen=True)
class Room:
    """How many weights memory is taken for, since a few bytes can claim any number.

    `network`: how many numbers the network that the ticket names has, as far as is known. `max_weights`: the
    caller's limit instead of 2^24 and 256 for each byte of the file.
    """

    file_bytes: int
    max_weights: int | None = None
    network: int = 0

    @property
    def limit(self) -> int:
        """The most weights."""
        free = FREE_WEIGHTS + WEIGHTS_PER_BYTE * self.file_bytes
        return free if self.max_weights is None else self.max_weights

    def claimed(self, shapes: Iterable[Sequence[int]]) -> int:
        """How many weights a ticket claims whose masks have these shapes."""
        return max(self.network, sum(math.prod(shape) for shape in shapes))

    def check(self, shapes: Iterable[Sequence[int]]) -> None:
        """TicketError if the ticket claims more weights than the limit."""
        if (claimed := self.claimed(shapes)) > self.limit:
            raise TicketError(
                f"the ticket claims {claimed:,} weights in a file of {self.file_bytes:,} bytes; at most {self.limit:,} "
                f"are read; if you trust it, load it with max_weights={claimed}"
            )


def check_kept(name: str, keep: Tensor, stated: Any) -> None:
    """TicketError unless the mask keeps as many as its header says."""
    if type(stated) is not int or count_kept(keep) != stated:
        raise TicketError(f"the mask of {show(name)} keeps {count_kept(keep)}, its header says {show(stated)}")


def check_bool(name: str, tensor: Tensor) -> None:
    """TicketError if a bool tensor holds other bytes than 0 and 1."""
    if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise TicketError(f"tensor {show(name)} is bool but holds other bytes than 0 and 1")
