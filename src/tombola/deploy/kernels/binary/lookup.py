"""Counting by table look-up, for many positions on processors with byte shuffles of 32 bytes and no vector popcount.

Four input channels of 32 positions are 32 indices of 4 bits; four weights of one output are a table of 16 numbers: how
many of the kept weights disagree with each index. One shuffle of bytes looks up 128 products, one addition sums them.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from tombola.deploy.jit.emitter import Emitter
from tombola.deploy.jit.native import I64, Code
from tombola.deploy.kernels.binary.emitted import COUNT, FOUR, bounds, finish, smaller
from tombola.machine.locks import once

BLOCK = 64
"""Positions that are looked up together, two vectors of 32."""
MAX_WORDS = 1023
"""The most words of a window whose sums fit 16 bits."""
LOOKUP = (*COUNT, "*tables", "*scratch", "room")
"""As COUNT, but `weights`: by group, word and nibble 4 bytes, one for each output of the group: sign bits, and mask
bits times 16; `tables`: uint8 (256, 16), see `disagreements`; `scratch`: `room` bytes for each thread, see `room`."""

_NIBBLES = 16  # of a word
_CHUNK = 3  # words of which at most 3 · 64 disagreements are summed in a byte
_HALF = 32
_UNROLL = 2
_ROW = _NIBBLES * BLOCK  # bytes of indices of one word
_HOMES, _QUADS = 8 * BLOCK, 8 * BLOCK

_V4Q = ir.VectorType(I64, FOUR)
_V4H, _V16H = (ir.VectorType(ir.IntType(16), size) for size in (FOUR, 16))
_V16B, _V32B = (ir.VectorType(ir.IntType(8), size) for size in (16, _HALF))
_V32I = ir.VectorType(ir.IntType(32), _HALF)
_V4I = ir.VectorType(ir.IntType(32), FOUR)


@once
def looks_up() -> bool:
    """Whether the look-up is the faster method on this processor."""
    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:  # not reported on this system
        return False
    return bool(features.get("avx2")) and not features.get("avx512vpopcntdq")


@once
def disagreements() -> NDArray[np.uint8]:
    """(256, 16): popcount((x ^ sign) & mask) for weights mask · 16 + sign and index x."""
    weight, x = np.arange(256)[:, None], np.arange(16)
    differ = (x ^ weight) & (weight >> 4)
    return sum(((differ >> i) & 1 for i in range(FOUR)), np.zeros_like(differ)).astype(np.uint8)


def nibbles(words: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Sign and mask words (groups, words, 2, 4) → bytes (groups, words, 16, 4) as LOOKUP wants them."""
    groups, count = words.shape[:2]
    parts = words.view(np.uint8).reshape(groups, count, 2, FOUR, 8)
    signs, masks = parts[:, :, 0], parts[:, :, 1]
    low, high = signs & 15 | masks << 4, signs >> 4 | masks & 240
    return np.ascontiguousarray(np.stack([low, high], -1).reshape(groups, count, FOUR, _NIBBLES).swapaxes(2, 3))


def room(words: int) -> int:
    """Bytes of scratch of a thread: indices of a block, the addresses of its windows, sums of a group of outputs."""
    return words * _ROW + _HOMES + _QUADS


@once
def lookup_kernel(*, floats: bool, shifts: bool) -> Code:
    """What `count_kernel` gives. Arguments: LOOKUP."""
    e = Emitter("lookup")
    b = e.b
    a = e.named(LOOKUP)
    first, last, low, high = bounds(e, a)
    rows = e.at(a["scratch"], b.mul(e.thread, a["room"]))
    homes = e.at(rows, b.mul(a["words"], I64(_ROW)))
    quads = e.at(homes, _HOMES)
    with e.loop(first, last, BLOCK) as block:
        with e.loop(I64(0), I64(BLOCK)) as k:
            spot = smaller(b, b.add(block, k), b.sub(last, I64(1)))  # the last block may repeat the last position
            e.store(e.load(a["positions"], b.mul(spot, I64(8)), I64), homes, b.mul(k, I64(8)))
        with e.loop(I64(0), a["words"]) as word:
            offset = e.load(a["windows"], b.mul(word, I64(8)), I64)
            _indices(e, e.at(a["bits"], offset), homes, e.at(rows, b.mul(word, I64(_ROW))))
        end = smaller(b, b.add(block, I64(BLOCK)), last)
        with e.loop(low, high) as group:
            _sum(e, a, group, rows, quads)
            with e.loop(block, end) as spot:
                sums = e.load(quads, b.mul(b.sub(spot, block), I64(8)), _V4H)
                finish(e, a, group, spot, b.zext(sums, _V4I), floats=floats, shifts=shifts)
    return e.compiled()


