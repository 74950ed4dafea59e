"""Where a layer's weight is kept, and what kernels ask of that; each is found once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Nonzeros:
    """Of a weight (out, in, *kernel) of any float dtype, which is computed in float32."""

    weight: Tensor
    _read: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """The values, (out, in · kernel)."""
        flat: NDArray[np.float32] = self.weight.detach().to("cpu", torch.float32).flatten(1).contiguous().numpy()
        return flat

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where they are not 0, (out, in · kernel)."""
        kept: NDArray[np.bool_] = self.matrix != 0
        return kept

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return int(np.count_nonzero(self.mask))

    @property
    def density(self) -> float:
        """Their share of the weight, 0..1."""
        return self.count / max(1, self.matrix.size)

    @cached_property
    def constants(self) -> NDArray[np.float32] | None:
        """The one finite magnitude of each row, (out,), or of all, (1,); None where a row has several."""
        for few in (self.matrix[:1], self.matrix):  # most matrices are ruled out by their first row
            sizes = np.abs(few)
            largest = sizes.max(1, initial=0)
            if not np.all(np.isfinite(largest)[:, None] & ((sizes == largest[:, None]) | (sizes == 0))):
                return None
        used = np.unique(largest[largest > 0])
        return largest if len(used) > 1 else np.resize(used, 1) if len(used) else np.ones(1, np.float32)

    def read(self, rows: int) -> int:
        """How many weights are read when units of `rows` rows share a list: all of a unit at each of its columns."""
        if rows not in self._read:
            used = np.count_nonzero(shared(self.mask, rows), axis=1)
            used[:-1] *= rows
            used[-1] *= (len(self.mask) - 1) % rows + 1
            self._read[rows] = int(used.sum())
        return self._read[rows]

    def waste(self, rows: int, groups: int = 1) -> float:
        """How many times longer lists become when `rows` output rows share them; inf where they cannot."""
        out = len(self.mask)
        if out % rows or out // groups % rows:
            return float("inf")
        return self.read(rows) / max(1, self.count)


def shared(mask: NDArray[np.bool_], rows: int) -> NDArray[np.bool_]:
    """(units, in): where any row of each unit of `rows` rows is kept. `mask`: (out, in)."""
    kept = mask[::rows].copy()
    for row in range(1, rows):
        others = mask[row::rows]
        kept[: len(others)] |= others
    return kept
