"""Exact selection of the k largest scores, in linear time and without sorting them.

Floyd and Rivest's selection ("Expected time bounds for selection", CACM 1975): a sample brackets the
threshold; one pass writes the mask outside the bracket and collects the few scores inside; the threshold is
selected among those, and their positions in the mask are written. Where the same scores are selected
again and again, changing little, the last threshold gives a better bracket than any sample (`Near`). The
result never depends on the bracket; one that missed only costs time. On other devices than the CPU:
`radix.py`, with the same results.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.machine.locks import once
from tombola.select import radix

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]
    Layout = tuple[tuple[int, ...], tuple[int, ...]]  # (shape, its dimensions, the slowest in memory first)

__all__ = ["Near", "keep_largest"]

_SMALL = 8192  # below this, partition everything
_PIECE = 250_000  # fewer scores than this are not worth another thread
_INSIDE = 1 / 400  # of the scores, how many the bracket of `Near` should hold, at least
_FEW = 32  # as _INSIDE, for few scores
_WIDER = 16  # how many times wider than that it may become when the threshold moves


@dataclass
class Near:
    """The last threshold, for the next selection among almost the same scores.

    Empty at first; every `keep_largest` that is given it brings it up to date. It affects speed alone:
    after any change of the scores, their number or their dtype the result is the same as without.

    Attributes:
        low, high: the bracket to try first; None where there is none.
        value: the last threshold.
        moved: how far the threshold has moved per call: the largest recent move, older ones fading.
    """

    low: float | None = None
    high: float | None = None
    value: float | None = None
    moved: float = 0.0

    def forget(self) -> None:
        """Reset to empty."""
        self.low = self.high = self.value = None
        self.moved = 0.0

    def remember(self, value: float, low_end: float, high_end: float, share: float) -> None:
        """The threshold was `value`; the bracket low_end..high_end held `share` times as many scores as it should."""
        if self.value is not None:
            self.moved = max(abs(value - self.value), 0.85 * self.moved)
        narrow = (high_end - low_end) / 2 * min(1 / share, 4.0)
        half = min(max(narrow, 2.5 * self.moved), _WIDER * narrow)
        if math.isfinite(half):
            self.low, self.high, self.value = value - half, value + half, value
        else:
            self.forget()


def keep_largest(
    scores: Tensor, k: int, *, out: Tensor | None = None, near: Near | None = None, magnitude: bool = False
) -> Tensor:
    """Bool in the shape of `scores` with exactly `k` True: the largest, ties to the lower flat index.

    -0.0 ties with +0.0 and -inf comes last. Any real dtype (half precision is compared as float32), any
    strides, any device, any size. Scores that are dense in another order of dimensions (channels_last) are
    not copied; the flat index of a tie is the one of their shape, not of their memory, all the same.

    Args:
        out: where to write it and what to return: a bool tensor in the scores' shape, on their device,
            contiguous or, for dense scores, with their strides (the faster one). Worth giving in a loop:
            fetching fresh memory costs more than the selection. Without it the result is contiguous.
            Untouched on error, but for NaN.
        near: remembers the threshold from call to call: one for each tensor whose scores change little in
            between. For floats on the CPU; unused elsewhere. The result never depends on it.
        magnitude: select by the scores' absolute values.

    Raises:
        TombolaError: NaN among the scores, k outside 0..n, a complex or sparse dtype, or an unsuitable `out`.
    """
    scores = radix.comparable(scores.detach())
    radix.refuse(k, scores.numel(), 0)
    order = None if scores.is_contiguous() else _memory_order(scores)
    if out is not None:
        _check_out(out, scores, order)
    if not scores.is_cpu:
        kept = radix.keep_largest(_magnitudes(scores) if magnitude else scores, k)
        return kept if out is None else out.copy_(kept)
    if out is not None and _lies_as(out, order):
        _keep(scores, k, out, order, near, magnitude)
        return out
    kept = (
        torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
        if order is None
        else torch.empty_like(scores, dtype=torch.bool)
    )
    _keep(scores, k, kept, order, near, magnitude)
    return kept.contiguous() if out is None else out.copy_(kept)


def _memory_order(scores: Tensor) -> tuple[int, ...] | None:
    """The dimensions, the slowest in memory first, if in that order the scores are contiguous."""
    strides = scores.stride()
    order = tuple(sorted(range(scores.dim()), key=lambda d: -strides[d]))
    return order if _lies_as(scores, order) else None


def _lies_as(t: Tensor, order: tuple[int, ...] | None) -> bool:
    """Whether the tensor is contiguous with its dimensions in this order (None: as they are)."""
    return (t if order is None else t.permute(order)).is_contiguous()


def _check_out(out: Tensor, scores: Tensor, order: tuple[int, ...] | None) -> None:
    """A TombolaError unless the mask can be written to `out`."""
    alike = out.shape == scores.shape and out.dtype == torch.bool and out.device == scores.device
    if not (alike and (out.is_contiguous() or _lies_as(out, order))):
        raise TombolaError(
            f"out is {out.dtype} {tuple(out.shape)} on {out.device}; it must be a contiguous bool tensor "
            f"{tuple(scores.shape)} on {scores.device}, like the scores, or one with their strides if they are dense"
        )


def _magnitudes(scores: Tensor) -> Tensor:
    """|scores|, exact: that of the smallest signed integer needs the unsigned dtype."""
    unsigned = {
        torch.int8: torch.uint8,
        torch.int16: torch.uint16,
        torch.int32: torch.uint32,
        torch.int64: torch.uint64,
    }
    if scores.dtype in unsigned:
        return scores.abs().view(unsigned[scores.dtype])
    return scores.abs() if scores.is_floating_point() else scores


def _keep(
    scores: Tensor, k: int, kept: Tensor, order: tuple[int, ...] | None, near: Near | None, magnitude: bool
) -> None:
    """Write the mask to `kept`, which lies in memory as the scores do, or is contiguous where `order` is None."""
    if scores.is_floating_point() and 0 < k < scores.numel():
        layout = None if order is None else (tuple(scores.shape), order)
        if _keep_by_bracket(_flat(scores, order), k, _flat(kept, order), layout, near, magnitude):
            return
    plain = kept if kept.is_contiguous() else torch.empty(kept.shape, dtype=torch.bool, device=kept.device)
    _write(_flat(_magnitudes(scores) if magnitude else scores, None), k, _flat(plain, None))
    if plain is not kept:
        kept.copy_(plain)


def _flat(t: Tensor, order: tuple[int, ...] | None) -> Array:
    """The elements in memory order (a view), or in the order of the shape (a view of what is contiguous)."""
    array = t.numpy()
    return (array if order is None else array.transpose(order)).reshape(-1)


# ---- in one pass: few scores inside a bracket ----------------------------------------------------------------


def _keep_by_bracket(x: Array, k: int, out: Array, layout: Layout | None, near: Near | None, magnitude: bool) -> bool:
    """Whether out[i] = (x[i] is among the k largest floats) could be written; 0 < k < n.

    False where many scores tie around the threshold or some are NaN.
    """
    choose = _loops().choose if len(_pieces(x.size)) == 1 else _choose_in_threads
    for low, high, room in _brackets(x, k, near, magnitude):
        value, kept, equal, low_end, high_end, inside = choose(x, k, low, high, magnitude, min(room, x.size), out)
        if equal == 0:
            continue
        if kept < equal and layout is not None:
            _resolve_ties(x, value, kept, magnitude, layout, out)
        if near is not None:
            near.remember(value, low_end, high_end, inside / max(_INSIDE * x.size, _FEW))
        return True
    return False


def _brackets(x: Array, k: int, near: Near | None, magnitude: bool) -> Iterator[tuple[float, float, int]]:
    """(low, high, how many scores may lie between): brackets to try, the most promising first."""
    if near is not None and near.low is not None and near.high is not None:
        yield near.low, near.high, x.size // 16 + 4096
    low, high = _ranks(x, k, magnitude) if x.size <= _SMALL else _bracket(_sample(x, magnitude), k / x.size)
    yield float(low), float(high), x.size // 4 + 4096


def _choose_in_threads(
    x: Array, k: int, low: float, high: float, magnitude: bool, room: int, out: Array
) -> tuple[float, int, int, float, float, int]:
    """As `topk_loops.choose`."""
    import numpy as np

    pieces = _pieces(x.size)

    def mark(start: int, stop: int) -> tuple[int, Array, Array]:
        size = min(room // len(pieces) + 4096, stop - start)
        values, positions = np.empty(size, x.dtype), np.empty(size, np.int64)
        above, filled = _loops().mark(x, start, stop, low, high, magnitude, out, values, positions)
        return above, values[:filled], positions[:filled]

    aboves, parts, at = zip(*_each(pieces, mark), strict=True)
    if min(aboves) < 0:
        return 0.0, 0, 0, 0.0, 0.0, 0
    values = np.concatenate(parts)
    value, kept, equal, low_end, high_end = _loops().write_kth(values, np.concatenate(at), k - sum(aboves), out)
    return value, kept, equal, low_end, high_end, values.size


def _resolve_ties(x: Array, value: float, wanted: int, magnitude: bool, layout: Layout, out: Array) -> None:
    """Of the ties with `value`, keep the `wanted` first ones in the order of the tensor's shape."""
    import numpy as np

    positions = np.flatnonzero((np.abs(x) if magnitude else x) == value)
    shape, order = layout
    along = dict(zip(order, np.unravel_index(positions, [shape[d] for d in order]), strict=True))
    first = np.argsort(np.ravel_multi_index([along[d] for d in range(len(shape))], shape))[:wanted]
    out[positions] = False
    out[positions[first]] = True


