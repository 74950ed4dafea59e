"""Exact selection of the k largest scores, in linear time and without sorting them.

Floyd and Rivest's selection ("Expected time bounds for selection", CACM 1975): a sample brackets the
threshold, one pass counts the scores against the bracket and sets aside the few inside it, the threshold is
found among those, one more pass writes the mask. The answer never depends on the sample; a bracket that
missed only costs time. On other devices than the CPU: `radix.py`, with the same results.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.select import radix

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["keep_largest"]

_SMALL = 8192  # below this, partition everything
_PIECE = 250_000  # fewer scores than this are not worth another thread


def keep_largest(scores: Tensor, k: int, *, out: Tensor | None = None) -> Tensor:
    """Bool in the shape of `scores` with exactly `k` True: the largest, ties to the lower flat index.

    -0.0 ties with +0.0 and -inf comes last. Any real dtype (half precision is compared as float32), any
    strides, any device, any size.

    Args:
        out: where to write it and what to return: a contiguous bool tensor in the scores' shape, on their
            device. Worth giving in a loop: fetching fresh memory costs more than the selection. Untouched on
            error.

    Raises:
        TombolaError: NaN among the scores, k outside 0..n, a complex or sparse dtype, or an unfit `out`.
    """
    scores = scores.detach()
    radix.refuse(k, scores.numel(), 0)
    if out is None:
        out = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    elif out.shape != scores.shape or out.dtype != torch.bool or not out.is_contiguous() or out.device != scores.device:
        raise TombolaError(
            f"out is {out.dtype} {tuple(out.shape)} on {out.device}; it must be a contiguous bool tensor "
            f"{tuple(scores.shape)} on {scores.device}, like the scores"
        )
    if scores.device.type != "cpu":
        return out.copy_(radix.keep_largest(scores, k))
    _write(radix.comparable(scores).contiguous().view(-1).numpy(), k, out.view(-1).numpy())
    return out


def _write(x: Array, k: int, out: Array) -> None:
    """out[i] = whether x[i] is among the k largest."""
    pieces = _pieces(x.size)
    if k == 0 or k == x.size:
        radix.refuse(k, x.size, sum(_each(pieces, lambda a, b: _kernels().count_nan(x[a:b]))))
        out[:] = k > 0
        return
    value, wanted, equal = _threshold(x, k, pieces)
    cut = x.size if wanted == equal else _tie_cut(x, value, wanted, pieces)

    def write(start: int, stop: int) -> None:
        middle = min(max(cut, start), stop)
        _kernels().write_from(x[start:middle], value, out[start:middle])
        _kernels().write_above(x[middle:stop], value, out[middle:stop])

    _each(pieces, write)


def _threshold(x: Array, k: int, pieces: list[tuple[int, int]]) -> tuple[Any, int, int]:
    """(the k-th largest value, how many equal to it to keep, how many equal to it there are); 0 < k < n."""
    if x.size <= _SMALL:
        radix.refuse(k, x.size, sum(_each(pieces, lambda a, b: _kernels().count_nan(x[a:b]))))
        return _among(x, k)
    low, high = _bracket(_sample(x), k / x.size)
    above, inside = _split(x, low, high, pieces)
    if not above < k <= above + inside.size:
        return _among(x, k)  # the sample was unlucky
    if inside.size <= x.size // 4:
        return _among(inside, k - above)
    return _among_ties(inside, k - above, low, high)


def _split(x: Array, low: Any, high: Any, pieces: list[tuple[int, int]]) -> tuple[int, Array]:
    """(how many scores lie above the bracket, those inside it, its ends included); refuses NaN."""
    import numpy as np

    def one(start: int, stop: int) -> tuple[int, Array, int]:
        for room in ((stop - start) // 5, stop - start):  # much memory is slow to come by, and seldom needed
            inside = np.empty(room + 4096, dtype=x.dtype)
            above, between, nans = _kernels().split(x[start:stop], low, high, inside)
            if above >= 0:
                break
        return above, inside[:between], nans

    parts = _each(pieces, one)
    radix.refuse(0, x.size, sum(nans for _, _, nans in parts))
    inside = parts[0][1] if len(parts) == 1 else np.concatenate([part for _, part, _ in parts])
    return sum(above for above, _, _ in parts), inside


def _among(x: Array, k: int) -> tuple[Any, int, int]:
    """As `_threshold`, for few scores without NaN."""
    import numpy as np

    ordered = np.partition(x, x.size - k)
    value = ordered[x.size - k]
    wanted = _kernels().count_equal(ordered[x.size - k :], value)
    return value, wanted, wanted + _kernels().count_equal(ordered[: x.size - k], value)


def _among_ties(x: Array, k: int, low: Any, high: Any) -> tuple[Any, int, int]:
    """As `_among` for scores in low..high, most of which sit at the ends: partitioning is slow on ties."""
    at_high = _kernels().count_equal(x, high)
    if k <= at_high:
        return high, k, at_high
    between = x[(x > low) & (x < high)]
    if k <= at_high + between.size:
        return _among(between, k - at_high)
    return low, k - at_high - between.size, x.size - at_high - between.size


def _sample(x: Array) -> Array:
    """A sorted sample at fixed pseudo-random places (a stride could fall in step with the layers' shapes)."""
    import numpy as np

    size = min(16384, max(1024, int(x.size ** (2 / 3) / 2)))
    places = (np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return np.sort(x[((places * np.uint64(x.size)) >> np.uint64(32)).astype(np.int64)])


def _bracket(sample: Array, density: float) -> tuple[Any, Any]:
    """Two values that hold the threshold at `density` between them, but for bad luck: from the sorted sample,
    or the dtype's own ends where the sample does not reach far enough."""
    import numpy as np

    m = sample.size
    middle = (1 - density) * m
    margin = 4.5 * math.sqrt(m * density * (1 - density)) + 2
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    kind = sample.dtype.type
    if sample.dtype.kind == "f":
        least, most = kind(-np.inf), kind(np.inf)
    else:
        limits = np.iinfo(sample.dtype)
        least, most = kind(limits.min), kind(limits.max)
    return sample[first] if first >= 0 else least, sample[last] if last < m else most


def _tie_cut(x: Array, value: Any, wanted: int, pieces: list[tuple[int, int]]) -> int:
    """The index behind the `wanted`-th element equal to `value`: ties behind it are not kept."""
    if wanted == 0:
        return 0
    for (start, stop), equal in zip(
        pieces, _each(pieces, lambda a, b: _kernels().count_equal(x[a:b], value)), strict=True
    ):
        if wanted <= equal:
            return start + int(_kernels().after_equal(x[start:stop], value, wanted))
        wanted -= equal
    return int(x.size)


def _kernels() -> ModuleType:
    """The compiled loops, imported when they are first needed."""
    from tombola.select import _kernels

    return _kernels


# ---- threads -----------------------------------------------------------------------------------------------


def _pieces(n: int) -> list[tuple[int, int]]:
    """Consecutive ranges that cover 0..n: one per thread that torch may use, none too small."""
    count = max(1, min(torch.get_num_threads(), n // _PIECE))
    edges = [n * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _each(pieces: list[tuple[int, int]], work: Any) -> list[Any]:
    """work(start, stop) for every piece, in threads; the results in order."""
    if len(pieces) == 1:
        return [work(*pieces[0])]
    others: list[Future[Any]] = [_pool(os.getpid(), len(pieces) - 1).submit(work, *p) for p in pieces[1:]]
    return [work(*pieces[0]), *(other.result() for other in others)]


@lru_cache(maxsize=4)
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads do not survive a fork, hence one pool per process."""
    return ThreadPoolExecutor(workers, thread_name_prefix="tombola-select")
