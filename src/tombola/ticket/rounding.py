"""Trained values in fewer bits than the network's own."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.ticket.quantised import dequantised, quantised, rows_of
from tombola.ticket.tensors import show
from tombola.ticket.ticket_data import TicketData

Values = Literal["float32", "float16", "bfloat16", "int8"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}


class Rounded(NamedTuple):
    """Kept values of a layer, 1-D, and for int8 the steps of its rows."""

    kept: Tensor
    steps: Tensor | None = None


def check_values(values: object) -> None:
    """TicketError unless it is one of `Values`."""
    if values not in get_args(Values):
        raise TicketError(f"values {show(values)} is unknown; use one of {get_args(Values)}")


def rounded(ticket: TicketData, values: Values) -> dict[str, Any] | None:
    """The fields of `ticket` that change when its trained values take `values`; None if all are as narrow already.

    To nearest, ties to even; signs and values as narrow or narrower stay, as do the state and the origin. int8 has a
    step for each row (see `quantised`); layers that would be no smaller stay. The provenance records `values`, and for
    int8 the largest error of a value. A network built of the ticket has its own dtype, with the rounded values.

    Raises:
        TicketError: `values` is unknown, a finite value has no finite neighbour in it, or for int8 one is not finite.
    """
    check_values(values)
    trained, steps = dict(ticket.trained or {}), dict(ticket.steps or {})
    largest = 0.0
    for name, value in trained.items():
        narrow = rounded_kept(name, value, ticket.mask[name], values)
        if narrow is None:
            continue
        if narrow.steps is not None:
            steps[name] = narrow.steps
            largest = max(largest, error_of(value, narrow, ticket.mask[name]))
        trained[name] = narrow.kept
    if all(trained[name] is value for name, value in (ticket.trained or {}).items()):
        return None
    told = {"values": values, **({"values_error": largest} if values == "int8" else {})}
    return {"trained": trained, "steps": steps or None, "provenance": {**ticket.provenance, **told}}


def rounded_kept(name: str, kept: Tensor, keep: Tensor, values: Values) -> Rounded | None:
    """Kept values of one layer, 1-D, in `values`; None if they stay as they are.

    Raises:
        TicketError: a value has no finite neighbour.
    """
    target = _DTYPES[values]
    if not kept.is_floating_point() or kept.itemsize <= target.itemsize:
        return None
    if values == "int8":
        if kept.numel() + 4 * rows_of(keep.shape) >= kept.nbytes:
            return None
        if not bool(kept.isfinite().all()):
            raise TicketError(f"{show(name)} has values that are not finite, which int8 cannot hold; use float16")
        if not bool((kept.abs() < torch.finfo(torch.float32).max).all()):
            raise TicketError(f"{show(name)} has values up to {float(kept.abs().max()):g}, beyond float32; use float64")
        return Rounded(*quantised(kept, keep))
    value = kept.to(target)
    if bool((value.isinf() & kept.isfinite()).any()):
        largest, limit = float(kept.abs().max()), torch.finfo(target).max
        raise TicketError(
            f"{show(name)} has values up to {largest:g}, {values} ends at {limit:g}; use bfloat16 or float32"
        )
    return Rounded(value)


def error_of(kept: Tensor, narrow: Rounded, keep: Tensor) -> float:
    """The largest difference between kept values and what int8 holds of them."""
    assert narrow.steps is not None
    if not kept.numel():
        return 0.0
    return float((dequantised(narrow.kept, narrow.steps, keep) - kept.double()).abs().max())


def is_rounded(value: Tensor, weight: Tensor) -> bool:
    """True if `value` has a dtype that `rounded` may have given the trained values of `weight`, int8 aside."""
    return (
        value.is_floating_point()
        and value.dtype in _DTYPES.values()
        and (weight.is_floating_point() and value.itemsize < weight.itemsize)
    )
