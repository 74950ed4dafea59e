"""Exact selection of the k largest scores, in linear time and without sorting them.

Floyd and Rivest's selection ("Expected time bounds for selection", CACM 1975): a sample brackets the threshold, one
pass counts the scores against the bracket and sets aside the few inside it, the threshold is found among those, one
more pass writes the mask. The answer never depends on the sample; a bracket that missed only costs time.
On other devices than the CPU: `radix.py`, with the same results.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.select import radix

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["check_count", "keep_largest"]

_SMALL = 8192  # below this, partition everything
_PIECE = 200_000  # fewer scores than this are not worth another thread


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """A bool tensor in the shape of `scores` with exactly `k` True: the largest, ties to the lower flat index.

    -0.0 ties with +0.0 and -inf comes last. Any real dtype (half precision is compared as float32), any strides, any
    device, any size.

    Raises:
        TombolaError: NaN among the scores, k outside 0..n, or a complex dtype.
    """
    scores = scores.detach()
    check_count(k, scores.numel())
    if scores.device.type != "cpu":
        return radix.keep_largest(scores, k)
    flat = comparable(scores).contiguous().view(-1)
    out = torch.empty(flat.shape, dtype=torch.bool)
    _write(flat.numpy(), k, out.numpy())
    return out.view(scores.shape)


def check_count(k: int, n: int) -> None:
    """A TombolaError unless 0 <= k <= n."""
    if not 0 <= k <= n:
        raise TombolaError(f"cannot keep {k} of {n} scores; the count must lie between 0 and {n}")


def comparable(scores: Tensor) -> Tensor:
    """The scores in a dtype that is compared exactly: half precision as float32, bool as uint8."""
    if scores.dtype in (torch.float16, torch.bfloat16):
        return scores.float()
    if scores.dtype == torch.bool:
        return scores.to(torch.uint8)
    if scores.dtype.is_complex or scores.is_quantized or scores.layout != torch.strided:
        raise TombolaError(
            f"scores are {scores.dtype} ({scores.layout}); give a dense tensor of real numbers, e.g. scores.abs()"
        )
    return scores


def _write(x: Array, k: int, out: Array) -> None:
    """out[i] = whether x[i] is among the k largest."""
    from tombola.select import _kernels

    pieces = _pieces(x.size)
    if k == 0 or k == x.size:
        _refuse_nan(sum(_each(pieces, lambda a, b: _kernels.count_nan(x[a:b]))))
        out[:] = k > 0
        return
    value, wanted, equal = _threshold(x, k, pieces)
    cut = x.size if wanted == equal else _tie_cut(x, value, wanted, pieces)

    def write(start: int, stop: int) -> None:
        middle = min(max(cut, start), stop)
        _kernels.write_from(x[start:middle], value, out[start:middle])
        _kernels.write_above(x[middle:stop], value, out[middle:stop])

    _each(pieces, write)


def _threshold(x: Array, k: int, pieces: list[tuple[int, int]]) -> tuple[Any, int, int]:
    """(the k-th largest value, how many equal to it are to be kept, how many equal to it there are); 0 < k < n."""
    import numpy as np

    if x.size <= _SMALL:
        return _among(x, k)
    low, high = _bracket(_sample(x), k / x.size)
    counts = np.zeros((len(pieces), 5), dtype=np.int64)
    inside = _split(x, low, high, counts, pieces)
    above, at_high, between, at_low, _ = (int(c) for c in counts.sum(axis=0))
    if low == high:
        at_low = 0
    if above < k <= above + at_high:
        return high, k - above, at_high
    if above + at_high < k <= above + at_high + between:
        return _among(inside, k - above - at_high)
    above += at_high + between
    if above < k <= above + at_low:
        return low, k - above, at_low
    return _among(x, k)  # the sample was unlucky


def _split(x: Array, low: Any, high: Any, counts: Array, pieces: list[tuple[int, int]]) -> Array:
    """Fill `counts` (a row per piece) and return the scores strictly inside the bracket, in no promised order."""
    import numpy as np

    from tombola.select import _kernels

    rows = {piece: row for row, piece in enumerate(pieces)}

    def one(start: int, stop: int) -> Array:
        inside = np.empty(stop - start + 1, dtype=x.dtype)
        row = counts[rows[start, stop]]
        _kernels.split(x[start:stop], low, high, inside, row)
        return inside[: int(row[2])]

    parts = _each(pieces, one)
    _refuse_nan(int(counts[:, 4].sum()))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _among(x: Array, k: int) -> tuple[Any, int, int]:
    """As `_threshold`, for few scores."""
    import numpy as np

    if x.dtype.kind == "f":
        _refuse_nan(int(np.isnan(x).sum()))
    value = np.partition(x, x.size - k)[x.size - k]
    return value, k - int((x > value).sum()), int((x == value).sum())


def _sample(x: Array) -> Array:
    """A sorted sample at fixed pseudo-random places (a stride could fall in step with the layers' shapes)."""
    import numpy as np

    size = min(16384, max(1024, int(x.size ** (2 / 3) / 2)))
    places = (np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return np.sort(x[((places * np.uint64(x.size)) >> np.uint64(32)).astype(np.int64)])


def _bracket(sample: Array, density: float) -> tuple[Any, Any]:
    """Two values of the sorted sample that hold the threshold at `density` between them, but for bad luck."""
    m = sample.size
    middle = (1 - density) * m
    margin = 4.5 * math.sqrt(m * density * (1 - density)) + 2
    return sample[max(0, math.floor(middle - margin))], sample[min(m - 1, math.ceil(middle + margin))]


def _tie_cut(x: Array, value: Any, wanted: int, pieces: list[tuple[int, int]]) -> int:
    """The index behind the `wanted`-th element equal to `value`: ties before it are kept, ties behind it are not."""
    from tombola.select import _kernels

    if wanted == 0:
        return 0
    for (start, stop), equal in zip(
        pieces, _each(pieces, lambda a, b: _kernels.count_equal(x[a:b], value)), strict=True
    ):
        if wanted <= equal:
            return start + int(_kernels.after_equal(x[start:stop], value, wanted))
        wanted -= equal
    return int(x.size)


def _refuse_nan(count: int) -> None:
    if count:
        raise TombolaError(f"{count} scores are NaN; scores must be numbers (did training diverge?)")


# ---- threads --------------------------------------------------------------------------------------------------


def _pieces(n: int) -> list[tuple[int, int]]:
    """Consecutive ranges that cover 0..n: one per thread that torch may use, none too small."""
    count = max(1, min(torch.get_num_threads(), n // _PIECE))
    edges = [n * i // count for i in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


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
