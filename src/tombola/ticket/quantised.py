"""Kept values as int8 with one step per row of the weight: symmetric, to nearest, ties to even.

A row is an entry of the weight's first dimension (an output of Linear and Conv layers); a weight of fewer than two
dimensions is one row. The largest kept value of a row is 127 steps; no other differs by more than half a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 127


def rows_of(shape: Sequence[int]) -> int:
    """How many steps a weight of that shape has."""
    return shape[0] if len(shape) > 1 else 1


def quantised(kept: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 numbers of steps, float32 steps (rows,)) of finite kept values (1-D, in flat order) under a mask.

    A row whose step is below what float32 holds becomes 0.
    """
    counts = _counts(keep)
    wide = kept.double()
    largest = torch.segment_reduce(wide.abs(), "max", lengths=counts, initial=0.0)
    steps = (largest / LARGEST).float()
    each = steps.double().repeat_interleave(counts)
    numbers = torch.where(each > 0, wide / each, 0.0).round().clamp(-LARGEST, LARGEST)
    return numbers.to(torch.int8), steps


def dequantised(numbers: Tensor, steps: Tensor, keep: Tensor) -> Tensor:
    """The values that int8 numbers of steps stand for: float64, where the product is exact."""
    return numbers.double() * steps.double().repeat_interleave(_counts(keep))


def _counts(keep: Tensor) -> Tensor:
    """How many weights each row keeps."""
    rows = rows_of(keep.shape)
    return keep.reshape(rows, math.prod(keep.shape) // max(rows, 1)).sum(1)
