"""Native steps on packed bits: count disagreements, compare with thresholds, pack signs.

Bits lie along the channels, 64 to a word, +1 as 1; channel c is bit c mod 8 of byte c div 8. A layer's sum at a
position is base - 2·popcount((x ^ sign) & mask), where base is the number of kept weights, corrected where the window
reaches over the border (whose bits are 0, as if all -1).
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from tombola.deploy.jit.emitter import V8F, ZERO, Emitter
from tombola.deploy.jit.native import F32, I32, I64, Code
from tombola.machine.locks import once

FOUR = 4
"""Output channels that are counted together, each in its 64-bit lane."""
TILE = 4
"""Positions that share the weights once they are loaded."""
BLOCK = 64
"""Positions that one group of channels after the other works on, so that weights and windows stay in the L1 cache."""

COUNT = ("*bits", "*positions", "*windows", "words", "*weights", "groups", "*bases", "*kinds", "*target", "stride",
         "*bounds", "*scales", "*shifts")  # fmt: skip
"""`positions`: int64 byte offsets of the windows; `windows`: int64 byte offsets within one, `words` of them; `weights`:
by group and word, 4 sign words and 4 mask words; `bases`: int32 (kinds, 4 · groups); `kinds`: int32, the kind of each
position; `target`: int32 or float32, `stride` bytes from position to position; `bounds`: int64 (threads, 4): first and
last position, first and last group; `scales`, `shifts`: float32 (4 · groups), for float targets."""

COMPARE = (
    "*sums",
    "*windows",
    "*reach",
    "window",
    "*thresholds",
    "*flips",
    "*target",
    "*offsets",
    "eights",
    "count",
    "stride",
)
"""`windows`: int64 (count) byte offsets of pooling windows, `reach`: int64 (window) offsets within one; `thresholds`:
int32 (8 · eights); `flips`: uint8 (eights); `offsets`: int64 (count) byte offsets of the target's pixels."""

PACK = ("*source", "*target", "*offsets", "eights", "count", "stride")
"""`source`: float32, `stride` bytes from pixel to pixel; `offsets`: int64 byte offsets of the target's pixels."""

PACK_PLANES = ("*source", "*target", "*offsets", "eights", "count", "pixels", "image")
"""`source`: float32 (count, 8 · eights, pixels), of at least 8 pixels; `offsets`: int64 (pixels), of one image;
`image`: bytes from image to image of the target."""

_V4Q, _V4I, _V4F = (ir.VectorType(kind, FOUR) for kind in (I64, I32, F32))
_V8I, _V8B = ir.VectorType(I32, 8), ir.VectorType(ir.IntType(1), 8)
_I8 = ir.IntType(8)


def bounds(e: Emitter, a: Mapping[str, ir.Value]) -> tuple[ir.Value, ...]:
    """This thread's first and last position, and its first and last group of outputs, from its row of `bounds`."""
    mine = e.at(a["bounds"], e.b.mul(e.thread, I64(32)))
    return tuple(e.load(mine, 8 * i, I64) for i in range(4))


@once
def count_kernel(*, floats: bool, shifts: bool) -> Code:
    """Sums of all positions and channels: int32, or float32 times `scales` (plus `shifts`). Arguments: COUNT."""
    e = Emitter("count")
    b = e.b
    a = e.named(COUNT)
    first, last, low, high = bounds(e, a)
    with e.loop(first, last, BLOCK) as block:
        end = smaller(b, b.add(block, I64(BLOCK)), last)
        whole = b.add(block, b.and_(b.sub(end, block), I64(-TILE)))
        with e.loop(low, high) as group:
            with e.loop(block, whole, TILE) as position:
                _count(e, a, group, position, TILE, floats=floats, shifts=shifts)
            with e.loop(whole, end) as position:
                _count(e, a, group, position, 1, floats=floats, shifts=shifts)
    return e.compiled()


def _count(
    e: Emitter, a: dict[str, ir.Value], group: ir.Value, position: ir.Value, tile: int, *, floats: bool, shifts: bool
) -> None:
    """One group of channels at `tile` positions."""
    b = e.b
    spots = [b.add(position, I64(p)) for p in range(tile)]
    windows = [e.at(a["bits"], e.load(a["positions"], b.mul(spot, I64(8)), I64)) for spot in spots]
    weights = e.at(a["weights"], b.mul(b.mul(group, a["words"]), I64(64)))

    def turn(word: ir.Value, totals: list[ir.Value]) -> list[ir.Value]:
        here = e.at(weights, b.mul(word, I64(64)))
        offset = e.load(a["windows"], b.mul(word, I64(8)), I64)
        sign, mask = e.load(here, 0, _V4Q), e.load(here, 32, _V4Q)
        differ = [b.and_(b.xor(_splat(e, e.load(window, offset, I64)), sign), mask) for window in windows]
        return [b.add(total, _ones(e, bits)) for total, bits in zip(totals, differ, strict=True)]

    none = ir.Constant(_V4Q, [0] * FOUR)
    for spot, total in zip(spots, e.fold((I64(0), a["words"]), 1, [none] * tile, turn), strict=True):
        finish(e, a, group, spot, b.trunc(total, _V4I), floats=floats, shifts=shifts)