def _indices(e: Emitter, bits: ir.Value, homes: ir.Value, rows: ir.Value) -> None:
    """One word of each window of a block → 16 rows of 64 indices.

    The order within 32 is such that `_sum` ends in order: position 16p + 4m + 2l + s is byte 16l + 4m + 2s + p.
    """
    b = e.b
    for half in range(0, BLOCK, _HALF):
        columns = []
        for i in range(8):
            four = ir.Constant(_V4Q, ir.Undefined)
            for k in range(FOUR):
                home = e.load(homes, 8 * (half + 16 * (i % 2) + FOUR * (i // 2) + k), I64)
                four = b.insert_element(four, e.load(bits, home, I64), ir.IntType(32)(k))
            columns.append(b.bitcast(four, _V32B))
        slots = [_zipped(b, columns[i], columns[i + 1], 1, upper) for i in range(0, 8, 2) for upper in (False, True)]
        for i, eight in enumerate(_bytes(b, slots, 2)):
            fours = b.bitcast(b.lshr(b.bitcast(eight, _V16H), ir.Constant(_V16H, [4] * 16)), _V32B)
            for n, four in enumerate((eight, fours)):
                e.store(b.and_(four, ir.Constant(_V32B, [15] * _HALF)), rows, BLOCK * (2 * i + n) + half)


def _bytes(b: ir.IRBuilder, parts: Sequence[ir.Value], size: int) -> list[ir.Value]:
    """Vectors of 16 / size different bytes, `size` positions each → one vector for each byte, positions in order."""
    if len(parts) == 1:
        return list(parts)
    lower, upper = (
        [_zipped(b, parts[i], parts[i + 1], size, side) for i in range(0, len(parts), 2)] for side in (False, True)
    )
    return _bytes(b, lower, 2 * size) + _bytes(b, upper, 2 * size)


def _zipped(b: ir.IRBuilder, one: ir.Value, other: ir.Value, size: int, upper: bool) -> ir.Value:
    """Pieces of `size` bytes of both in turn, from the lower or upper halves of their two lanes of 16 bytes."""
    picks: list[int] = []
    for lane in (0, 16):
        for piece in range(lane + 8 * upper, lane + 8 * upper + 8, size):
            for source in (0, _HALF):
                picks += range(source + piece, source + piece + size)
    return b.shuffle_vector(one, other, ir.Constant(_V32I, picks))


def _sum(e: Emitter, a: dict[str, ir.Value], group: ir.Value, rows: ir.Value, quads: ir.Value) -> None:
    """Disagreements of one group of outputs at the positions of a block: uint16 (64, 4) to `quads`."""
    b = e.b
    weights = e.at(a["weights"], b.mul(b.mul(group, a["words"]), I64(_NIBBLES * FOUR)))
    name = "llvm.x86.avx2.pshuf.b"
    shuffle = e.module.globals.get(name) or ir.Function(e.module, ir.FunctionType(_V32B, [_V32B, _V32B]), name)
    nothing, low = ir.Constant(_V32B, [0] * _HALF), ir.Constant(_V16H, [255] * 16)
    eight, twice = ir.Constant(_V16H, [8] * 16), ir.Constant(_V32I, [*range(16), *range(16)])

    def look_up(start: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        for n in range(_UNROLL):
            nibble = b.add(start, I64(n))
            row = e.at(rows, b.mul(nibble, I64(BLOCK)))
            indices = [e.load(row, half, _V32B) for half in range(0, BLOCK, _HALF)]
            for k in range(FOUR):
                weight = b.load(e.at(weights, b.add(b.mul(nibble, I64(FOUR)), I64(k))))
                table = e.load(a["tables"], b.mul(b.zext(weight, I64), I64(16)), _V16B)
                table = b.shuffle_vector(table, ir.Constant(_V16B, ir.Undefined), twice)
                for half, index in enumerate(indices):
                    at = 2 * k + half
                    totals = [*totals[:at], b.add(totals[at], b.call(shuffle, [table, index])), *totals[at + 1 :]]
        return totals

    def chunk(start: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        end = smaller(b, b.add(start, I64(_CHUNK)), a["words"])
        extent = b.mul(start, I64(_NIBBLES)), b.mul(end, I64(_NIBBLES))
        counts = [b.bitcast(v, _V16H) for v in e.fold(extent, _UNROLL, [nothing] * (2 * FOUR), look_up)]
        return [
            b.add(total, part)
            for i, v in enumerate(counts)
            for total, part in zip(totals[2 * i : 2 * i + 2], (b.and_(v, low), b.lshr(v, eight)), strict=True)
        ]

    chunks = b.mul(b.sdiv(b.add(a["words"], I64(_CHUNK - 1)), I64(_CHUNK)), I64(_CHUNK))
    sums = e.fold((I64(0), chunks), _CHUNK, [ir.Constant(_V16H, [0] * 16)] * (4 * FOUR), chunk)
    for part in range(4):  # half and parity
        ones = [b.bitcast(sums[4 * k + part], _V32B) for k in range(FOUR)]
        pairs = [[_zipped(b, ones[k], ones[k + 1], 2, upper) for k in (0, 2)] for upper in (False, True)]
        fours = [_zipped(b, one, other, 4, upper) for one, other in pairs for upper in (False, True)]
        for m, four in enumerate(fours):
            e.store(four, quads, 8 * (16 * part + FOUR * m))
