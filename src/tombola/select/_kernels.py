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


@_compiled
def _flag(x: Array, low: Any, high: Any, magnitude: bool, over: Array, inside: Array) -> int:
    """over = x > high, inside = neither above high nor below low (so a NaN is inside); how many are over.

    The two loops differ in the absolute value alone: a test within would keep them from becoming vectors.
    """
    above = np.uint32(0)
    if magnitude:
        for i in range(x.size):
            v = abs(x[i])
            over[i] = v > high
            inside[i] = (not (v > high)) & (not (v < low))
            above = np.uint32(above + np.uint32(v > high))
    else:
        for i in range(x.size):
            v = x[i]
            over[i] = v > high
            inside[i] = (not (v > high)) & (not (v < low))
            above = np.uint32(above + np.uint32(v > high))
    return int(np.int64(above))


@_compiled
def mark(
    x: Array, start: int, stop: int, low: float, high: float, magnitude: bool, out: Array, values: Array, places: Array
) -> tuple[int, int]:
    """Of x[start:stop], or its absolute values: (how many are above high, how many inside low..high or NaN).

    Writes out[start:stop] = x > high, and appends those inside to `values` and their indices to `places`.
    (-1, 0) where these are too short, by up to one block (2,048).
    """
    low, high = x.dtype.type(low), x.dtype.type(high)
    inside = np.zeros(2048, np.bool_)
    eights = inside.view(np.uint64)  # few are inside: most are passed over eight at a time
    above = 0
    found = 0
    for first in range(start, stop, 2048):  # a block stays in the first cache between the loops
        last = min(first + 2048, stop)
        if found + last - first > values.size:
            return -1, 0
        inside[last - first :] = False
        above += _flag(x[first:last], low, high, magnitude, out[first:last], inside)
        for eight in range(eights.size):
            if eights[eight]:
                for i in range(8 * eight, 8 * eight + 8):
                    if inside[i]:
                        values[found] = abs(x[first + i]) if magnitude else x[first + i]
                        places[found] = first + i
                        found += 1
    return above, found


@_compiled
def _kth_largest(values: Array, k: int) -> Any:
    """By Hoare's selection, for a few values without NaN."""
    v = values.copy()
    place = v.size - k
    first, last = 0, v.size - 1
    while first < last:
        pivot = v[(first + last) // 2]
        i, j = first, last
        while i <= j:
            while v[i] < pivot:
                i += 1
            while v[j] > pivot:
                j -= 1
            if i <= j:
                v[i], v[j] = v[j], v[i]
                i += 1
                j -= 1
        if place <= j:
            last = j
        elif place >= i:
            first = i
        else:
            break
    return v[place]


@_compiled
def settle(values: Array, places: Array, k: int, out: Array) -> tuple[float, int, int, float, float]:
    """out[places] = whether the value there is among the k largest of `values`, ties to the first in `places`.

    (the k-th largest value, how many ties with it are kept, how many there are, the least and the largest of
    `values`); 0 ties, and nothing written, unless 0 < k <= values.size and none is NaN.
    """
    if not 0 < k <= values.size or count_nan(values) > 0:
        return 0.0, 0, 0, 0.0, 0.0
    value = _kth_largest(values, k)
    least = most = value
    higher = 0
    equal = 0
    for v in values:
        higher += v > value
        equal += v == value
        least = min(least, v)
        most = max(most, v)
    left = k - higher
    for i in range(values.size):
        tie = values[i] == value
        out[places[i]] = (values[i] > value) | (tie & (left > 0))
        left -= tie
    return float(value), k - higher, equal, float(least), float(most)


@_compiled
def choose(
    x: Array, k: int, low: float, high: float, magnitude: bool, room: int, out: Array
) -> tuple[float, int, int, float, float, int]:
    """`mark` and `settle` in one call, for one thread; as `settle`, and how many were inside."""
    values, places = np.empty(room, x.dtype), np.empty(room, np.int64)
    above, found = mark(x, 0, x.size, low, high, magnitude, out, values, places)
    value, kept, equal, least, most = settle(values[:found], places[:found], k - above, out)
    return value, kept, equal, least, most, found
