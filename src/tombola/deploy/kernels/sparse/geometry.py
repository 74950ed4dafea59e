"""Shapes of values, and a convolution's kernel positions as shifts of its input's maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tombola.deploy.ops import Combine, Concat, Conv, Linear, Op, Pool, Region, Resize, Shuffle, Slice, reads
from tombola.errors import TombolaError

Shape = tuple[int, int, int]


def shapes_of(region: Region) -> dict[str, Shape]:
    """Every value's (C, H, W); a vector's is (F, 1, 1).

    Raises:
        TombolaError: an operation does not fit its source, or reads a value that no earlier one gives.
    """
    shapes: dict[str, Shape] = {name: _maps(shape) for name, shape in region.inputs.items()}
    for op in region.ops:
        missing = [name for name in reads(op) if name not in shapes]
        if missing:
            raise TombolaError(f"{op.name} reads {missing[0]!r}, which nothing before it gives")
        sources = [shapes[name] for name in reads(op)]
        shape = _shape(op, sources)
        if shape is None or min(shape) < 1:
            raise TombolaError(f"{op.name} does not fit its input of shape {sources[0]}")
        shapes[op.target] = shape
    return shapes


def _shape(op: Op, sources: Sequence[Shape]) -> Shape | None:
    """The shape of an operation's value; None where it does not fit what it reads."""
    c, h, w = sources[0]
    match op:
        case Concat():
            alike = all(shape[1:] == (h, w) for shape in sources)
            return (sum(shape[0] for shape in sources), h, w) if alike else None
        case Slice():
            return (op.stop - op.start, h, w) if op.start >= 0 and op.stop <= c else None
        case Combine():
            near = all(n in (1, size) for n, size in zip(sources[1], (c, h, w), strict=True))
            return (c, h, w) if near else None
        case Resize():
            reach = [max(map(int, axis.first.tolist() + axis.second.tolist())) for axis in (op.rows, op.columns)]
            return (c, len(op.rows.first), len(op.columns.first)) if reach[0] < h and reach[1] < w else None
        case Shuffle():
            each = op.factors[0] * op.factors[1]
            inside = op.size[0] <= h * op.factors[0] and op.size[1] <= w * op.factors[1]
            return (c // each, *op.size) if c % each == 0 and inside else None
        case Conv():
            fits = op.weight.shape[1] * op.groups == c
            shape = (op.weight.shape[0], *_window_out(op, op.weight.shape[2:], h, w))
        case Linear():
            fits, shape = op.weight.shape[1] == c * h * w, (op.weight.shape[0], 1, 1)
        case Pool():
            fits, shape = True, (c, *_window_out(op, op.kernel, h, w))
        case _:
            fits, shape = True, (c, h, w)
    return shape if fits and all(other == shape for other in sources[1:]) else None


def vectors_of(region: Region) -> set[str]:
    """The values that are vectors (F,), not maps."""
    vectors = {name for name, shape in region.inputs.items() if len(shape) == 1}
    for op in region.ops:
        if isinstance(op, Linear) or (not isinstance(op, Conv | Pool | Resize | Shuffle) and reads(op)[0] in vectors):
            vectors.add(op.target)
    return vectors


def _maps(shape: Sequence[int]) -> Shape:
    c, h, w = (*shape, 1, 1)[:3]
    return c, h, w


def _window_out(op: Conv | Pool, kernel: Sequence[int], height: int, width: int) -> tuple[int, int]:
    dilation = op.dilation if isinstance(op, Conv) else (1, 1)
    out = [
        (size + op.padding[i] + op.after[i] - dilation[i] * (kernel[i] - 1) - 1) // op.stride[i] + 1
        for i, size in enumerate((height, width))
    ]
    return out[0], out[1]


@dataclass(frozen=True)
class Taps:
    """Along one axis of a strided convolution: kernel position k reads position (out + shift[k]) of phase[k].

    Phase r of an axis holds the positions r, r + stride, r + 2·stride ...
    """

    phase: tuple[int, ...]
    shift: tuple[int, ...]
    size: int
    """Of the longest phase."""
    border: int
    """Zeros needed before and after."""


def taps(op: Conv, axis: int, size: int, out: int) -> Taps:
    """The taps of axis 0 or 1 of a convolution from `size` to `out` positions."""
    stride = op.stride[axis]
    reach = [k * op.dilation[axis] - op.padding[axis] for k in range(op.weight.shape[2 + axis])]
    shift = tuple(r // stride for r in reach)
    positions = -(-size // stride)
    border = max(0, -min(shift), out + max(shift) - positions)
    return Taps(tuple(r % stride for r in reach), shift, positions, border)
