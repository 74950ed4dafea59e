"""A sparse matrix as streams of gaps: for each row the distances from one kept column to the next, a few bits each.

The layout is SELL-8-σ (Kreutzer et al. 2014, arXiv:1307.6209): eight units are the lanes of a vector, and within
windows of σ units the longest come first, so that the eight of a group are about equally long. A unit is V rows that
share one list of columns, the columns in which any of them is kept.

An entry is a field of `32 // per_word` bits in a lane's 32-bit word, the first entry lowest; with weights it is whole
bytes. Its low `gap_bits` are the gap, at most `max_gap` = 2^gap_bits - 1. Longer distances take further entries,
without a column.

- Weights: the gap is the delta from the position before (0 at first) to this entry's. Entries without a column, between
  two columns or after the last, have weight 0. The float32 weights follow the words: for each entry of a word, for each
  of the V rows, eight lanes.
- Signs: below `max_gap` the column is the position before (-1 at first) plus gap + 1. `max_gap` itself is an entry
  without a column, `max_gap` further on. The V bits above the gap: whether the weight of row v is negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from tombola.deploy.nonzeros import shared
from tombola.errors import TombolaError

LANES = 8
PER_WORD = {False: (1, 2, 4), True: (1, 2, 3, 4, 5, 6, 8, 10, 16)}
"""Entries in a word, of weights and of signs."""
_CHUNK = 2**22  # weights that are coded at a time: coding takes many times their bytes
WINDOW = 256  # σ, units: enough to make groups even, few enough that a group's outputs lie near each other


class Coding(msgspec.Struct, frozen=True, tag_field="kernel", tag="gaps", forbid_unknown_fields=True):
    """How entries are written: entries in a word, rows in a unit, and whether they hold signs instead of weights.

    Weights take whole bytes, signs leave bits for the gap.

    Raises:
        TombolaError: there is no such coding.
    """

    per_word: int
    rows: int
    signs: bool

    def __post_init__(self) -> None:
        if self.per_word not in PER_WORD[self.signs] or self.rows not in (1, 2, 4, 8) or self.gap_bits < 1:
            raise TombolaError(
                f"{self} is no coding; known are gaps:perE:rowsV:weights, E 1, 2 or 4, and gaps:perE:rowsV:signs, "
                "E 1 to 6, 8, 10 or 16, V 1, 2, 4 or 8 and less than 32 / E"
            )

    def __str__(self) -> str:
        return f"gemv:gaps:per{self.per_word}:rows{self.rows}:{'signs' if self.signs else 'weights'}"

    @property
    def field_bits(self) -> int:
        """Of an entry."""
        return 32 // self.per_word

    @property
    def gap_bits(self) -> int:
        """Of its gap; at most 30, so that positions stay below 2^31."""
        return min(30, self.field_bits - self.rows * self.signs)

    @property
    def max_gap(self) -> int:
        """The largest gap."""
        return (1 << self.gap_bits) - 1

    @property
    def word_bytes(self) -> int:
        """Of eight words and the weights of their entries."""
        return 4 * LANES * (1 + (0 if self.signs else self.per_word * self.rows))


@dataclass(frozen=True, eq=False)
class Columns:
    """Where a matrix is kept, by units: entry i is in unit `unit[i]`, column `column[i]`.

    `gap`: from the unit's column before, -1 before the first. `units`: how many there are, of `rows` rows.
    """

    units: int
    rows: int
    unit: NDArray[np.int64]
    column: NDArray[np.int64]
    gap: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Gaps:
    """A coded matrix.

    `words`: int32 (words, word_bytes / 4). `starts`: int64 (groups + 1,), a group's first word; each has at least one.
    `order`: int32 (groups, V, 8), which row a lane computes; -1: none.
    """

    words: NDArray[np.int32]
    starts: NDArray[np.int64]
    order: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes of the coded matrix."""
        return self.words.nbytes + self.starts.nbytes + self.order.nbytes


def columns(weight: NDArray[np.float32], rows: int) -> Columns:
    """The kept columns of units of `rows` rows; the last unit may have fewer. `weight`: (out, in)."""
    kept = shared(weight != 0, rows)
    unit, column = np.nonzero(kept)
    gap = np.diff(column, prepend=-1)
    first = np.diff(unit, prepend=-1) != 0
    gap[first] = column[first] + 1
    return Columns(len(kept), rows, unit, column, gap)


def coded_bytes(kept: Columns, coding: Coding) -> int:
    """Bytes of the words that `code` would write."""
    lengths = _lengths(kept, _skipped(kept, coding))
    return int(_group_words(lengths[_order(lengths)], coding).sum()) * coding.word_bytes


