"""Exact selection by histograms of keys, in torch operations alone: any device, and the base of `sharded`.

A score becomes an integer key of the same order; the threshold's key is computed digit by digit from
histograms. Only the histograms (2,048 counts) need to be known everywhere, so that summing them over ranks
gives the global threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from tombola.errors import TombolaError

__all__ = ["keep_largest", "keys", "mark", "threshold"]

_DIGIT = 11


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """As `topk.keep_largest`, on the scores' device."""
    key = keys(scores)
    refuse(k, key.numel(), nan_count(scores))
    if k == 0 or k == key.numel():
        return torch.full(scores.shape, k > 0, dtype=torch.bool, device=scores.device)
    value, wanted = threshold(key, k)
    return mark(key, value, wanted).view(scores.shape)


def refuse(k: int, n: int, nans: int) -> None:
    """A TombolaError unless 0 <= k <= n and no score is NaN."""
    if not 0 <= k <= n:
        raise TombolaError(f"cannot keep {k} of {n} scores; the count must lie between 0 and {n}")
    if nans:
        raise TombolaError(f"{nans} of {n} scores are NaN; scores must be numbers (did training diverge?)")


def comparable(scores: Tensor) -> Tensor:
    """The scores in a dtype that is compared exactly: half precision as float32, bool as uint8."""
    if scores.dtype in (torch.float16, torch.bfloat16):
        return scores.float()
    if scores.dtype == torch.bool:
        return scores.to(torch.uint8)
    if scores.dtype.is_complex or scores.is_quantized or scores.layout != torch.strided:
        raise TombolaError(f"scores are {scores.dtype} ({scores.layout}); give a dense tensor of real numbers")
    return scores


def nan_count(scores: Tensor) -> int:
    """How many scores are NaN."""
    return int(torch.count_nonzero(scores != scores)) if scores.is_floating_point() else 0


def keys(scores: Tensor) -> Tensor:
    """Flat int32 or int64 keys in the order of the scores; -0.0 and +0.0 share one."""
    flat = comparable(scores).reshape(-1)
    if flat.dtype == torch.float32:
        bits = (flat + 0.0).view(torch.int32)
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)
    if flat.dtype == torch.float64:
        bits = (flat + 0.0).view(torch.int64)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    if flat.dtype in (torch.uint16, torch.uint32):
        return flat.to(torch.int64)
    if flat.dtype == torch.uint64:
        return flat.view(torch.int64) ^ (-(2**63))
    return flat if flat.dtype == torch.int64 else flat.to(torch.int32)


def threshold(key: Tensor, k: int, total: Callable[[Tensor], Tensor] = lambda counts: counts) -> tuple[int, int]:
    """(the k-th largest key, how many keys equal to it belong to the k largest); 0 < k <= n.

    Args:
        key: flat integer keys, here.
        k: count over all ranks.
        total: sums a tensor of counts over the ranks (by default there is one).
    """
    bits = torch.iinfo(key.dtype).bits
    edges = [*range(bits, 0, -_DIGIT), 0]
    prefix = 0  # of the unsigned key, the digits known so far
    for top, shift in pairwise(edges):
        width = top - shift
        digit = (key >> shift) & ((1 << width) - 1)
        if top == bits:
            digit = digit ^ (1 << (width - 1))  # signed order -> unsigned order
        counts = total(torch.bincount(digit, minlength=1 << width))
        counts_above = counts.flip(0).cumsum(0)
        digit_index = int(torch.searchsorted(counts_above, k))
        k -= int(counts_above[digit_index]) - int(counts.flip(0)[digit_index])
        chosen = (1 << width) - 1 - digit_index
        key = key[digit == chosen]
        prefix = (prefix << width) | chosen
    return prefix - (1 << (bits - 1)), k


def mark(key: Tensor, value: int, wanted: int) -> Tensor:
    """Flat bool: keys above `value`, and the first `wanted` equal to it."""
    kept = key > value
    ties = (key == value).nonzero().view(-1)
    kept[ties[:wanted]] = True
    return kept