def _ranks(x: Array, k: int, magnitude: bool) -> tuple[Any, Any]:
    """Two values that hold the threshold between them, and about _FEW of the scores."""
    import numpy as np

    at = x.size - k
    first, last = max(at - _FEW // 2, 0), min(at + _FEW // 2, x.size - 1)
    ordered = np.partition(np.abs(x) if magnitude else x, (first, last))
    return ordered[first], ordered[last]


# ---- any scores: integers, and floats that tie around the threshold ------------------------------------------


def _write(x: Array, k: int, out: Array) -> None:
    """out[i] = whether x[i] is among the k largest."""
    pieces = _pieces(x.size)
    if k == 0 or k == x.size:
        radix.refuse(k, x.size, sum(_each(pieces, lambda a, b: _loops().count_nan(x[a:b]))))
        out[:] = k > 0
        return
    value, wanted, equal = _threshold(x, k, pieces)
    cut = x.size if wanted == equal else _tie_cut(x, value, wanted, pieces)

    def write(start: int, stop: int) -> None:
        middle = min(max(cut, start), stop)
        _loops().write_from(x[start:middle], value, out[start:middle])
        _loops().write_above(x[middle:stop], value, out[middle:stop])

    _each(pieces, write)


def _threshold(x: Array, k: int, pieces: list[tuple[int, int]]) -> tuple[Any, int, int]:
    """(the k-th largest value, how many equal to it to keep, how many equal to it there are); 0 < k < n."""
    if x.size <= _SMALL:
        radix.refuse(k, x.size, sum(_each(pieces, lambda a, b: _loops().count_nan(x[a:b]))))
        return _among(x, k)
    low, high = _bracket(_sample(x, False), k / x.size)
    above, inside = _split(x, low, high, pieces)
    if not above < k <= above + inside.size:
        return _among(x, k)  # the sample missed the threshold
    if inside.size <= x.size // 4:
        return _among(inside, k - above)
    return _among_ties(inside, k - above, low, high)


def _split(x: Array, low: Any, high: Any, pieces: list[tuple[int, int]]) -> tuple[int, Array]:
    """(how many scores lie above the bracket, those inside it, its ends included); refuses NaN."""
    import numpy as np

    def one(start: int, stop: int) -> tuple[int, Array, int]:
        for room in ((stop - start) // 5, stop - start):  # much memory is slow to allocate, and seldom needed
            inside = np.empty(room + 4096, dtype=x.dtype)
            above, between, nans = _loops().split(x[start:stop], low, high, inside)
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
    wanted = _loops().count_equal(ordered[x.size - k :], value)
    return value, wanted, wanted + _loops().count_equal(ordered[: x.size - k], value)


def _among_ties(x: Array, k: int, low: Any, high: Any) -> tuple[Any, int, int]:
    """As `_among` for scores in low..high, most of which sit at the ends: partitioning is slow on ties."""
    at_high = _loops().count_equal(x, high)
    if k <= at_high:
        return high, k, at_high
    between = x[(x > low) & (x < high)]
    if k <= at_high + between.size:
        return _among(between, k - at_high)
    return low, k - at_high - between.size, x.size - at_high - between.size


def _sample(x: Array, magnitude: bool) -> Array:
    """A sorted sample of the scores, or of their magnitudes, at fixed pseudo-random positions (a stride could
    align with the layers' shapes)."""
    import numpy as np

    size = min(65536, max(1024, int(2 * x.size ** (2 / 3))))
    positions = (np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    drawn = x[((positions * np.uint64(x.size)) >> np.uint64(32)).astype(np.int64)]
    return np.sort(np.abs(drawn) if magnitude else drawn)


def _bracket(sample: Array, density: float) -> tuple[Any, Any]:
    """Two values that very likely hold the threshold at `density` between them: from the sorted sample,
    or the dtype's own ends where the sample does not reach far enough."""
    import numpy as np

    m = sample.size
    middle = (1 - density) * m
    margin = 3 * math.sqrt(m * density * (1 - density)) + 2
    first, last = math.floor(middle - margin), math.ceil(middle + margin)
    kind = sample.dtype.type
    if sample.dtype.kind == "f":
        low_end, high_end = kind(-np.inf), kind(np.inf)
    else:
        limits = np.iinfo(sample.dtype)
        low_end, high_end = kind(limits.min), kind(limits.max)
    return sample[first] if first >= 0 else low_end, sample[last] if last < m else high_end


def _tie_cut(x: Array, value: Any, wanted: int, pieces: list[tuple[int, int]]) -> int:
    """The index after the `wanted`-th element equal to `value`: later ties are not kept."""
    if wanted == 0:
        return 0
    for (start, stop), equal in zip(
        pieces, _each(pieces, lambda a, b: _loops().count_equal(x[a:b], value)), strict=True
    ):
        if wanted <= equal:
            return start + int(_loops().after_equal(x[start:stop], value, wanted))
        wanted -= equal
    return int(x.size)


@once
def _loops() -> ModuleType:
    """The compiled loops, imported when they are first needed."""
    from tombola.select import topk_loops

    return topk_loops


# ---- threads -----------------------------------------------------------------------------------------------


def _pieces(n: int) -> list[tuple[int, int]]:
    """Consecutive ranges that cover 0..n: one per thread that torch may use, none too small."""
    count = 1 if n < 2 * _PIECE else min(torch.get_num_threads(), n // _PIECE)
    if count == 1:
        return [(0, n)]
    edges = [n * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _each(pieces: list[tuple[int, int]], work: Any) -> list[Any]:
    """work(start, stop) for every piece, in threads; the results in order."""
    if len(pieces) == 1:
        return [work(*pieces[0])]
    others: list[Future[Any]] = [_pool(os.getpid(), len(pieces) - 1).submit(work, *p) for p in pieces[1:]]
    return [work(*pieces[0]), *(other.result() for other in others)]


@once
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads do not survive a fork, hence one pool per process."""
    return ThreadPoolExecutor(workers, thread_name_prefix="tombola-select")
