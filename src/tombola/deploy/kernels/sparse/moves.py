"""Steps that copy activations from one layout to another: copies of rows, and 8 x 8 transpositions to and from lanes.

Tensors of the caller are given by the address of a word that holds their address, so that it may change between calls;
their images are those of the current chunk, and images beyond the batch repeat the last or are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from llvmlite import ir

from tombola.deploy.jit.emitter import BYTES, LANES, V8F, V8I, Emitter
from tombola.deploy.jit.native import F32, I32, I64, Code
from tombola.machine.locks import once

Outside = Literal["source", "target"] | None
ARGS = (
    "source",  # an address, or the address of a word that holds it
    "source_image",  # bytes between images, channels, rows
    "source_channel",
    "source_row",
    "target",
    "target_image",
    "target_channel",
    "target_row",
    "images",  # of the chunk
    "channels",
    "height",
    "width",
    "chunk",  # the address of a word: the current chunk
    "batch",  # the address of a word: how many images there are in all
)


class _Move:
    """The arguments read, and the loops over channels (shared by threads) and rows."""

    def __init__(self, outside: Outside) -> None:
        self.e = Emitter("move")
        self.a = {name: self.e.arg(i) for i, name in enumerate(ARGS)}
        self.outside = outside
        for side in ("source", "target"):
            base = self.e.b.inttoptr(self.a[side], BYTES)
            self.a[side] = self.e.b.inttoptr(self.e.load(base, 0, I64), BYTES) if outside == side else base
        if outside:
            self.batch = self._word("batch")
            self.first = self.e.b.mul(self._word("chunk"), self.a["images"])

    def _word(self, name: str) -> ir.Value:
        return self.e.load(self.e.b.inttoptr(self.a[name], BYTES), 0, I64)

    def image(self, side: str, index: ir.Value) -> ir.Value:
        """The address of image `index` of the chunk; beyond the batch that of the last image."""
        b = self.e.b
        if self.outside == side:
            index = b.add(self.first, index)
            last = b.sub(self.batch, I64(1))
            index = b.select(b.icmp_signed("<", index, last), index, last)
        return self.e.at(self.a[side], b.mul(index, self.a[f"{side}_image"]))

    def outside_batch(self, index: ir.Value) -> ir.Value:
        """Whether image `index` of the chunk lies beyond the batch."""
        return self.e.b.icmp_signed(">=", self.e.b.add(self.first, index), self.batch)

    @contextmanager
    def rows(self) -> Iterator[tuple[ir.Value, ir.Value]]:
        """For each channel of this thread's share and each row: bytes to it in the source and in the target."""
        b = self.e.b
        begin, end = self.e.share(self.a["channels"])
        with self.e.loop(begin, end) as c, self.e.loop(I64(0), self.a["height"]) as y:
            from_, to = (
                b.add(b.mul(c, self.a[f"{side}_channel"]), b.mul(y, self.a[f"{side}_row"]))
                for side in ("source", "target")
            )
            yield from_, to

    def done(self) -> Code:
        return self.e.compiled()


@once
def copy_rows(outside: Outside, step: int) -> Code:
    """Rows of floats, every `step`-th of the source, to rows of contiguous floats."""
    m = _Move(outside)
    e, b = m.e, m.e.b
    with e.loop(I64(0), m.a["images"]) as i:
        beyond = m.outside_batch(i) if outside == "target" else ir.Constant(ir.IntType(1), 0)
        with b.if_then(b.not_(beyond)):
            source, target = m.image("source", i), m.image("target", i)
            with m.rows() as (from_, to), e.loop(I64(0), m.a["width"]) as x:
                value = e.load(e.at(source, from_), b.mul(x, I64(4 * step)), F32)
                e.store(value, e.at(target, to), b.mul(x, I64(4)))
    return m.done()


@once
def to_lanes(outside: Outside) -> Code:
    """Images outermost → images innermost; their number is a multiple of 8."""
    m = _Move(outside)
    e, b = m.e, m.e.b
    with e.loop(I64(0), m.a["images"], LANES) as i:
        images = [m.image("source", b.add(i, I64(k))) for k in range(LANES)]
        lane = b.mul(i, I64(4))
        stride = b.mul(m.a["images"], I64(4))
        whole = b.and_(m.a["width"], I64(-LANES))
        with m.rows() as (from_, to):
            target = e.at(e.at(m.a["target"], to), lane)
            with e.loop(I64(0), whole, LANES) as x:
                offset = b.add(from_, b.mul(x, I64(4)))
                for k, column in enumerate(transposed(e, [e.load(image, offset) for image in images])):
                    e.store(column, target, b.mul(b.add(x, I64(k)), stride))
            with e.loop(whole, m.a["width"]) as x:
                offset = b.add(from_, b.mul(x, I64(4)))
                column = ir.Constant(V8F, ir.Undefined)
                for k, image in enumerate(images):
                    column = b.insert_element(column, e.load(image, offset, F32), I32(k))
                e.store(column, target, b.mul(x, stride))
    return m.done()


@once
def from_lanes(outside: Outside) -> Code:
    """Images innermost → images outermost; their number is a multiple of 8.

    Images beyond the batch are written where the last one goes, and overwritten by it.
    """
    m = _Move(outside)
    e, b = m.e, m.e.b
    count = m.a["images"]
    with e.loop(I64(0), count, LANES) as done:
        i = b.sub(b.sub(count, I64(LANES)), done)  # backwards: the true last image is written last
        images = [m.image("target", b.add(i, I64(k))) for k in range(LANES)]
        lane = b.mul(i, I64(4))
        stride = b.mul(count, I64(4))
        whole = b.and_(m.a["width"], I64(-LANES))
        with m.rows() as (from_, to):
            source = e.at(e.at(m.a["source"], from_), lane)
            with e.loop(I64(0), whole, LANES) as x:
                columns = [e.load(source, b.mul(b.add(x, I64(k)), stride)) for k in range(LANES)]
                offset = b.add(to, b.mul(x, I64(4)))
                for row, image in reversed([*zip(transposed(e, columns), images, strict=True)]):
                    e.store(row, image, offset)
            with e.loop(whole, m.a["width"]) as x:
                column = e.load(source, b.mul(x, stride))
                offset = b.add(to, b.mul(x, I64(4)))
                for k, image in reversed([*enumerate(images)]):
                    e.store(b.extract_element(column, I32(k)), image, offset)
    return m.done()


def transposed(e: Emitter, rows: list[ir.Value]) -> list[ir.Value]:
    """Eight vectors of 8 as the columns of an 8 x 8 matrix → its rows, in three rounds of shuffles."""

    def both(a: ir.Value, c: ir.Value, picks: list[int]) -> ir.Value:
        return e.b.shuffle_vector(a, c, ir.Constant(V8I, picks))

    low = [0, 8, 1, 9, 4, 12, 5, 13]
    high = [k + 2 for k in low]
    pairs = [both(rows[2 * k], rows[2 * k + 1], picks) for k in range(4) for picks in (low, high)]
    front, back = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    fours = [
        both(pairs[4 * half + k], pairs[4 * half + k + 2], picks)
        for half in range(2)
        for k in range(2)
        for picks in (front, back)
    ]
    left, right = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    return [both(fours[k], fours[k + 4], picks) for picks in (left, right) for k in range(4)]
