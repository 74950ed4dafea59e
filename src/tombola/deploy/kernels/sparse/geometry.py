"""Shapes of values, and a convolution's kernel positions as shifts of its input's maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tombola.deploy.ops import Conv, Linear, Pointwise, Pool, Region
from tombola.errors import TombolaError

Shape = tuple[int, int, int]


def shapes_of(region: Region) -> dict[str, Shape]:
    """Every value's (C, H, W); a vector's is (F, 1, 1).

    Raises:
        TombolaError: an operation does not fit its source, or reads a value that no earlier one gives.
    """
    shapes: dict[str, Shape] = {name: _maps(shape) for name, shape in region.inputs.items()}
    for op in region.ops:
        residual = getattr(op, "residual", None)
        missing = [name for name in (op.source, residual) if name is not None and name not in shapes]
        if missing:
            raise TombolaError(f"{op.name} reads {missing[0]!r}, which nothing before it gives")
        c, h, w = shapes[op.source]
        if isinstance(op, Conv):
            fits, shape = (
                op.weight.shape[1] * op.groups == c,
                (op.weight.shape[0], *_window_out(op, op.weight.shape[2:], h, w)),
            )
        elif isinstance(op, Linear):
            fits, shape = op.weight.shape[1] == c * h * w, (op.weight.shape[0], 1, 1)
        elif isinstance(op, Pool):
            fits, shape = True, (c, *_window_out(op, op.kernel, h, w))
        else:
            fits, shape = True, (c, h, w)
        if not fits or min(shape) < 1 or (residual is not None and shapes[residual] != shape):
            raise TombolaError(f"{op.name} does not fit its input of shape {(c, h, w)}")
        shapes[op.target] = shape
    return shapes


def vectors_of(region: Region) -> set[str]:
    """The values that are vectors (F,), not maps."""
    vectors = {name for name, shape in region.inputs.items() if len(shape) == 1}
    for op in region.ops:
        if isinstance(op, Linear) or (isinstance(op, Pointwise) and op.source in vectors):
            vectors.add(op.target)
    return vectors


def _maps(shape: Sequence[int]) -> Shape:
    c, h, w = (*shape, 1, 1)[:3]
    return c, h, w


def _window_out(op: Conv | Pool, kernel: Sequence[int], height: int, width: int) -> tuple[int, int]:
    dilation, after = (op.dilation, op.after) if isinstance(op, Conv) else ((1, 1), op.padding)
    out = [
        (size + op.padding[i] + after[i] - dilation[i] * (kernel[i] - 1) - 1) // op.stride[i] + 1
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
