"""What a number of 8 bits stands for, and weights as 8-bit integers with a step for each output row.

An activation is step · (q - zero), q from 0 to 255; a weight of row r is step[r] · w, w from -127 to 127. A row's step
is the smallest at which no sum of two neighbouring products in a group of four, q0·w0 + q1·w1 and q2·w2 + q3·w3, leaves
16 bits: what adds them up in 16 bits, as AVX2 does, is then exact. For that |w0| + |w1| <= 127 before rounding, so at
most 128 after it, and 255 · 128 < 2^15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tombola.errors import TombolaError

LEVELS = 255
"""The largest activation."""
LARGEST = 127
"""The largest size of a weight, and of two neighbours together before they are rounded."""
GROUP = 4


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An activation q stands for step · (q - zero). `step`: a float32.

    Raises:
        TombolaError: no such step.
    """

    step: float
    zero: Annotated[int, Meta(ge=0, le=LEVELS)]

    def __post_init__(self) -> None:
        single = float(np.float32(self.step)) if abs(self.step) < 2**120 else 0.0
        if not single > 2**-120 or single != self.step:
            raise TombolaError(f"a step of {self.step}; give a float32 above 2^-120 and below 2^120")


def scale_of(low: float, high: float) -> Scale:
    """The scale for values from `low` to `high`, which has 0 exactly.

    >>> scale_of(-1.0, 1.55)
    Scale(step=0.009999999776482582, zero=100)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not math.isfinite(low) or not math.isfinite(high):
        raise TombolaError(f"values from {low} to {high} have no scale; calibrate on finite ones")
    step = float(np.float32(max((high - low) / LEVELS, 2.0**-100)))
    return Scale(step, min(LEVELS, round(-low / step)))


@dataclass(frozen=True, eq=False)
class Rows:
    """A weight in 8 bits. `values`: int8 (out, in). `steps`: float32 (out,)."""

    values: NDArray[np.int8]
    steps: NDArray[np.float32]


def rows_of(weight: NDArray[np.float32], lane: NDArray[np.int64]) -> Rows:
    """Round a weight (out, in) to the nearest, half to even.

    Args:
        lane: (in,) the place of each column among four times the number of groups: group · 4 + place in it.

    Raises:
        TombolaError: weights that are not finite, or a row whose sums could leave 32 bits.
    """
    if not np.isfinite(weight).all():
        raise TombolaError("weights that are not finite have no 8-bit numbers")
    placed = np.zeros((len(weight), -(-(int(lane.max(initial=0)) + 1) // GROUP) * GROUP), np.float32)
    placed[:, lane] = np.abs(weight)
    pairs = placed[:, 0::2] + placed[:, 1::2]
    steps = (pairs.max(1, initial=0) / np.float32(LARGEST)).astype(np.float32)
    steps[steps < 2.0**-120] = 1.0  # a row of zeros
    values = np.clip(np.rint(weight / steps[:, None]), -LARGEST, LARGEST).astype(np.int8)
    if (LEVELS * np.abs(values.astype(np.int64)).sum(1)).max(initial=0) >= 2**30:
        raise TombolaError("a row has so many weights that its sum could leave 32 bits")
    return Rows(values, steps)
