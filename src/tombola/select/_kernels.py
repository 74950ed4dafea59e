"""The compiled loops of `topk`, on flat numpy arrays of any number type. Importing this imports numba.

Every function works on one contiguous piece and holds no lock, so that the caller may run pieces in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    try:
        return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder for the cache can be written
        return numba.njit(nogil=True)(function)  # type: ignore[no-any-return]


@_compiled
def split(x: Array, low: Any, high: Any, inside: Array, counts: Array) -> None:
    """Count x against a bracket, and copy what lies strictly inside it to `inside` (as long as x + 1).

    counts[:] = (above high, equal to high, strictly inside, equal to low, NaN).
    """
    above = 0
    at_high = 0
    at_low = 0
    nans = 0
    found = 0
    n = x.size
    step = 2048  # stays in the first cache between the two loops
    for start in range(0, n, step):
        piece = x[start : min(start + step, n)]
        a = np.int32(0)
        h = np.int32(0)
        o = np.int32(0)
        m = np.int32(0)
        for i in range(piece.size):
            v = piece[i]
            a += np.int32(v > high)
            h += np.int32(v == high)
            o += np.int32(v == low)
            m += np.int32(v != v)
        above += a
        at_high += h
        at_low += o
        nans += m
        for i in range(piece.size):
            v = piece[i]
            inside[found] = v
            found += (v > low) & (v < high)
    counts[0] = above
    counts[1] = at_high
    counts[2] = found
    counts[3] = at_low
    counts[4] = nans


@_compiled
def count_equal(x: Array, value: Any) -> int:
    found = 0
    for i in range(x.size):
        found += x[i] == value
    return found


@_compiled
def count_nan(x: Array) -> int:
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
    return int(x.size)


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