def code(weight: NDArray[np.float32], coding: Coding, chunk: int = _CHUNK) -> Gaps:
    """Write a matrix (out, in), `chunk` weights at a time. With signs, all rows of a unit must be kept where one is."""
    window = WINDOW * coding.rows
    run = window * max(1, chunk // (window * weight.shape[1]))
    firsts = range(0, len(weight), run)
    parts = [_code(weight[first : first + run], coding) for first in firsts]
    ends = np.cumsum([0, *(part.starts[-1] for part in parts)])
    return Gaps(
        np.concatenate([part.words for part in parts]),
        np.concatenate([*(part.starts[:-1] + end for part, end in zip(parts, ends, strict=False)), ends[-1:]]),
        np.concatenate([part.order + (part.order >= 0) * np.int32(i) for part, i in zip(parts, firsts, strict=True)]),
    )


def _code(weight: NDArray[np.float32], coding: Coding) -> Gaps:
    """Code a matrix of whole windows."""
    kept = columns(weight, coding.rows)
    skipped = _skipped(kept, coding)
    lengths = _lengths(kept, skipped)
    order = _order(lengths)
    starts = np.concatenate([[0], np.cumsum(_group_words(lengths[order], coding))])
    where = np.empty(kept.units, np.int64)
    where[order] = np.arange(kept.units)
    group, lane = np.divmod(where[kept.unit], LANES)
    position = np.cumsum(skipped + 1) - 1 - (np.cumsum(lengths) - lengths)[kept.unit]

    def slot(entry: slice | NDArray[np.int64], back: int | NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """(word, lane, field in the word) of entries, or `back` entries before them."""
        word, turn = np.divmod(position[entry] - back, coding.per_word)
        return starts[group[entry]] + word, lane[entry], turn

    values = _values(weight, kept)
    field = _deltas(kept, coding) - skipped * coding.max_gap
    if coding.signs:
        field |= ((values < 0) << (coding.gap_bits + np.arange(kept.rows))).sum(1)
    fields = np.full((starts[-1], LANES, coding.per_word), coding.max_gap if coding.signs else 0, np.uint32)
    fields[slot(slice(None), 0)] = field
    skips = np.repeat(np.arange(len(skipped)), skipped)
    fields[slot(skips, 1 + np.arange(len(skips)) - (np.cumsum(skipped) - skipped)[skips])] = coding.max_gap
    words = np.zeros((starts[-1], coding.word_bytes // 4), np.int32)
    shifts = np.arange(coding.per_word, dtype=np.uint32) * np.uint32(coding.field_bits)
    words[:, :LANES] = np.bitwise_or.reduce(fields << shifts, axis=2).view(np.int32)
    if not coding.signs:
        word, lane, turn = slot(slice(None), 0)
        shape = (starts[-1], coding.per_word, kept.rows, LANES)
        words[:, LANES:].view(np.float32).reshape(shape)[word, turn, :, lane] = values
    return Gaps(words, starts, _rows(order, len(weight), kept))


def _values(weight: NDArray[np.float32], kept: Columns) -> NDArray[np.float32]:
    """(entries, rows of a unit): their weights, 0 for rows past the end."""
    rows = kept.unit[:, None] * kept.rows + np.arange(kept.rows)
    values: NDArray[np.float32] = weight[np.minimum(rows, len(weight) - 1), kept.column[:, None]]
    values[rows >= len(weight)] = 0
    return values


def _lengths(kept: Columns, skipped: NDArray[np.int64]) -> NDArray[np.int64]:
    """Entries of each unit."""
    return np.bincount(kept.unit, skipped + 1, kept.units).astype(np.int64)


def _deltas(kept: Columns, coding: Coding) -> NDArray[np.int64]:
    """The gaps as this coding counts them."""
    first = np.diff(kept.unit, prepend=-1) != 0
    deltas: NDArray[np.int64] = kept.gap - (1 if coding.signs else first)
    return deltas


def _skipped(kept: Columns, coding: Coding) -> NDArray[np.int64]:
    """How many entries without a column precede each."""
    deltas = _deltas(kept, coding)
    skipped: NDArray[np.int64] = (deltas if coding.signs else np.maximum(deltas - 1, 0)) // coding.max_gap
    return skipped


def _order(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The units, the longest of each window first."""
    window = np.arange(len(lengths)) // WINDOW
    return np.lexsort((-lengths, window))


def _group_words(lengths: NDArray[np.int64], coding: Coding) -> NDArray[np.int64]:
    """Words of each group of units that have so many entries."""
    longest: NDArray[np.int64] = np.maximum.reduceat(lengths, np.arange(0, len(lengths), LANES))
    return np.maximum(1, -(-longest // coding.per_word))


def _rows(order: NDArray[np.int64], out: int, kept: Columns) -> NDArray[np.int32]:
    units = np.full(-(-kept.units // LANES) * LANES, kept.units)
    units[: kept.units] = order
    rows = units.reshape(-1, 1, LANES) * kept.rows + np.arange(kept.rows)[:, None]
    return np.where(rows < out, rows, -1).astype(np.int32)
