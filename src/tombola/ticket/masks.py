"""Codings of a mask: packed bits, one density, or densities by classes of rows and columns; the smallest wins.

The classes see what learned masks have: inputs and outputs of unequal density. Along each axis of the weight the
slices are sorted into at most 16 classes by how much they keep; the classes are coded, then the bits block by
block, one density for each combination of classes. The choice of classes is free: a reader follows the stream.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tombola.errors import TicketError
from tombola.ticket.bitcode import ALPHABET, BitReader, Bits, BitWriter

CODINGS = ("packed", "bernoulli", "channels", "columns")
BLOCK = 1024  # weights per block at least, on average: no more blocks than that in any file
# Of a slice that keeps k, 2·sqrt(k) has a standard deviation of about 1 whatever k is (Poisson). In a class of width w
# in sqrt(k) a slice loses w²/6 nats and its class costs log(1/w) nats plus a constant: the sum is least at sqrt(3).
_WIDTH = 7  # in quarters


def encode(keep: NDArray[np.bool_]) -> tuple[str, bytes]:
    """(coding, bytes) of a mask of any shape: the smallest, in case of a tie the first of CODINGS."""
    if not keep.size:
        return "packed", b""
    coded = {"packed": np.packbits(keep).tobytes()}
    for coding in CODINGS[1:]:
        if coding != "columns" or _view(keep.shape, coding) != _view(keep.shape, "channels"):
            stream = _write(keep.reshape(_view(keep.shape, coding)), coding)
            if stream is not None:
                coded[coding] = stream
    return min(coded.items(), key=lambda item: len(item[1]))


def decode(coding: str, data: bytes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask of `shape` coded in `data`; TicketError if the bytes hold none."""
    if coding == "packed":
        return _unpack(data, math.prod(shape)).reshape(shape)
    reader = BitReader(data)
    view = _view(shape, coding)
    keep = reader.bits(math.prod(shape)) if coding == "bernoulli" else _read_blocks(reader, view)
    reader.end()
    return keep.reshape(shape)


def _unpack(data: bytes, count: int) -> Bits:
    """`count` packed bits, the most significant first; TicketError unless they fill the bytes, padded by 0."""
    if len(data) != (count + 7) // 8:
        raise TicketError(f"{count} packed bits take {(count + 7) // 8} bytes, the file has {len(data)}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8))
    if flat[count:].any():
        raise TicketError(f"bits are set beyond the {count} weights")
    return flat[:count].view(np.bool_)


def _view(shape: tuple[int, ...], coding: str) -> tuple[int, int, int]:
    """The three axes that have classes: outputs, inputs, and positions in the kernel (or both as one in "columns")."""
    outputs, inputs, *rest = (*shape, 1, 1)
    positions = math.prod(rest)
    return (outputs, inputs * positions, 1) if coding == "columns" else (outputs, inputs, positions)


def _write(keep: NDArray[np.bool_], coding: str) -> bytes | None:
    """The stream of a mask seen as (outputs, inputs, positions); None where no axis has more than one class."""
    writer = BitWriter()
    if coding == "bernoulli":
        writer.bits(keep.reshape(-1))
        return writer.data()
    classes = _classes(keep)
    if all(not part.any() for part in classes):
        return None
    for axis, part in enumerate(classes):
        writer.symbols(part)
        keep = _sorted(keep, part, axis)
    for block in _blocks(classes):
        writer.bits(keep[block].reshape(-1))
    return writer.data()


def _sorted(keep: NDArray[np.bool_], classes: NDArray[np.int8], axis: int) -> NDArray[np.bool_]:
    """The slices along `axis` in order of class, those of one class in their own order."""
    return keep.take(np.argsort(classes, kind="stable"), axis) if classes.any() else keep


def _blocks(classes: list[NDArray[np.int8]]) -> Iterator[tuple[slice, ...]]:
    """The blocks of the sorted mask, the class of the last axis running fastest."""
    axes = []
    for part in classes:
        ends = np.cumsum(np.bincount(part)).tolist()
        axes.append([slice(start, end) for start, end in zip([0, *ends], ends, strict=False)])
    return itertools.product(*axes)


def _classes(keep: NDArray[np.bool_]) -> list[NDArray[np.int8]]:
    """For each axis the class of every slice, from 0 without gaps, so that blocks have BLOCK weights on average."""
    outputs, inputs, positions = keep.shape
    columns = _column_sums(keep.reshape(outputs, -1)).reshape(inputs, positions)
    rows = np.count_nonzero(keep.reshape(outputs, -1), axis=1)
    counts = [rows, columns.sum(1), columns.sum(0)]
    kept = int(rows.sum())
    if 2 * kept > keep.size:  # the rarer value is more informative
        kept = keep.size - kept
        counts = [keep.size // part.size - part for part in counts]
    uneven = [_uneven(part, kept, keep.size) for part in counts]
    width = _WIDTH
    while True:
        classes = [
            _binned(part, kept, width) if differs else np.zeros(part.size, np.int8)
            for part, differs in zip(counts, uneven, strict=True)
        ]
        if math.prod(int(part.max()) + 1 for part in classes) <= max(1, keep.size // BLOCK):
            return classes
        width *= 2


def _uneven(counts: NDArray[np.int64], total: int, size: int) -> bool:
    """True if the counts vary by more than 1.5 times what chance alone would give (binomial, one density)."""
    slices, squares = counts.size, int(np.dot(counts, counts))
    return 2 * (slices * squares - total**2) * size > 3 * total * (size - total) * slices


def _column_sums(keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of each column are True; 255 rows at a time in uint8, which is many times as fast as at once."""
    sums = np.zeros(keep.shape[1], np.int64)
    for start in range(0, len(keep), 255):
        sums += np.add.reduce(keep[start : start + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return sums


def _binned(counts: NDArray[np.int64], total: int, width: int) -> NDArray[np.int8]:
    """Classes of equal width in sqrt(count), one of them round the mean's; integers only, but for IEEE's exact sqrt."""
    roots = np.floor(np.sqrt(16.0 * counts)).astype(np.int64)
    spread = int(roots.max() - roots.min())
    width = max(width, -(-spread // (ALPHABET - 2)))
    bins = (roots - math.isqrt(16 * total // counts.size) + width // 2) // width
    return np.unique(bins, return_inverse=True)[1].astype(np.int8)


def _read_blocks(reader: BitReader, view: tuple[int, int, int]) -> NDArray[np.bool_]:
    classes = [reader.symbols(size) for size in view]
    for part in classes:
        if set(np.unique(part).tolist()) != set(range(int(part.max()) + 1)):
            raise TicketError("the classes of a coded mask leave out a number")
    count = math.prod(int(part.max()) + 1 for part in classes)
    if count > max(1, math.prod(view) // BLOCK):
        raise TicketError(f"a coded mask has {count} blocks for {math.prod(view)} weights; {BLOCK} a block at least")
    keep = np.empty(view, np.bool_)
    for block in _blocks(classes):
        target = keep[block]
        target[...] = reader.bits(target.size).reshape(target.shape)
    for axis, part in enumerate(classes):
        if part.any():
            positions = np.argsort(np.argsort(part, kind="stable"))  # where each slice went
            keep = keep.take(positions, axis)
    return keep
