"""Steps on maps, each channel by itself: two combined number by number, resized, channels laid out as positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from tombola.deploy.jit.activations import activated
from tombola.deploy.jit.emitter import LANES, V8F, Emitter
from tombola.deploy.jit.native import F32, I64, Code
from tombola.deploy.kernels.sparse.pools import POOL_ARGS
from tombola.deploy.ops import Activation
from tombola.machine.locks import once

_MAPS = POOL_ARGS[:12]
COMBINE_ARGS = (*_MAPS, "lanes", "*other", "other_image", "other_channel", "other_row")
RESIZE_ARGS = (
    *_MAPS,
    "lanes",
    "*first_rows",  # int64 (height,): bytes to each row's first and second
    "*second_rows",
    "*first_columns",
    "*second_columns",
    "*row_weights",  # float32 (2, height), (2, width)
    "*column_weights",
)
SHUFFLE_ARGS = (*_MAPS, "lanes", "high", "wide")


@contextmanager
def _rows(e: Emitter, a: dict[str, ir.Value]) -> Iterator[tuple[ir.Value, ir.Value, ir.Value]]:
    """For each image, channel of this thread's share and row of the target: their numbers."""
    begin, end = e.share(a["channels"])
    with e.loop(I64(0), a["images"]) as image, e.loop(begin, end) as c, e.loop(I64(0), a["height"]) as y:
        yield image, c, y


def _line(e: Emitter, a: dict[str, ir.Value], side: str, at: tuple[ir.Value, ir.Value, ir.Value]) -> ir.Value:
    """The address of a row of a side."""
    offset = I64(0)
    for index, between in zip(at, ("image", "channel", "row"), strict=True):
        offset = e.b.add(offset, e.b.mul(index, a[f"{side}_{between}"]))
    return e.at(a[side], offset)


@once
def combine_kernel(kind: str, activation: Activation | None, *, lanes: bool, along: bool) -> Code:
    """activation(source `kind` other); `along`: whether the other has a number for each column, else one for all."""
    e = Emitter("combine")
    b = e.b
    a = e.named(COMBINE_ARGS)
    combine = {"add": b.fadd, "sub": b.fsub, "mul": b.fmul, "div": b.fdiv}[kind]
    with _rows(e, a) as at:
        source, target, other = (_line(e, a, side, at) for side in ("source", "target", "other"))

        def put(offset: ir.Value, value: ir.Value) -> None:
            result = combine(e.load(source, offset, value.type), value)
            e.store(activated(e, result, activation), target, offset)

        if lanes:
            between = b.mul(a["lanes"], I64(4))
            with e.loop(I64(0), a["width"]) as x, e.loop(I64(0), a["lanes"], LANES) as lane:
                here = b.mul(lane, I64(4))
                offset = b.add(b.mul(x, between), here)
                put(offset, e.load(other, offset if along else here))
        else:
            one = None if along else e.load(other, 0, F32)
            all_of_one = None if one is None else e.splat(one)
            whole = b.and_(a["width"], I64(-LANES))
            with e.loop(I64(0), whole, LANES) as x:
                offset = b.mul(x, I64(4))
                put(offset, e.load(other, offset) if all_of_one is None else all_of_one)
            with e.loop(whole, a["width"]) as x:
                offset = b.mul(x, I64(4))
                put(offset, e.load(other, offset, F32) if one is None else one)
    return e.compiled()


@once
def resize_kernel(activation: Activation | None, *, lanes: bool, rows: bool, columns: bool) -> Code:
    """Each position from one, or from two of its rows and columns by weights where `rows` and `columns` are blended."""
    e = Emitter("resize")
    b = e.b
    a = e.named(RESIZE_ARGS)
    kind = V8F if lanes else F32

    def offset(name: str, index: ir.Value) -> ir.Value:
        return e.load(a[name], b.mul(index, I64(8)), I64)

    def weights(name: str, index: ir.Value, count: ir.Value) -> list[ir.Value]:
        found = [e.load(a[name], b.mul(i, I64(4)), F32) for i in (index, b.add(count, index))]
        return [e.splat(one) for one in found] if lanes else found

    def blended(blend: bool, shares: list[ir.Value], one: ir.Value, other: ir.Value | None) -> ir.Value:
        return e.fma(shares[1], other, b.fmul(shares[0], one)) if blend else one

    with _rows(e, a) as (image, c, y):
        source, target = _line(e, a, "source", (image, c, I64(0))), _line(e, a, "target", (image, c, y))
        lines = [e.at(source, offset(name, y)) for name in ("first_rows", "second_rows")[: 1 + rows]]
        down = weights("row_weights", y, a["height"]) if rows else []
        between = b.mul(a["lanes"], I64(4))
        with e.loop(I64(0), a["width"]) as x:
            spots = [offset(name, x) for name in ("first_columns", "second_columns")[: 1 + columns]]
            across = weights("column_weights", x, a["width"]) if columns else []
            with e.loop(I64(0), a["lanes"], LANES if lanes else 1) as lane:
                here = b.mul(lane, I64(4))
                pairs = [[e.load(line, b.add(spot, here), kind) for spot in spots] for line in lines]
                one, *other = [blended(columns, across, pair[0], pair[-1]) for pair in pairs]
                value = blended(rows, down, one, other[0] if other else None)
                e.store(activated(e, value, activation), target, b.add(b.mul(x, between), here))
    return e.compiled()


@once
def shuffle_kernel(activation: Activation | None, *, lanes: bool) -> Code:
    """Channel (c · high + y) · wide + x of a position as channel c of its cell (y, x)."""
    e = Emitter("shuffle")
    b = e.b
    a = e.named(SHUFFLE_ARGS)
    kind = V8F if lanes else F32
    between = b.mul(a["lanes"], I64(4))
    with _rows(e, a) as (image, c, y):
        target = _line(e, a, "target", (image, c, y))
        top = b.mul(b.add(b.mul(c, a["high"]), b.srem(y, a["high"])), a["wide"])
        with e.loop(I64(0), a["wide"]) as phase:
            source = _line(e, a, "source", (image, b.add(top, phase), b.sdiv(y, a["high"])))
            count = b.sdiv(b.add(b.sub(a["width"], phase), b.sub(a["wide"], I64(1))), a["wide"])
            with e.loop(I64(0), count) as x, e.loop(I64(0), a["lanes"], LANES if lanes else 1) as lane:
                here = b.mul(lane, I64(4))
                value = e.load(source, b.add(b.mul(x, between), here), kind)
                to = b.add(b.mul(b.add(b.mul(x, a["wide"]), phase), between), here)
                e.store(activated(e, value, activation), target, to)
    return e.compiled()
