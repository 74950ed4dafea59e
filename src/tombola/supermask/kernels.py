"""The two loops that every step runs over all weights: compiled on the CPU, plain torch elsewhere.

Under torch.compile and torch.export the plain operations stand, for those tools to fuse.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor, nn

from tombola._masking import without_gaps

_PLAIN = (Tensor, nn.Parameter)


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """`values * mask` without the cast of the mask that torch would make; the strides of `values`."""
    if values.dtype != torch.float32 or mask.dtype != torch.bool or not _alike(values, mask):
        return values * mask
    out = torch.empty_like(values)
    _kernels().keep(values.data_ptr(), mask.data_ptr(), out.data_ptr(), values.numel())
    return out


def signed_product(gradient: Tensor, values: Tensor, scores: Tensor) -> Tensor:
    """`gradient * values * sign(scores)` in the dtype of the scores."""
    floats = gradient.dtype == values.dtype == scores.dtype == torch.float32
    if not floats or not _alike(values, gradient, scores):
        return (gradient.to(scores.dtype) * values * torch.sign(scores)).to(scores.dtype)  # half would underflow
    out = torch.empty_like(scores)
    _kernels().signed_product(gradient.data_ptr(), values.data_ptr(), scores.data_ptr(), out.data_ptr(), values.numel())
    return out


def _alike(first: Tensor, *others: Tensor) -> bool:
    """Whether the tensors lie in CPU memory alike, each without gaps, and are not being traced."""
    if torch.compiler.is_compiling() or not first.is_cpu or type(first) not in _PLAIN or not without_gaps(first):
        return False
    shape, strides = first.shape, first.stride()
    return all(
        other.is_cpu and other.stride() == strides and other.shape == shape and type(other) in _PLAIN
        for other in others
    )


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    """The compiled loops, imported when they are first needed."""
    from tombola.supermask import _kernels

    return _kernels
