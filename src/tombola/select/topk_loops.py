"""The compiled loops of `topk`, on flat numpy arrays of any number type. Importing this imports numba.

Every function works on one contiguous piece and releases the GIL, so that the caller may run pieces in
threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tombola.machine.compiled import compiled

Array = np.ndarray[Any, Any]


@compiled
def _outside(x: Array, low: Any, high: Any) -> tuple[Any, Any]:
    """(how many are above high, how many below low); short x only: narrow counters make wide vectors."""
    above = np.uint32(0)
    below = np.uint32(0)
    for i in range(x.size):
        above = np.uint32(above + np.uint32(x[i] > high))
        below = np.uint32(below + np.uint32(x[i] < low))
    return np.int64(above), np.int64(below)


@compiled
def _gather(x: Array, low: Any, high: Any, inside: Array, filled: Any) -> Any:
    """Append low <= x <= high to `inside` without a branch, since it could not be predicted."""
    for i in range(x.size):
        v = x[i]
        inside[filled] = v
        filled += np.uint64((v >= low) & (v <= high))
    return filled


@compiled
def split(x: Array, low: Any, high: Any, inside: Array) -> tuple[int, int, int]:
    """(how many are above high, inside, NaN); those inside low..high are copied to `inside`.

    `inside` must have room for one block (4,096) more than it takes; (-1, 0, 0) where it is too short.
    """
    above = 0
    below = 0
    filled = np.uint64(0)
    for start in range(0, x.size, 4096):  # a block stays in the L1 cache between the two loops
        if int(np.int64(filled)) + 4096 > inside.size:
            return -1, 0, 0
        piece = x[start : start + 4096]
        a, b = _outside(piece, low, high)
        above += a
        below += b
        filled = _gather(piece, low, high, inside, filled)
    between = int(np.int64(filled))
    return above, between, x.size - above - below - between


@compiled
def count_equal(x: Array, value: Any) -> int:
    """How many elements equal `value`."""
    count = 0
    for i in range(x.size):
        count += x[i] == value
    return count


@compiled
def count_nan(x: Array) -> int:
    """How many elements are NaN."""
    count = 0
    for i in range(x.size):
        count += x[i] != x[i]
    return count


@compiled
def after_equal(x: Array, value: Any, wanted: int) -> int:
    """The index just after the `wanted`-th element equal to `value` (wanted >= 1)."""
    count = 0
    for i in range(x.size):
        count += x[i] == value
        if count == wanted:
            return i + 1
    return x.size


@compiled
def write_from(x: Array, value: Any, out: Array) -> None:
    """out = x >= value."""
    for i in range(x.size):
        out[i] = x[i] >= value


@compiled
def write_above(x: Array, value: Any, out: Array) -> None:
    """out = x > value."""
    for i in range(x.size):
        out[i] = x[i] > value


@compiled
def _flag(x: Array, low: Any, high: Any, magnitude: bool, over: Array, inside: Array) -> int:
    """over = x > high, inside = neither above high nor below low (so a NaN is inside); how many are over.

    The two loops differ in the absolute value alone: a test inside the loop would prevent vectorisation.
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


@compiled
def mark(
    x: Array,
    start: int,
    stop: int,
    low: float,
    high: float,
    magnitude: bool,
    out: Array,
    values: Array,
    positions: Array,
) -> tuple[int, int]:
    """Of x[start:stop], or its absolute values: (how many are above high, how many inside low..high or NaN).

    Writes out[start:stop] = x > high, and appends those inside to `values` and their indices to `positions`.
    (-1, 0) where these are too short, by up to one block (2,048).
    """
    low, high = x.dtype.type(low), x.dtype.type(high)
    inside = np.zeros(2048, np.bool_)
    eights = inside.view(np.uint64)  # few are inside: most are skipped eight at a time
    above = 0
    filled = 0
    for first in range(start, stop, 2048):  # a block stays in the L1 cache between the loops
        last = min(first + 2048, stop)
        if filled + last - first > values.size:
            return -1, 0
        inside[last - first :] = False
        above += _flag(x[first:last], low, high, magnitude, out[first:last], inside)
        for eight in range(eights.size):
            if eights[eight]:
                for i in range(8 * eight, 8 * eight + 8):
                    if inside[i]:
                        values[filled] = abs(x[first + i]) if magnitude else x[first + i]
                        positions[filled] = first + i
                        filled += 1
    return above, filled


@compiled
def _kth_largest(values: Array, k: int) -> Any:
    """By Hoare's selection, for a few values without NaN."""
    v = values.copy()
    position = v.size - k
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
        if position <= j:
            last = j
        elif position >= i:
            first = i
        else:
            break
    return v[position]


@compiled
def write_kth(values: Array, positions: Array, k: int, out: Array) -> tuple[float, int, int, float, float]:
    """out[places] = whether the value there is among the k largest of `values`, ties to the first in `positions`.

    (the k-th largest value, how many ties with it are kept, how many there are, the smallest and the largest
    of `values`); 0 ties, and nothing written, unless 0 < k <= values.size and none is NaN.
    """
    if not 0 < k <= values.size or count_nan(values) > 0:
        return 0.0, 0, 0, 0.0, 0.0
    value = _kth_largest(values, k)
    low_end = high_end = value
    higher = 0
    equal = 0
    for v in values:
        higher += v > value
        equal += v == value
        low_end = min(low_end, v)
        high_end = max(high_end, v)
    left = k - higher
    for i in range(values.size):
        tie = values[i] == value
        out[positions[i]] = (values[i] > value) | (tie & (left > 0))
        left -= tie
    return float(value), k - higher, equal, float(low_end), float(high_end)


@compiled
def choose(
    x: Array, k: int, low: float, high: float, magnitude: bool, room: int, out: Array
) -> tuple[float, int, int, float, float, int]:
    """`mark` and `write_kth` in one call, for one thread; as `write_kth`, and how many were inside."""
    values, positions = np.empty(room, x.dtype), np.empty(room, np.int64)
    above, filled = mark(x, 0, x.size, low, high, magnitude, out, values, positions)
    value, kept, equal, low_end, high_end = write_kth(values[:filled], positions[:filled], k - above, out)
    return value, kept, equal, low_end, high_end, filled
