"""Steps that turn the caller's floats into words of four channels, and pool words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llvmlite import ir

from tombola.deploy.jit.activations import activated
from tombola.deploy.jit.emitter import BYTES, LANES, V8F, V8I, Emitter, constant
from tombola.deploy.jit.native import F32, I32, I64, Code
from tombola.deploy.kernels.int8.emitted import NUMBERS, quantised
from tombola.deploy.kernels.sparse import pools
from tombola.deploy.ops import Activation
from tombola.machine.locks import once

ENTER_ARGS = (
    "source",  # the address of a word that holds the tensor's address
    "*target",  # words: image, group of four channels, pixel
    "images",  # of the chunk
    "channels",  # floats of one pixel
    "pixels",
    "chunk",  # the address of a word: the current chunk
    "batch",  # the address of a word: how many images there are in all
    "*numbers",
)
_V4F = ir.VectorType(F32, 4)


@once
def enter_words(single: bool) -> Code:
    """Images of channels of contiguous pixels to words; `single`: of one pixel each, so that channels are contiguous.

    Images beyond the batch repeat the last; channels beyond the last repeat it, and have no weights.
    """
    e = Emitter("enter")
    b = e.b
    a = {name: e.arg(i) for i, name in enumerate(name.removeprefix("*") for name in ENTER_ARGS)}
    word = {name: e.load(b.inttoptr(a[name], BYTES), 0, I64) for name in ("source", "chunk", "batch")}
    source, target, numbers = (b.inttoptr(x, BYTES) for x in (word["source"], a["target"], a["numbers"]))
    scales = {name: e.load(numbers, 4 * i, F32) for i, name in enumerate(NUMBERS)}
    groups = b.sdiv(b.add(a["channels"], I64(3)), I64(4))
    first, last = b.mul(word["chunk"], a["images"]), b.sub(word["batch"], I64(1))
    begin, end = e.share(groups)
    with e.loop(I64(0), a["images"]) as i:
        image = b.add(first, i)
        image = b.select(b.icmp_signed("<", image, last), image, last)
        floats = e.at(source, b.mul(image, b.mul(b.mul(a["channels"], a["pixels"]), I64(4))))
        words = e.at(target, b.mul(i, b.mul(b.mul(groups, a["pixels"]), I64(4))))
        if single:
            _channels(e, floats, words, (begin, end), a["channels"], scales)
        else:
            with e.loop(begin, end) as group:
                _pixels(e, floats, words, group, a, scales)
    return e.compiled()


def _channels(
    e: Emitter,
    floats: ir.Value,
    words: ir.Value,
    share: tuple[ir.Value, ir.Value],
    channels: ir.Value,
    scales: Mapping[str, ir.Value],
) -> None:
    """Four floats after each other to a word."""
    b, (begin, end) = e.b, share
    whole = b.sdiv(channels, I64(4))
    stop = b.select(b.icmp_signed("<", end, whole), end, whole)
    wide = {name: _four(e, x) for name, x in scales.items()}
    with e.loop(begin, stop) as group:
        x = e.load(floats, b.mul(group, I64(16)), _V4F)
        narrow = b.trunc(quantised(e, x, wide), ir.VectorType(ir.IntType(8), 4))
        e.store(b.bitcast(narrow, I32), words, b.mul(group, I64(4)))
    with e.loop(stop, end) as group:
        e.store(_word(e, floats, group, I64(4), channels, I64(0), scales), words, b.mul(group, I64(4)))


def _pixels(
    e: Emitter,
    floats: ir.Value,
    words: ir.Value,
    group: ir.Value,
    a: Mapping[str, ir.Value],
    scales: Mapping[str, ir.Value],
) -> None:
    """The pixels of four planes to words."""
    b, pixels = e.b, a["pixels"]
    plane = b.mul(pixels, I64(4))
    out = e.at(words, b.mul(group, plane))
    whole = b.and_(pixels, I64(-LANES))
    wide = {name: e.splat(x) for name, x in scales.items()}
    with e.loop(I64(0), whole, LANES) as x:
        total = constant(V8I, 0)
        for k in range(4):
            line = e.at(floats, b.mul(_channel(e, group, k, a["channels"]), plane))
            q = quantised(e, e.load(line, b.mul(x, I64(4)), V8F), wide)
            total = b.or_(total, b.shl(q, constant(V8I, 8 * k)))
        e.store(total, out, b.mul(x, I64(4)))
    with e.loop(whole, pixels) as x:
        e.store(_word(e, floats, group, plane, a["channels"], x, scales), out, b.mul(x, I64(4)))


def _word(
    e: Emitter,
    floats: ir.Value,
    group: ir.Value,
    plane: ir.Value,
    channels: ir.Value,
    x: ir.Value,
    scales: Mapping[str, ir.Value],
) -> ir.Value:
    b = e.b
    total: ir.Value = I32(0)
    for k in range(4):
        line = e.at(floats, b.mul(_channel(e, group, k, channels), plane))
        q = quantised(e, e.load(line, b.mul(x, I64(4)), F32), scales)
        total = b.or_(total, b.shl(q, I32(8 * k)))
    return total


def _channel(e: Emitter, group: ir.Value, k: int, channels: ir.Value) -> ir.Value:
    b = e.b
    channel, last = b.add(b.mul(group, I64(4)), I64(k)), b.sub(channels, I64(1))
    return b.select(b.icmp_signed("<", channel, last), channel, last)


def _four(e: Emitter, value: ir.Value) -> ir.Value:
    one = e.b.insert_element(ir.Constant(_V4F, ir.Undefined), value, I32(0))
    return e.b.shuffle_vector(one, ir.Constant(_V4F, ir.Undefined), ir.Constant(ir.VectorType(I32, 4), [0] * 4))


POOL_ARGS = (
    *pools.POOL_ARGS,
    "*numbers",
    "count",  # numbers in a window, times the source's zero
)


@dataclass(frozen=True)
class WordPool:
    """The constants of a compiled pooling kernel; the mean is (the sum of q - count · zero) · residual_step."""

    kind: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    activation: Activation | None
    lanes: bool


@once
def word_pool(window: WordPool) -> Code:
    """The maximum or mean of each of the four bytes over windows; positions beyond the map do not count."""
    e = Emitter("word_pool")
    b, a = e.b, e.named(POOL_ARGS)
    kind = V8I if window.lanes else I32
    floats = V8F if window.lanes else F32
    numbers = {name: e.load(a["numbers"], 4 * i, F32) for i, name in enumerate(NUMBERS)}
    numbers = {name: e.splat(x) if window.lanes else x for name, x in numbers.items()}
    width = b.mul(a["lanes"], I64(4))  # bytes of a position

    def bytes_of(word: ir.Value) -> list[ir.Value]:
        return [b.and_(b.lshr(word, constant(kind, 8 * k)), constant(kind, 255)) for k in range(4)]

    def extent(place: ir.Value, axis: int, size: ir.Value) -> tuple[ir.Value, ir.Value]:
        start = b.sub(b.mul(place, I64(window.stride[axis])), I64(window.padding[axis]))
        stop = b.add(start, I64(window.kernel[axis]))
        return (
            b.select(b.icmp_signed(">", start, I64(0)), start, I64(0)),
            b.select(b.icmp_signed("<", stop, size), stop, size),
        )

    def cell(source: ir.Value, y: ir.Value, x: ir.Value) -> ir.Value:
        rows, columns = extent(y, 0, a["source_height"]), extent(x, 1, a["source_width"])

        def line(row: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
            def one(column: ir.Value, found: list[ir.Value]) -> list[ir.Value]:
                offset = b.add(b.mul(row, a["source_row"]), b.mul(column, width))
                here = bytes_of(e.load(source, offset, kind))
                if window.kind == "mean":
                    return [b.add(f, h) for f, h in zip(found, here, strict=True)]
                return [b.select(b.icmp_signed(">", h, f), h, f) for f, h in zip(found, here, strict=True)]

            return e.fold(columns, 1, totals, one)

        found = e.fold(rows, 1, [constant(kind, 0)] * 4, line)
        if window.kind == "mean":
            count = b.trunc(a["count"], I32)
            taken = e.splat(count) if window.lanes else count
            means = [b.fmul(b.sitofp(b.sub(x, taken), floats), numbers["residual_step"]) for x in found]
            found = [quantised(e, activated(e, x, window.activation), numbers) for x in means]
        total = found[0]
        for k in (1, 2, 3):
            total = b.or_(total, b.shl(found[k], constant(kind, 8 * k)))
        return total

    begin, end = e.share(a["channels"])
    with e.loop(I64(0), a["images"]) as i, e.loop(begin, end) as c, e.loop(I64(0), a["height"]) as y:
        source = e.at(a["source"], b.add(b.mul(i, a["source_image"]), b.mul(c, a["source_channel"])))
        target = e.at(a["target"], b.add(b.mul(i, a["target_image"]), b.mul(c, a["target_channel"])))
        target = e.at(target, b.mul(y, a["target_row"]))
        with e.loop(I64(0), a["width"]) as x, e.loop(I64(0), width, 32 if window.lanes else 4) as lane:
            value = cell(e.at(source, lane), y, x)
            e.store(value, target, b.add(b.mul(x, width), lane))
    return e.compiled()
