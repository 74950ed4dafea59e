"""Weights in 8 bits as lists of words: (place of a word of four inputs, the four weights), for each output row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tombola.deploy.kernels.gemv.gaps import LANES, WINDOW
from tombola.deploy.kernels.int8.emitted import ENTRY
from tombola.deploy.kernels.int8.scales import GROUP, Rows
from tombola.errors import TombolaError
from tombola.machine.memory import within_words


@dataclass(frozen=True, eq=False)
class Kept:
    """The words of a weight that hold a nonzero: of row `row[i]`, word `word[i]`, the weights int8 `four[i]`."""

    rows: int
    row: NDArray[np.int64]
    word: NDArray[np.int64]
    four: NDArray[np.int8]


def kept_words(rows: Rows, place: NDArray[np.int64]) -> Kept:
    """By row, then by word. `place`: (in,) of each column, word · 4 + byte."""
    words = int(place.max()) // GROUP + 1
    placed = np.zeros((len(rows.values), words * GROUP), np.int8)
    placed[:, place] = rows.values
    fours = placed.reshape(len(placed), words, GROUP)
    row, word = np.nonzero(fours.any(2))
    return Kept(len(placed), row, word, np.ascontiguousarray(fours[row, word]))


@dataclass(frozen=True, eq=False)
class WordLists:
    """As `emitted.word_kernel` reads them. `entries`: int32 (entries, 2). `starts`: int32 (4 · groups + 1)."""

    entries: NDArray[np.int32]
    starts: NDArray[np.int32]

    @property
    def groups(self) -> int:
        """Of four rows."""
        return (len(self.starts) - 1) // GROUP

    @property
    def nbytes(self) -> int:
        """Bytes of entries and starts."""
        return self.entries.nbytes + self.starts.nbytes

    def bounds(self, threads: int) -> NDArray[np.int64]:
        """(threads + 1): shares of about equally many entries, in groups."""
        done = np.cumsum(np.diff(self.starts[::GROUP]) + 1)
        inner = np.searchsorted(done, done[-1] * np.arange(1, threads) / threads) + 1
        return np.concatenate([[0], np.minimum(inner, self.groups), [self.groups]]).astype(np.int64)


def word_lists(kept: Kept, offsets: NDArray[np.int64]) -> WordLists:
    """`offsets`: bytes to each word."""
    rows = -(-kept.rows // GROUP) * GROUP
    entries = np.empty((len(kept.row), 2), np.int32)
    entries[:, 0] = within_words(offsets[kept.word], "a layer's inputs")
    entries[:, 1] = kept.four.view(np.int32)[:, 0]
    starts = np.concatenate([[0], np.cumsum(np.bincount(kept.row, minlength=rows))])
    return WordLists(entries, within_words(starts, "a layer's nonzeros"))


@dataclass(frozen=True, eq=False)
class LaneLists:
    """As `emitted.vector_kernel` reads them: eight rows are the lanes of an entry (SELL-8-σ, as in `gemv.gaps`).

    `words`: uint8 (entries, ENTRY). `starts`: int64 (groups + 1). `order`: int32 (groups, 8).
    """

    words: NDArray[np.uint8]
    starts: NDArray[np.int64]
    order: NDArray[np.int32]

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return self.words.nbytes + self.starts.nbytes + self.order.nbytes


def lane_lists(kept: Kept) -> LaneLists:
    """Raises TombolaError: more words than 16 bits can number."""
    if kept.word.max(initial=0) >= 2**16:
        raise TombolaError(f"a layer of more than {2**16 * GROUP:,} inputs has no 8-bit kernel for one vector")
    groups = -(-kept.rows // LANES)
    lengths = np.bincount(kept.row, minlength=groups * LANES)
    window = np.arange(len(lengths)) // WINDOW
    order = np.lexsort((-lengths, window))  # stable: within a window the longest first
    longest = lengths[order].reshape(groups, LANES).max(1)
    starts = np.concatenate([[0], np.cumsum(np.maximum(1, longest))]).astype(np.int64)
    slot = np.empty(len(order), np.int64)
    slot[order] = np.arange(len(order))
    first = np.concatenate([[0], np.cumsum(np.bincount(kept.row, minlength=kept.rows))])
    entry = starts[slot[kept.row] // LANES] + np.arange(len(kept.row)) - first[kept.row]
    lane = slot[kept.row] % LANES
    places = np.zeros((int(starts[-1]), LANES), np.uint16)
    weights = np.zeros((int(starts[-1]), LANES, GROUP), np.int8)
    places[entry, lane] = kept.word
    weights[entry, lane] = kept.four
    words = np.concatenate([places.view(np.uint8), weights.reshape(len(weights), -1).view(np.uint8)], axis=1)
    assert words.shape[1] == ENTRY
    rows = np.where(order < kept.rows, order, -1).astype(np.int32).reshape(groups, LANES)
    return LaneLists(np.ascontiguousarray(words), starts, rows)
