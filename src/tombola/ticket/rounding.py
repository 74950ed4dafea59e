"""Trained values in fewer bits than the network's own."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket.tensors import show
from tombola.ticket.ticket_data import TicketData

Values = Literal["float32", "float16", "bfloat16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def rounded(ticket: TicketData, values: Values) -> dict[str, Any] | None:
    """The fields of `ticket` that change when its trained values take `values`; None if all are as narrow already.

    To nearest, ties to even; signs and values as narrow or narrower stay, as do the state and the origin. The
    provenance records `values`. A network built of the ticket has its own dtype, with the rounded values.

    Raises:
        TicketError: `values` is unknown, or a finite value has no finite neighbour in it.
    """
    if values not in get_args(Values):
        raise TicketError(f"values {show(values)} is unknown; use one of {get_args(Values)}")
    target, trained = _DTYPES[values], dict(ticket.trained or {})
    wider = [name for name, value in trained.items() if value.is_floating_point() and value.itemsize > target.itemsize]
    if not wider:
        return None
    for name in wider:
        value = trained[name].to(target)
        if bool((value.isinf() & trained[name].isfinite()).any()):
            largest, limit = float(trained[name].abs().max()), torch.finfo(target).max
            raise TicketError(
                f"{show(name)} has values up to {largest:g}, {values} ends at {limit:g}; use bfloat16 or float32"
            )
        trained[name] = value
    return {"trained": trained, "provenance": {**ticket.provenance, "values": values}}


def is_rounded(value: Tensor, weight: Tensor) -> bool:
    """True if `value` has a dtype that `rounded` may have given the trained values of `weight`."""
    return value.dtype in _DTYPES.values() and weight.is_floating_point() and value.itemsize < weight.itemsize
