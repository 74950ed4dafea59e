"""Pooling and pointwise steps, in both layouts: rows of floats, or rows of lanes of 8 images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from tombola.deploy.jit.activations import activated
from tombola.deploy.jit.emitter import LANES, V8F, Emitter, constant
from tombola.deploy.jit.native import F32, I64, Code
from tombola.deploy.ops import Activation
from tombola.machine.locks import once

POOL_ARGS = (
    "*source",
    "source_image",  # bytes between images, channels, rows
    "source_channel",
    "source_row",
    "*target",
    "target_image",
    "target_channel",
    "target_row",
    "images",  # maps outside the innermost loop: 1 where images lie innermost
    "channels",
    "height",  # of the target
    "width",
    "source_height",
    "source_width",
    "lanes",  # images innermost: 1 or a multiple of 8
)
POINT_ARGS = (*POOL_ARGS[:12], "*residual", "residual_image", "residual_channel", "residual_row", "*scale", "*shift")


Extent = tuple[ir.Value, ir.Value]
"""(begin, end) of rows or columns"""
Cell = Callable[[ir.Value, ir.Value], ir.Value]
"""(row, column) → the value there"""


@dataclass(frozen=True)
class PoolWindow:
    """The constants of a compiled pooling kernel."""

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    cut: bool
    """Whether a window may reach beyond the end of the map."""
    activation: Activation | None
    lanes: bool


@once
def pool_kernel(window: PoolWindow) -> Code:
    """The maximum or mean over windows; positions beyond the map do not count (the mean has none)."""
    e = Emitter("pool")
    b = e.b
    a = e.named(POOL_ARGS)
    source, target = a["source"], a["target"]
    begin, end = e.share(a["channels"])
    stride = b.mul(a["lanes"], I64(4))
    kind = V8F if window.lanes else F32
    fixed = window.padding == (0, 0) and not window.cut and window.kernel[0] * window.kernel[1] <= 16
    with e.loop(I64(0), a["images"]) as image, e.loop(begin, end) as c, e.loop(I64(0), a["height"]) as y:
        from_ = b.add(b.mul(image, a["source_image"]), b.mul(c, a["source_channel"]))
        to = b.add(b.add(b.mul(image, a["target_image"]), b.mul(c, a["target_channel"])), b.mul(y, a["target_row"]))
        rows = _extent(e, window, 0, y, a["source_height"])
        with e.loop(I64(0), a["width"]) as x:
            columns = _extent(e, window, 1, x, a["source_width"])
            with e.loop(I64(0), a["lanes"], LANES if window.lanes else 1) as lane:
                here = e.at(e.at(source, from_), b.mul(lane, I64(4)))

                def cell(ky: ir.Value, kx: ir.Value, here: ir.Value = here) -> ir.Value:
                    return e.load(here, b.add(b.mul(ky, a["source_row"]), b.mul(kx, stride)), kind)

                value = _fixed(e, window, rows, columns, cell) if fixed else _walk(e, window, rows, columns, cell, kind)
                if window.kind == "mean":
                    value = b.fmul(value, constant(kind, 1.0 / (window.kernel[0] * window.kernel[1])))
                value = activated(e, value, window.activation)
                e.store(value, e.at(e.at(target, to), b.mul(lane, I64(4))), b.mul(x, stride))
    return e.compiled()


def _extent(e: Emitter, window: PoolWindow, axis: int, at: ir.Value, size: ir.Value) -> Extent:
    """(begin, end) of the source's rows or columns under the window."""
    b = e.b
    first = b.sub(b.mul(at, I64(window.stride[axis])), I64(window.padding[axis]))
    last = b.add(first, I64(window.kernel[axis]))
    if window.padding[axis]:
        first = b.select(b.icmp_signed("<", first, I64(0)), I64(0), first)
    return first, b.select(b.icmp_signed("<", last, size), last, size)


def _join(e: Emitter, window: PoolWindow, one: ir.Value, other: ir.Value) -> ir.Value:
    return e.larger(one, other) if window.kind == "max" else e.b.fadd(one, other, flags=("reassoc",))


def _fixed(e: Emitter, window: PoolWindow, rows: Extent, columns: Extent, cell: Cell) -> ir.Value:
    """The windows that lie inside the map, unrolled."""
    cells = [
        cell(e.b.add(rows[0], I64(ky)), e.b.add(columns[0], I64(kx)))
        for ky in range(window.kernel[0])
        for kx in range(window.kernel[1])
    ]
    return functools.reduce(lambda one, other: _join(e, window, one, other), cells)


def _walk(e: Emitter, window: PoolWindow, rows: Extent, columns: Extent, cell: Cell, kind: ir.Type) -> ir.Value:
    """Windows cut off by the border, or large ones."""
    start = constant(kind, float("-inf") if window.kind == "max" else 0.0)

    def along(ky: ir.Value, best: list[ir.Value]) -> list[ir.Value]:
        def step(kx: ir.Value, best: list[ir.Value]) -> list[ir.Value]:
            return [_join(e, window, best[0], cell(ky, kx))]

        return e.fold(columns, 1, best, step)

    best: ir.Value = e.fold(rows, 1, [start], along)[0]
    return best


@once
def pointwise_kernel(activation: Activation | None, residual: bool) -> Code:
    """activation(scale · source + shift + residual) over rows of `width` floats; scale and shift per channel."""
    e = Emitter("pointwise")
    b = e.b
    a = e.named(POINT_ARGS)
    begin, end = e.share(a["channels"])
    sides = ("source", "target", "residual") if residual else ("source", "target")
    with e.loop(I64(0), a["images"]) as image, e.loop(begin, end) as c:
        scale, shift = (e.load(a[name], b.mul(c, I64(4)), F32) for name in ("scale", "shift"))
        maps = {
            side: e.at(a[side], b.add(b.mul(image, a[f"{side}_image"]), b.mul(c, a[f"{side}_channel"])))
            for side in sides
        }
        with e.loop(I64(0), a["height"]) as y, e.loop(I64(0), a["width"]) as x:
            at = {side: b.add(b.mul(y, a[f"{side}_row"]), b.mul(x, I64(4))) for side in sides}
            value = e.fma(scale, e.load(maps["source"], at["source"], F32), shift)
            if residual:
                value = b.fadd(value, e.load(maps["residual"], at["residual"], F32))
            e.store(activated(e, value, activation), maps["target"], at["target"])
    return e.compiled()
