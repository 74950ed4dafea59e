"""What became of one tensor of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Change:
    """What became of one tensor.

    `shape`: of the whole tensor. `positions`: int64, (n,), rising, of its flattened values. `values`: (n,), in the
    tensor's dtype. `base`: of what the values were, a hash (16 hex digits); "" where it is not known.
    """

    shape: tuple[int, ...]
    positions: Tensor
    values: Tensor
    base: str = ""
