"""The emitted steps of 8-bit layers: a word of 32 bits holds four channels of one position, a vector eight words.

    for tile, for group of four output rows, for row in it:
        acc[p] = start[row]
        for (offset, four weights) in the row's list:
            acc[p] += weights · in[tile + offset + read[p]]          four products in each lane, summed in 32 bits
        y[p] = activation(float(acc[p]) · scale[row] + bias[row] + residual)
        out[tile + group + write[p]] gets y[p] as byte `row` of its words, or as floats

Sums are exact, so that all of DOTS give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llvmlite import ir

from tombola.deploy.jit.activations import activated
from tombola.deploy.jit.emitter import BYTES, LANES, V8F, V8I, Emitter
from tombola.deploy.jit.native import F32, I32, I64, Code, host_features
from tombola.deploy.ops import Activation
from tombola.machine.locks import once

ARGS = (
    "*entries",  # (int32 offset in bytes, 4 int8), contiguous, by row
    "*starts",  # int32 (4 · groups + 1): where each row's list starts, in entries
    "*bounds",  # int64 (threads + 1): which groups a thread does
    "*rows",  # (int32 start, float32 scale, float32 bias) of each row
    "*tiles",  # int64 (tiles, 4): bytes from source, target, residual and masks to the tile
    "tile_count",
    "*source",
    "*target",
    "*residual",
    "*masks",  # int32: per tile, per vector 8 words, -1 where a lane counts
    "target_stride",  # bytes between channels of the target
    "residual_stride",
    "*numbers",  # float32, see NUMBERS
    "fill",  # the word of four zeros
)
NUMBERS = ("inverse", "low", "high", "zero", "residual_step", "residual_zero")
"""Of the target: 1 / step, the bounds of its q - zero, its zero; of the residual: its step and zero."""
_ROW = 12  # bytes in `rows`
_B32, _S16 = ir.VectorType(ir.IntType(8), 32), ir.VectorType(ir.IntType(16), 16)
Dot = Callable[[Emitter, ir.Value, ir.Value, ir.Value], ir.Value]
"""(emitter, sums, inputs, weights) → sums + the products of four unsigned with four signed bytes in each lane."""


@dataclass(frozen=True)
class WordKernel:
    """The constants of a compiled kernel. `read`, `write`, `add`: bytes from a tile's base to each vector.

    `floats`: whether it writes floats, each row a channel of its own, instead of words. `dot`: of DOTS.
    """

    read: tuple[int, ...]
    write: tuple[int, ...]
    add: tuple[int, ...] | None
    activation: Activation | None
    masked: bool
    floats: bool
    dot: str


# ---- products of bytes ---------------------------------------------------------------------------------------------


def _call(e: Emitter, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return e.b.call(e.module.globals.get(name) or ir.Function(e.module, kind, name), args)


def _vnni(e: Emitter, sums: ir.Value, inputs: ir.Value, weights: ir.Value) -> ir.Value:
    return _call(e, "llvm.x86.avx512.vpdpbusd.256", V8I, sums, inputs, weights)


def _avx2(e: Emitter, sums: ir.Value, inputs: ir.Value, weights: ir.Value) -> ir.Value:
    """Pairs are summed in 16 bits, which `rows_of` has room for."""
    b = e.b
    pairs = _call(e, "llvm.x86.avx2.pmadd.ub.sw", _S16, b.bitcast(inputs, _B32), b.bitcast(weights, _B32))
    return b.add(sums, _call(e, "llvm.x86.avx2.pmadd.wd", V8I, pairs, ir.Constant(_S16, [1] * 16)))


def _plain(e: Emitter, sums: ir.Value, inputs: ir.Value, weights: ir.Value) -> ir.Value:
    b = e.b
    for k in range(4):
        x = b.and_(b.lshr(inputs, _all(8 * k)), _all(255))
        w = b.ashr(b.shl(weights, _all(24 - 8 * k)), _all(24))
        sums = b.add(sums, b.mul(x, w))
    return sums


DOTS: Mapping[str, Dot] = MappingProxyType({"vnni": _vnni, "avx2": _avx2, "plain": _plain})
"""Products of bytes, the fastest first."""


def dot_of(features: Mapping[str, bool]) -> str:
    """The fastest for a processor of these features, as LLVM names them."""
    if features.get("avxvnni") or (features.get("avx512vnni") and features.get("avx512vl")):
        return "vnni"
    return "avx2" if features.get("avx2") else "plain"


def host_dot() -> str:
    """The fastest of this processor."""
    return dot_of(host_features())


# ---- layers on vectors of positions or images ----------------------------------------------------------------------


@once
def word_kernel(kernel: WordKernel) -> Code:
    """The step `step` of this kernel, arguments as in ARGS."""
    return word_step(kernel).compiled()


def word_step(kernel: WordKernel) -> Emitter:
    """The same, before it is ended and compiled."""
    e = Emitter("words")
    b, a = e.b, e.named(ARGS)
    first = e.load(a["bounds"], b.mul(e.thread, I64(8)), I64)
    last = e.load(a["bounds"], b.mul(b.add(e.thread, I64(1)), I64(8)), I64)
    numbers = {name: _float(e, a["numbers"], 4 * i) for i, name in enumerate(NUMBERS)}
    with e.loop(I64(0), a["tile_count"]) as tile:
        offsets = e.at(a["tiles"], b.mul(tile, I64(32)))
        here = {
            name: e.at(a[name], e.load(offsets, 8 * i, I64))
            for i, name in enumerate(("source", "target", "residual", "masks"))
        }
        with e.loop(first, last) as group:
            _group(e, kernel, a, here, numbers, group)
    return e


def _group(
    e: Emitter,
    kernel: WordKernel,
    a: dict[str, ir.Value],
    here: dict[str, ir.Value],
    numbers: dict[str, ir.Value],
    group: ir.Value,
) -> None:
    """One group of four rows on one tile."""
    b, count = e.b, len(kernel.read)
    dot = DOTS[kernel.dot]
    lists = b.ptrtoint(a["entries"], I64)

    def entry(i: ir.Value, accs: list[ir.Value]) -> list[ir.Value]:
        pair = b.inttoptr(i, BYTES)
        window = e.at(here["source"], b.sext(e.load(pair, 0, I32), I64))
        weights = e.splat(e.load(pair, 4, I32))
        return [dot(e, accs[p], e.load(window, kernel.read[p], V8I), weights) for p in range(count)]

    def row(place: ir.Value, words: list[ir.Value]) -> list[ir.Value]:
        number = b.add(b.mul(group, I64(4)), place)
        own = e.at(a["rows"], b.mul(number, I64(_ROW)))
        begin, end = (
            b.add(lists, b.mul(b.sext(e.load(a["starts"], b.mul(b.add(number, I64(d)), I64(4)), I32), I64), I64(8)))
            for d in (0, 1)
        )
        accs = e.fold((begin, end), 8, [e.splat(e.load(own, 0, I32))] * count, entry)
        scale, bias = _float(e, own, 4), _float(e, own, 8)
        shift = b.shl(b.trunc(place, I32), I32(3))
        found = []
        for p in range(count):
            y = b.fadd(b.fmul(b.sitofp(accs[p], V8F), scale), bias)
            if kernel.add is not None:
                line = e.at(here["residual"], b.mul(group, a["residual_stride"]))
                q = b.and_(b.lshr(e.load(line, kernel.add[p], V8I), e.splat(shift)), _all(255))
                rest = b.fsub(b.sitofp(q, V8F), numbers["residual_zero"])
                y = b.fadd(y, b.fmul(rest, numbers["residual_step"]))
            y = activated(e, y, kernel.activation)
            if kernel.floats:
                if kernel.masked:
                    y = b.bitcast(b.and_(b.bitcast(y, V8I), e.load(here["masks"], 32 * p, V8I)), V8F)
                e.store(y, e.at(here["target"], b.mul(number, a["target_stride"])), kernel.write[p])
                continue
            q = quantised(e, y, numbers)
            found.append(b.or_(b.lshr(words[p], _all(8)), b.shl(q, _all(24))))
        return found

    words = e.fold((I64(0), I64(4)), 1, [] if kernel.floats else [_all(0)] * count, row)
    out = e.at(here["target"], b.mul(group, a["target_stride"]))
    for p, word in enumerate(words):
        if kernel.masked:
            counts = b.icmp_signed("!=", e.load(here["masks"], 32 * p, V8I), _all(0))
            word = b.select(counts, word, e.splat(b.trunc(a["fill"], I32)))
        e.store(word, out, kernel.write[p])


def quantised(e: Emitter, y: ir.Value, numbers: Mapping[str, ir.Value]) -> ir.Value:
    """round(y / step) + zero in lanes of int32, half to even, within 0 and 255; NaN gives 0."""
    b = e.b
    kind = y.type
    name = {V8F: "llvm.rint.v8f32", F32: "llvm.rint.f32"}.get(kind, "llvm.rint.v4f32")
    t = _call(e, name, kind, b.fmul(y, numbers["inverse"]))
    t = b.select(b.fcmp_ordered(">", t, numbers["low"]), t, numbers["low"])
    t = b.select(b.fcmp_ordered("<", t, numbers["high"]), t, numbers["high"])
    whole = ir.VectorType(I32, kind.count) if isinstance(kind, ir.VectorType) else I32
    return b.fptosi(b.fadd(t, numbers["zero"]), whole)


# ---- linear layers on one vector -----------------------------------------------------------------------------------

GEMV_ARGS = (
    "*source",
    "*target",
    "*residual",
    "*words",  # per entry of eight units: 8 uint16 positions of words, 8 x 4 int8
    "*starts",  # int64 (groups + 1): a group's first entry
    "groups",
    "*order",  # int32 (groups, 8): which row a lane computes; -1: none
    "*rows",  # as in ARGS
    "*numbers",
)
ENTRY = 48  # bytes


@dataclass(frozen=True)
class VectorKernel:
    """The constants of a compiled product with one vector; otherwise as `WordKernel`. Targets are bytes or floats."""

    activation: Activation | None
    residual: bool
    floats: bool
    dot: str


@once
def vector_kernel(kernel: VectorKernel) -> Code:
    """The step `step` of this kernel, arguments as in GEMV_ARGS."""
    e = Emitter("vector")
    b, a = e.b, e.named(GEMV_ARGS)
    dot = DOTS[kernel.dot]
    numbers = {name: e.load(a["numbers"], 4 * i, F32) for i, name in enumerate(NUMBERS)}
    first, last = e.share(e.load(a["starts"], b.mul(a["groups"], I64(8)), I64))
    sums = b.bitcast(b.alloca(V8I), BYTES)

    def entry(i: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        here = e.at(a["words"], b.mul(i, I64(ENTRY)))
        x = ir.Constant(V8I, ir.Undefined)
        for lane in range(LANES):
            place = b.load(b.bitcast(e.at(here, 2 * lane), ir.IntType(16).as_pointer()))
            word = e.load(a["source"], b.shl(b.zext(place, I64), I64(2)), I32)
            x = b.insert_element(x, word, I32(lane))
        return [dot(e, values[0], x, e.load(here, 16, V8I))]

    with e.loop(I64(0), a["groups"]) as group:
        start, stop = (e.load(a["starts"], b.mul(b.add(group, I64(d)), I64(8)), I64) for d in (0, 1))
        with b.if_then(b.and_(b.icmp_signed("<=", first, start), b.icmp_signed("<", start, last))):
            (total,) = e.fold((start, stop), 1, [_all(0)], entry)
            e.store(total, sums)
            order = e.at(a["order"], b.mul(group, I64(4 * LANES)))
            with e.loop(I64(0), I64(LANES)) as lane:
                row = e.load(order, b.mul(lane, I64(4)), I32)
                with b.if_then(b.icmp_signed(">=", row, I32(0))):
                    total = e.load(sums, b.mul(lane, I64(4)), I32)
                    _finish(e, kernel, a, numbers, total, b.sext(row, I64))
    return e.compiled()


def _finish(
    e: Emitter,
    kernel: VectorKernel,
    a: dict[str, ir.Value],
    numbers: dict[str, ir.Value],
    total: ir.Value,
    row: ir.Value,
) -> None:
    b = e.b
    own = e.at(a["rows"], b.mul(row, I64(_ROW)))
    total = b.add(total, e.load(own, 0, I32))
    y = b.fadd(b.fmul(b.sitofp(total, F32), e.load(own, 4, F32)), e.load(own, 8, F32))
    if kernel.residual:
        q = b.zext(b.load(e.at(a["residual"], row)), I32)
        rest = b.fsub(b.sitofp(q, F32), numbers["residual_zero"])
        y = b.fadd(y, b.fmul(rest, numbers["residual_step"]))
    y = activated(e, y, kernel.activation)
    if kernel.floats:
        e.store(y, a["target"], b.mul(row, I64(4)))
    else:
        b.store(b.trunc(quantised(e, y, numbers), ir.IntType(8)), e.at(a["target"], row))


def _float(e: Emitter, base: ir.Value, offset: int) -> ir.Value:
    return e.splat(e.load(base, offset, F32))


def _all(number: int) -> ir.Constant:
    return ir.Constant(V8I, [number] * LANES)
