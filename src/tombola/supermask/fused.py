"""The two products that every step runs over all weights, in one pass each over CPU memory: compiled loops.

Elsewhere, and under torch.compile and torch.export, the plain operations stand, for those tools to fuse.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from tombola.machine.compiling import compiling
from tombola.machine.locks import once
from tombola.machine.memory import PLAIN, address, without_gaps


def keep(values: Tensor, mask: Tensor) -> Tensor:
    """`values * mask` without the cast of the mask that torch would make; the strides of `values`."""
    if values.dtype != torch.float32 or mask.dtype != torch.bool or not _alike(values, mask):
        return values * mask
    out = torch.empty_like(values)
    _keep(values, mask, out)
    return out


def put_kept(out: Tensor, values: Tensor, mask: Tensor) -> None:
    """`values` into `out` where the mask is true, else 0: +0, whatever the sign of the value, as in a built ticket."""
    if out.dtype == values.dtype == torch.float32 and mask.dtype == torch.bool and _alike(values, mask, out):
        _keep(values, mask, out)
        torch.autograd.graph.increment_version(out)
    else:
        out.copy_(values).masked_fill_(~mask, 0)


def _keep(values: Tensor, mask: Tensor, out: Tensor) -> None:
    n = values.numel()
    ends = address(values, torch.float32, n), address(mask, torch.bool, n), address(out, torch.float32, n)
    _loops().keep(*ends, n)


def signed_product(gradient: Tensor, values: Tensor, scores: Tensor) -> Tensor:
    """`gradient * values * sign(scores)` in the dtype of the scores."""
    floats = gradient.dtype == values.dtype == scores.dtype == torch.float32
    if not floats or not _alike(values, gradient, scores):
        return (gradient.to(scores.dtype) * values * torch.sign(scores)).to(scores.dtype)  # half would underflow
    out = torch.empty_like(scores)
    n = values.numel()
    _loops().signed_product(*(address(x, torch.float32, n) for x in (gradient, values, scores, out)), n)
    return out


def _alike(first: Tensor, *others: Tensor) -> bool:
    """Whether the tensors lie in CPU memory alike, each without gaps, and are not being traced."""
    if compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    if not first.is_cpu or type(first) not in PLAIN or not without_gaps(first) or first.is_neg():
        return False
    shape, strides = first.shape, first.stride()
    return all(
        other.is_cpu
        and other.stride() == strides
        and other.shape == shape
        and type(other) in PLAIN
        and not other.is_neg()
        for other in others
    )


@once
def _loops() -> ModuleType:
    """The compiled loops, imported when they are first needed."""
    from tombola.machine import loops

    return loops
