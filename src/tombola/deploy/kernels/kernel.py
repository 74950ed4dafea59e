"""What a kernel is, and what all of them compute, in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor
from torch.nn import functional as F

from tombola.deploy.ops import Conv, Linear, Op, Pool, Region, padded

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
    held = (x.double().unsqueeze(-1) if x.dim() == 3 else x.double() for x in inputs)
    values = dict(zip(region.inputs, held, strict=True))
    for op in region.ops:
        y = _applied(op, values[op.source])
        if not isinstance(op, Pool) and op.residual is not None:
            y = y + values[op.residual]
        values[op.target] = y if op.activation is None else op.activation(y)
    return tuple(values[name] for name in region.outputs)


def _applied(op: Op, x: Tensor) -> Tensor:
    match op:
        case Conv():
            return F.conv2d(padded(x, op), op.weight.double(), _double(op.bias), op.stride, 0, op.dilation, op.groups)
        case Linear():
            return F.linear(x.flatten(1), op.weight.double(), _double(op.bias))
        case Pool(kind="max"):
            return F.max_pool2d(x, op.kernel, op.stride, op.padding)
        case Pool():
            return F.avg_pool2d(x, op.kernel, op.stride)
    along = (-1, *[1] * (x.dim() - 2))
    scaled = x if op.scale is None else x * op.scale.double().view(along)
    return scaled if op.shift is None else scaled + op.shift.double().view(along)


def _double(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.double()
