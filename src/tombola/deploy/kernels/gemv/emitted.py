"""The emitted steps of sparse matrix-vector products: y = activation(scale · (W x) + bias + residual)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from tombola.deploy.jit.activations import activated
from tombola.deploy.jit.emitter import BYTES, V8F, V8I, ZERO, Emitter
from tombola.deploy.jit.native import F32, I32, I64, Code
from tombola.deploy.kernels.gemv.gaps import LANES, Coding
from tombola.deploy.kernels.gemv.planes import COLUMNS, ROWS
from tombola.deploy.ops import Activation
from tombola.machine.locks import once

_SIGN = -(2**31)  # the sign bit of a float
_VECTOR = 4 * LANES  # bytes
_TURN = 4  # vectors of inputs in one unrolled step: more would spill registers


@dataclass(frozen=True)
class Ending:
    """What is done with a sum before it is stored: scaled, bias and residual added, an activation."""

    scale: bool
    bias: bool
    residual: bool
    activation: Activation | None


@once
def gaps_step(coding: Coding, ending: Ending) -> Code:
    """The step for matrices as `gaps.code` writes them.

    Arguments: source, target, residual, scale, bytes between scales, bias; words, starts, groups, order.
    """
    e = Emitter("gaps")
    b = e.b
    finish = _finish(e, ending)
    source, words, starts, groups, order = e.pointer(0), e.pointer(6), e.pointer(7), e.arg(8), e.pointer(9)
    sums = b.bitcast(b.alloca(V8F, coding.rows), BYTES)
    add = _signs_word if coding.signs else _weights_word
    first, last = e.share(e.load(starts, b.mul(groups, I64(8)), I64))  # each thread reads about as many words
    with e.loop(I64(0), groups) as group:
        start, stop = (e.load(starts, b.mul(b.add(group, I64(d)), I64(8)), I64) for d in (0, 1))
        with b.if_then(b.and_(b.icmp_signed("<=", first, start), b.icmp_signed("<", start, last))):

            def word(number: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
                return add(e, coding, source, e.at(words, b.mul(number, I64(coding.word_bytes))), values)

            positions = [_all(-1)] if coding.signs else [I64(0)] * LANES
            folded = e.fold((start, stop), 1, [*positions, *[ZERO] * coding.rows], word)
            for v, total in enumerate(folded[len(positions) :]):
                e.store(total, sums, _VECTOR * v)
            rows = e.at(order, b.mul(group, I64(_VECTOR * coding.rows)))
            with e.loop(I64(0), I64(LANES * coding.rows)) as i:
                row = e.load(rows, b.mul(i, I64(4)), I32)
                with b.if_then(b.icmp_signed(">=", row, I32(0))):
                    finish(e.load(sums, b.mul(i, I64(4)), F32), b.sext(row, I64))
    return e.compiled()


@once
def planes_step(ending: Ending) -> Code:
    """The step for matrices as `planes.planes` writes them.

    Arguments: source, target, residual, scale, bytes between scales, bias; words, rows, columns.
    """
    e = Emitter("planes")
    b = e.b
    finish = _finish(e, ending)
    source, words, rows, columns = e.pointer(0), e.pointer(6), e.arg(7), e.arg(8)
    blocks = b.sdiv(b.add(columns, I64(COLUMNS - 1)), I64(COLUMNS))
    block_bytes = I64(2 * ROWS * _VECTOR)
    with e.loop(*e.share(b.sdiv(b.add(rows, I64(ROWS - 1)), I64(ROWS)))) as group:

        def block(number: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            start = b.mul(number, I64(COLUMNS))
            last = b.sub(columns, I64(COLUMNS))  # of the last block, which overlaps the one before it
            start = b.select(b.icmp_signed("<", start, last), start, last)
            bits = e.at(words, b.mul(b.add(b.mul(group, blocks), number), block_bytes))
            return _block(e, e.at(source, b.mul(start, I64(4))), bits, sums)

        sums = e.fold((I64(0), blocks), 1, [ZERO] * ROWS, block)
        for r in range(ROWS):
            row = b.add(b.mul(group, I64(ROWS)), I64(r))
            with b.if_then(b.icmp_signed("<", row, rows)):
                finish(_across(e, sums[r]), row)
    return e.compiled()


def _weights_word(
    e: Emitter, coding: Coding, source: ir.Value, word: ir.Value, values: list[ir.Value]
) -> list[ir.Value]:
    """(position of each lane, sums of each row) after the entries of a word.

    Positions are kept in general registers: extracting eight from a vector would cost more than loading their gaps.
    """
    b = e.b
    positions, sums = values[:LANES], values[LANES:]
    kind = ir.IntType(coding.field_bits)
    for k in range(coding.per_word):
        x = ir.Constant(V8F, ir.Undefined)
        for lane in range(LANES):
            gap = b.load(b.bitcast(e.at(word, 4 * lane + coding.field_bits // 8 * k), kind.as_pointer()))
            positions[lane] = b.add(positions[lane], b.zext(gap, I64))
            x = b.insert_element(x, _float_at(e, source, positions[lane]), I32(lane))
        for v in range(coding.rows):
            sums[v] = e.fma(e.load(word, _VECTOR * (1 + k * coding.rows + v)), x, sums[v])
    return [*positions, *sums]


def _signs_word(e: Emitter, coding: Coding, source: ir.Value, word: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
    """(positions of the lanes, sums of the rows) after the entries of a word."""
    b = e.b
    positions, *sums = values
    fields = e.load(word, 0, V8I)
    for k in range(coding.per_word):
        low = k * coding.field_bits
        gap = b.and_(b.lshr(fields, _all(low)), _all(coding.max_gap))
        kept = b.icmp_signed("!=", gap, _all(coding.max_gap))
        positions = b.sub(b.add(positions, gap), b.sext(kept, V8I))
        x = b.select(kept, _gather(e, source, b.select(kept, positions, _all(0))), ZERO)
        for v in range(coding.rows):
            high = b.shl(fields, _all(31 - low - coding.gap_bits - v))
            signed = b.xor(b.bitcast(x, V8I), b.and_(high, _all(_SIGN)))
            sums[v] = b.fadd(sums[v], b.bitcast(signed, V8F))
    return [positions, *sums]


def _gather(e: Emitter, source: ir.Value, positions: ir.Value) -> ir.Value:
    """The inputs at eight positions.

    Single loads, two positions to a register: as fast as the gather instruction of Zen 3, and available everywhere.
    """
    b = e.b
    pairs = b.bitcast(positions, ir.VectorType(I64, LANES // 2))
    x = ir.Constant(V8F, ir.Undefined)
    for lane in range(LANES):
        pair = b.extract_element(pairs, I32(lane // 2))
        position = b.lshr(pair, I64(32)) if lane % 2 else b.and_(pair, I64(2**32 - 1))
        x = b.insert_element(x, _float_at(e, source, position), I32(lane))
    return x


def _float_at(e: Emitter, source: ir.Value, position: ir.Value) -> ir.Value:
    value = e.b.load(e.b.gep(e.b.bitcast(source, F32.as_pointer()), [position]))
    value.align = 4
    return value


def _block(e: Emitter, source: ir.Value, bits: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
    """The sums of the rows after a block of columns; the bits of a lane count from the highest."""
    b = e.b
    zero = _all(0)

    def turn(k: ir.Value, values: list[ir.Value]) -> list[ir.Value]:
        sums, kept, negative = values[:ROWS], values[ROWS : 2 * ROWS], values[2 * ROWS :]
        for i in range(_TURN):
            x = e.load(source, b.mul(b.add(k, I64(i)), I64(_VECTOR)))
            minus = b.bitcast(b.xor(b.bitcast(x, V8I), _all(_SIGN)), V8F)
            for r in range(ROWS):
                signed = b.select(b.icmp_signed("<", b.shl(negative[r], _all(i)), zero), minus, x)
                sums[r] = b.fadd(sums[r], b.select(b.icmp_signed("<", b.shl(kept[r], _all(i)), zero), signed, ZERO))
        return [*sums, *(b.shl(word, _all(_TURN)) for word in (*kept, *negative))]

    words = [e.load(bits, _VECTOR * (2 * r + plane), V8I) for plane in (0, 1) for r in range(ROWS)]
    return e.fold((I64(0), I64(32)), _TURN, [*sums, *words], turn)[:ROWS]


def _across(e: Emitter, value: ir.Value) -> ir.Value:
    """The sum of the lanes."""
    b = e.b
    for half in (4, 2, 1):
        swap = ir.Constant(V8I, [(i + half) % LANES for i in range(LANES)])
        value = b.fadd(value, b.shuffle_vector(value, ir.Constant(V8F, ir.Undefined), swap))
    return b.extract_element(value, I32(0))


def _finish(e: Emitter, ending: Ending) -> Callable[[ir.Value, ir.Value], None]:
    """A function that stores (a sum, its row)."""
    b = e.b
    target, residual, scale, between, bias = e.pointer(1), e.pointer(2), e.pointer(3), e.arg(4), e.pointer(5)

    def finish(value: ir.Value, row: ir.Value) -> None:
        offset = b.mul(row, I64(4))
        if ending.scale:
            value = b.fmul(value, e.load(scale, b.mul(row, between), F32))
        if ending.bias:
            value = b.fadd(value, e.load(bias, offset, F32))
        if ending.residual:
            value = b.fadd(value, e.load(residual, offset, F32))
        e.store(activated(e, value, ending.activation), target, offset)

    return finish


def _all(number: int) -> ir.Constant:
    return ir.Constant(V8I, [number] * LANES)
