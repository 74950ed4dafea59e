"""What a kernel is, and what all of them compute, in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola.deploy.ops import (
    Axis,
    Combine,
    Concat,
    Conv,
    Linear,
    Op,
    Pointwise,
    Pool,
    Region,
    Resize,
    Shuffle,
    Slice,
    padded,
    reads,
)

C = TypeVar("C")
Run = Callable[..., tuple[Tensor, ...]]
"""A region's inputs, batch first -> its outputs."""


@dataclass(frozen=True)
class Kernel(Generic[C]):
    """A way to run a region of operations that it takes, with what can be chosen of it.

    `takes`: why an operation cannot run in it, in a few words; None where it can. `candidates`: of a region, batch and
    threads, the choices worth trying, the most promising first. `build`: the same and a choice -> the compiled region.
    `reference`: a region and its inputs -> what is to come out; tests hold every candidate to it.
    """

    name: str
    takes: Callable[[Op], str | None]
    candidates: Callable[[Region, int, int], Iterable[C]]
    build: Callable[[Region, int, int, C], Run]
    reference: Run


def reference(region: Region, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The region's outputs in float64."""
    found = values_of(region, *inputs)
    return tuple(found[name] for name in region.outputs)


def values_of(region: Region, *inputs: Tensor) -> dict[str, Tensor]:
    """All values of the region by name, in float64."""
    held = (x.double().unsqueeze(-1) if x.dim() == 3 else x.double() for x in inputs)
    values = dict(zip(region.inputs, held, strict=True))
    for op in region.ops:
        values[op.target] = computed(op, [values[name] for name in reads(op)])
    return values


def computed(op: Op, sources: Sequence[Tensor]) -> Tensor:
    """What an operation gives for the values that it reads, batch first, in float64."""
    x, *others = sources
    match op:
        case Concat():
            return torch.cat(tuple(sources), 1)
        case Slice():
            return x[:, op.start : op.stop]
        case Combine():
            y = getattr(torch, op.kind)(x, others[0])
        case Resize():
            y = _resized(_resized(x, op.rows, 2), op.columns, 3)
        case Shuffle():
            y = _shuffled(x, op)
        case _:
            y = _applied(op, x)
            for other in others:
                y = y + other
    return y if op.activation is None else op.activation(y)


def _applied(op: Conv | Linear | Pool | Pointwise, x: Tensor) -> Tensor:
    match op:
        case Conv():
            return F.conv2d(padded(x, op), op.weight.double(), _double(op.bias), op.stride, 0, op.dilation, op.groups)
        case Linear():
            return F.linear(x.flatten(1), op.weight.double(), _double(op.bias))
        case Pool(kind="max"):
            (top, left), (bottom, right) = op.padding, op.after
            return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=float("-inf")), op.kernel, op.stride)
        case Pool():
            return F.avg_pool2d(x, op.kernel, op.stride)
    along = (-1, *[1] * (x.dim() - 2))
    scaled = x if op.scale is None else x * op.scale.double().view(along)
    return scaled if op.shift is None else scaled + op.shift.double().view(along)


def _resized(x: Tensor, axis: Axis, dim: int) -> Tensor:
    first = x.index_select(dim, axis.first)
    if axis.weights is None:
        return first
    one, other = axis.weights.double().view(2, *(-1 if i == dim else 1 for i in range(x.dim())))
    blended: Tensor = one * first + other * x.index_select(dim, axis.second)
    return blended


def _shuffled(x: Tensor, op: Shuffle) -> Tensor:
    """Channels to positions."""
    n, c, h, w = x.shape
    high, wide = op.factors
    cells = x.view(n, c // (high * wide), high, wide, h, w).permute(0, 1, 4, 2, 5, 3)
    return cells.reshape(n, -1, h * high, w * wide)[:, :, : op.size[0], : op.size[1]]


def _double(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.double()
