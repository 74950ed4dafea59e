"""The compiled loops of `topk`, on flat numpy arrays of any number type. Importing this imports numba.

Every function works on one contiguous piece and lets go of the lock, so that the caller may run pieces in
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder for the cache can be written
        return cast(F, numba.njit(nogil=True)(function))


@_compiled
def _outside(x: Array, low: Any, high: Any) -> tuple[Any, Any]:
    """(how many are above high, how many below low); short x only: narrow counters make wide vectors."""
    above = np.uint32(0)
    below = np.uint32(0)
    for i in range(x.size):
        above = np.uint32(above + np.uint32(x[i] > high))
        below = np.uint32(below + np.uint32(x[i] < low))
    return np.int64(above), np.int64(below)


@_compiled
def _gather(x: Array, low: Any, high: Any, inside: Array, found: Any) -> Any:
    """Append low <= x <= high to `inside` without a branch, since none could be predicted."""
    for i in range(x.size):
        v = x[i]
        inside[found] = v
        found += np.uint64((v >= low) & (v <= high))
    return found


@_compiled
def split(x: Array, low: Any, high: Any, inside: Array) -> tuple[int, int, int]:
    """(how many are above high, inside, NaN); those inside low..high are copied to `inside`.

    Room is needed for one block (4,096) more than there are inside; (-1, 0, 0) where `inside` is too short.
    """
    above = 0
    below = 0
    found = np.uint64(0)
    for start in range(0, x.size, 4096):  # a block stays in the first cache between the two loops
        if int(np.int64(found)) + 4096 > inside.size:
            return -1, 0, 0
        piece = x[start : start + 4096]
        a, b = _outside(piece, low, high)
        above += a
        below += b
        found = _gather(piece, low, high, inside, found)
    between = int(np.int64(found))
    return above, between, x.size - above - below - between


@_compiled
def count_equal(x: Array, value: Any) -> int:
    """How many elements equal `value`."""
    found = 0
    for i in range(x.size):
        found += x[i] == value
    return found


@_compiled
def count_nan(x: Array) -> int:
    """How many elements are NaN."""
    found = 0
    for i in range(x.size):
        found += x[i] != x[i]
    return found


@_compiled
def after_equal(x: Array, value: Any, wanted: int) -> int:
    """The index just behind the `wanted`-th element equal to `value` (wanted >= 1)."""
    found = 0
    for i in range(x.size):
        found += x[i] == value
        if found == wanted:
            return i + 1
    return x.size


@_compiled
def write_from(x: Array, value: Any, out: Array) -> None:
    """out = x >= value."""
    for i in range(x.size):
        out[i] = x[i] >= value


@_compiled
def write_above(x: Array, value: Any, out: Array) -> None:
    """out = x > value."""
    for i in range(x.size):
        out[i] = x[i] > value
