"""What a region of a network computes, as plain data: what is lowered from a traced network, and what the kernels run.

A region is a straight list of operations on named values. A value is the activations of one image: (channels,
height, width), or (features,); the batch is not part of it. All tensors are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola.deploy.nonzeros import Nonzeros


@dataclass(frozen=True)
class Activation:
    """A function of each number: `name` as in torch.ops.aten; `numbers`: what it takes besides, such as bounds.

    >>> Activation("hardtanh", (0.0, 6.0))(torch.tensor([-1.0, 5.0, 7.0]))
    tensor([0., 5., 6.])
    """

    name: str
    numbers: tuple[float, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Of any shape and float dtype."""
        function = getattr(torch.ops.aten, self.name)
        return function(x, *self.numbers)  # type: ignore[no-any-return]


RELU = Activation("relu")


@dataclass(frozen=True, eq=False)
class Conv:
    """out = activation(weight ⋆ source + bias + residual), zero padding.

    `weight`: (out, in // groups, kh, kw). `bias`: (out,) or None. `residual`: a value of the result's shape, or None.
    `padding`: zeros before rows and columns; `end`: after them, None for as many.
    """

    name: str
    """The layer's name in the model: what reports and plans call it."""
    source: str
    target: str
    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    activation: Activation | None = None
    residual: str | None = None
    end: tuple[int, int] | None = None

    @property
    def after(self) -> tuple[int, int]:
        """Zeros after rows and columns."""
        return self.padding if self.end is None else self.end

    @cached_property
    def nonzeros(self) -> Nonzeros:
        """Where the weight is kept."""
        return Nonzeros(self.weight)


def padded(x: Tensor, op: Conv) -> Tensor:
    """Maps (N, C, H, W) with the zeros around them that a convolution asks for."""
    return F.pad(x, (op.padding[1], op.after[1], op.padding[0], op.after[0]))


@dataclass(frozen=True, eq=False)
class Linear:
    """out = activation(weight source + bias + residual); a source of (C, H, W) counts as flattened row-major.

    `weight`: (out, in). `bias`: (out,) or None. `residual`: a value of the result's shape, or None.
    """

    name: str
    source: str
    target: str
    weight: Tensor
    bias: Tensor | None = None
    activation: Activation | None = None
    residual: str | None = None

    @cached_property
    def nonzeros(self) -> Nonzeros:
        """Where the weight is kept."""
        return Nonzeros(self.weight)


@dataclass(frozen=True)
class Pool:
    """The maximum or mean over windows of (C, H, W), each channel by itself; the mean has no padding.

    `padding`: positions before rows and columns that do not count; `end`: after them, None for as many.
    """

    name: str
    source: str
    target: str
    kind: str  # "max" or "mean"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    activation: Activation | None = None
    end: tuple[int, int] | None = None

    @property
    def after(self) -> tuple[int, int]:
        """Positions after rows and columns that do not count."""
        return self.padding if self.end is None else self.end


@dataclass(frozen=True, eq=False)
class Pointwise:
    """out = activation(scale · source + shift + residual): scale and shift (channels,) or None, for 1 and 0."""

    name: str
    source: str
    target: str
    scale: Tensor | None = None
    shift: Tensor | None = None
    activation: Activation | None = None
    residual: str | None = None


@dataclass(frozen=True)
class Concat:
    """The channels of several values, or the features of several vectors, one after the other."""

    name: str
    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Slice:
    """The channels, or features, from `start` to before `stop`."""

    name: str
    source: str
    target: str
    start: int
    stop: int


@dataclass(frozen=True)
class Combine:
    """out = activation(source `kind` other): other is of the source's shape, or has 1 channel, row or column."""

    name: str
    source: str
    other: str
    target: str
    kind: str  # "add", "sub", "mul" or "div"
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class Axis:
    """How an axis is resized: which positions each new one is made of, and how.

    `first`, `second`: int64 (out,). `weights`: float32 (2, out), what each counts; None: the first alone.
    """

    first: Tensor
    second: Tensor
    weights: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Resize:
    """Rows and columns repeated, left out or blended: each channel by itself."""

    name: str
    source: str
    target: str
    rows: Axis
    columns: Axis
    activation: Activation | None = None


@dataclass(frozen=True)
class Shuffle:
    """Channels to positions: channel (c · high + y) · wide + x of a position becomes channel c of its cell (y, x).

    `factors`: (high, wide). `size`: rows and columns that are kept.
    """

    name: str
    source: str
    target: str
    factors: tuple[int, int]
    size: tuple[int, int]
    activation: Activation | None = None


Computed = Conv | Linear | Pool | Pointwise | Combine | Resize | Shuffle
"""What computes values."""
Op = Computed | Concat | Slice


def reads(op: Op) -> tuple[str, ...]:
    """The values that an operation reads, in its order."""
    if isinstance(op, Concat):
        return op.sources
    if isinstance(op, Combine):
        return op.source, op.other
    residual = getattr(op, "residual", None)
    return (op.source,) if residual is None else (op.source, residual)


def reading(op: Op, names: Sequence[str]) -> Op:
    """The operation on values of other names: as many as it reads."""
    if isinstance(op, Concat):
        return replace(op, sources=tuple(names))
    if len(names) == 1:
        return replace(op, source=names[0])
    source, residual = names
    if isinstance(op, Combine):
        return replace(op, source=source, other=residual)
    assert isinstance(op, Conv | Linear | Pointwise)
    return replace(op, source=source, residual=residual)


@dataclass(frozen=True, eq=False)
class Region:
    """Operations in order. Every value that one reads is an input or the target of an earlier operation."""

    inputs: dict[str, tuple[int, ...]]
    """name -> shape of one image, (C, H, W), (C, L), held as (C, L, 1), or (F,)."""
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]
    """The values that leave the region: (N, C, H, W) or (N, F) tensors, contiguous."""
