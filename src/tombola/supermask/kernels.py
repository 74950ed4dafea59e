"""The two loops that every step runs over all weights: compiled on the CPU, plain torch elsewhere.

Under torch.compile and torch.export the plain operations stand, for those tools to fuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """`values * mask` without the cast of the mask that torch would make; the strides of `values`."""
    if not _alike(values, mask) or values.dtype != torch.float32 or mask.dtype != torch.bool:
        return values * mask
    out = torch.empty_like(values)
    _compiled().keep(_flat(values), _flat(mask), _flat(out))
    return out


def signed_product(gradient: Tensor, values: Tensor, scores: Tensor) -> Tensor:
    """`gradient * values * sign(scores)` in the dtype of the scores."""
    floats = gradient.dtype == values.dtype == scores.dtype == torch.float32
    if not floats or not _alike(values, gradient, scores):
        return (gradient * values * torch.sign(scores)).to(scores.dtype)
    out = torch.empty_like(scores)
    _compiled().signed_product(_flat(gradient), _flat(values), _flat(scores), _flat(out))
    return out


def _alike(first: Tensor, *others: Tensor) -> bool:
    """Whether the tensors lie in CPU memory alike, each without gaps, and are not being traced."""
    if torch.compiler.is_compiling() or first.device.type != "cpu" or type(first.detach()) is not Tensor:
        return False
    strides, device = first.stride(), first.device
    return _without_gaps(first) and all(other.stride() == strides and other.device == device for other in others)


def _without_gaps(tensor: Tensor) -> bool:
    return (
        tensor.is_contiguous()
        or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
        or (tensor.dim() == 5 and tensor.is_contiguous(memory_format=torch.channels_last_3d))
    )


def _flat(tensor: Tensor) -> Array:
    """All elements in the order in which they lie in memory, not copied."""
    array: Array = tensor.detach().as_strided((tensor.numel(),), (1,)).numpy()
    return array


def _compiled() -> Any:
    from tombola.supermask import _kernels

    return _kernels