def finish(
    e: Emitter, a: dict[str, ir.Value], group: ir.Value, spot: ir.Value, total: ir.Value, *, floats: bool, shifts: bool
) -> None:
    """Disagreements of a group of channels at a position, int32 → sums or floats in the target."""
    b = e.b
    across = b.mul(group, I64(4 * FOUR))
    kind = b.sext(e.load(a["kinds"], b.mul(spot, I64(4)), I32), I64)
    base = e.load(a["bases"], b.mul(b.add(b.mul(kind, a["groups"]), group), I64(4 * FOUR)), _V4I)
    result = b.sub(base, b.shl(total, ir.Constant(_V4I, [1] * FOUR)))
    if floats:
        result = b.fmul(b.sitofp(result, _V4F), e.load(a["scales"], across, _V4F))
        if shifts:
            result = b.fadd(result, e.load(a["shifts"], across, _V4F))
    e.store(result, a["target"], b.add(b.mul(spot, a["stride"]), across))


@once
def compare_kernel() -> Code:
    """Bits of (the largest sum of a window >= threshold), flipped where asked for. Arguments: COMPARE."""
    e = Emitter("compare")
    b = e.b
    a = e.named(COMPARE)
    first, last = e.share(a["count"])
    with e.loop(first, last) as position:
        window = e.at(a["sums"], e.load(a["windows"], b.mul(position, I64(8)), I64))
        target = e.at(a["target"], e.load(a["offsets"], b.mul(position, I64(8)), I64))
        with e.loop(I64(0), a["eights"]) as eight:
            across = b.mul(eight, I64(32))

            def turn(i: ir.Value, best: list[ir.Value], across: ir.Value = across) -> list[ir.Value]:
                offset = b.add(e.load(a["reach"], b.mul(i, I64(8)), I64), across)
                value = e.load(window, offset, _V8I)
                return [b.select(b.icmp_signed(">", value, best[0]), value, best[0])]

            lowest = ir.Constant(_V8I, [-(2**31)] * 8)
            (best,) = e.fold((I64(0), a["window"]), 1, [lowest], turn)
            bits = b.bitcast(b.icmp_signed(">=", best, e.load(a["thresholds"], across, _V8I)), _I8)
            b.store(b.xor(bits, b.load(e.at(a["flips"], eight))), e.at(target, eight))
    return e.compiled()


@once
def pack_kernel() -> Code:
    """Bits of not (x < 0), 1 for NaN as torch.sign has it, of pixels whose channels are contiguous. Arguments: PACK."""
    e = Emitter("pack")
    b = e.b
    a = e.named(PACK)
    first, last = e.share(a["count"])
    with e.loop(first, last) as pixel:
        source = e.at(a["source"], b.mul(pixel, a["stride"]))
        target = e.at(a["target"], e.load(a["offsets"], b.mul(pixel, I64(8)), I64))
        with e.loop(I64(0), a["eights"]) as eight:
            x = e.load(source, b.mul(eight, I64(32)), V8F)
            b.store(b.bitcast(b.fcmp_unordered(">=", x, ZERO), _I8), e.at(target, eight))
    return e.compiled()


@once
def pack_planes_kernel() -> Code:
    """The same bits of images whose channels lie one after the other. Arguments: PACK_PLANES."""
    e = Emitter("pack")
    b = e.b
    a = e.named(PACK_PLANES)
    first, last = e.share(b.mul(a["count"], a["eights"]))
    plane = b.mul(a["pixels"], I64(4))
    with e.loop(first, last) as turn:
        image, eight = b.sdiv(turn, a["eights"]), b.srem(turn, a["eights"])
        source = e.at(a["source"], b.mul(turn, b.mul(plane, I64(8))))
        target = e.at(a["target"], b.add(b.mul(image, a["image"]), eight))
        with e.loop(I64(0), a["pixels"], 8) as start:
            pixel = smaller(b, start, b.sub(a["pixels"], I64(8)))  # the last eight overlap the ones before
            word: ir.Value = I64(0)
            for k in range(8):
                x = e.load(source, b.add(b.mul(plane, I64(k)), b.mul(pixel, I64(4))), V8F)
                bits = b.bitcast(b.fcmp_unordered(">=", x, ZERO), _I8)
                word = b.or_(word, b.shl(b.zext(bits, I64), I64(8 * k)))
            word = _transposed(b, word)
            for k in range(8):
                offset = e.load(a["offsets"], b.mul(b.add(pixel, I64(k)), I64(8)), I64)
                b.store(b.trunc(b.lshr(word, I64(8 * k)), _I8), e.at(target, offset))
    return e.compiled()


def _transposed(b: ir.IRBuilder, word: ir.Value) -> ir.Value:
    """The 8 x 8 bits of a word with rows and columns swapped, in three rounds of swapping blocks."""
    for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
        odd = b.and_(b.xor(word, b.lshr(word, I64(shift))), I64(mask))
        word = b.xor(word, b.xor(odd, b.shl(odd, I64(shift))))
    return word


def _ones(e: Emitter, words: ir.Value) -> ir.Value:
    """The number of ones in each word."""
    name = "llvm.ctpop.v4i64"
    intrinsic = e.module.globals.get(name) or ir.Function(e.module, ir.FunctionType(_V4Q, [_V4Q]), name)
    return e.b.call(intrinsic, [words])


def _splat(e: Emitter, word: ir.Value) -> ir.Value:
    one = e.b.insert_element(ir.Constant(_V4Q, ir.Undefined), word, I32(0))
    return e.b.shuffle_vector(one, ir.Constant(_V4Q, ir.Undefined), ir.Constant(_V4I, [0] * FOUR))


def smaller(b: ir.IRBuilder, one: ir.Value, other: ir.Value) -> ir.Value:
    """The smaller of two integers."""
    return b.select(b.icmp_signed("<", one, other), one, other)
