"""Weights as lists: per group of output rows and panel of inputs, (byte offset of the input, weights of the rows)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tombola.machine.memory import within_words


@dataclass(frozen=True, eq=False)
class Lists:
    """The lists of one layer, as the kernel reads them."""

    entries: NDArray[np.int32]
    """(entries, 1 + rows): the offset and the bits of the float32 weights."""
    starts: NDArray[np.int32]
    """(panels · groups + 1): where each list starts."""
    groups: int
    panels: int
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of entries and starts."""
        return self.entries.nbytes + self.starts.nbytes

    def bounds(self, threads: int) -> NDArray[np.int64]:
        """(threads + 1): shares of about equally many entries."""
        counts = np.diff(self.starts).reshape(self.panels, self.groups).sum(0) + 1
        done = np.cumsum(counts)
        inner = np.searchsorted(done, done[-1] * np.arange(1, threads) / threads) + 1
        return np.concatenate([[0], np.minimum(inner, self.groups), [self.groups]]).astype(np.int64)


def make_lists(
    weight: NDArray[np.float32],
    offsets: NDArray[np.int64],
    panel_of: NDArray[np.int64],
    shift: NDArray[np.int64],
    *,
    panels: int,
    rows: int,
) -> Lists:
    """Lists of a weight (out, columns), `rows` output rows sharing each; a column is listed where any row needs it.

    `offsets`: (columns,) bytes to each column's input; `panel_of`: (columns,) its panel; `shift`: (out,) bytes to add,
    equal for rows that share a list. A ragged last group gets rows of zeros.
    """
    out, columns = weight.shape
    groups = -(-out // rows)
    padded = np.zeros((groups * rows, columns), np.float32)
    padded[:out] = weight
    grouped = padded.reshape(groups, rows, columns)
    kept = (grouped != 0).any(1)
    group, column = np.nonzero(kept)
    slot = panel_of[column] * groups + group
    order = np.argsort(slot, kind="stable")
    group, column = group[order], column[order]
    entries = np.empty((len(group), 1 + rows), np.int32)
    entries[:, 0] = within_words(offsets[column] + shift[group * rows], "a layer's inputs")
    entries[:, 1:] = np.ascontiguousarray(grouped[group, :, column]).view(np.int32)
    starts = np.concatenate([[0], np.cumsum(np.bincount(slot, minlength=panels * groups))])
    return Lists(entries, within_words(starts, "a layer's nonzeros"), groups, panels, rows)
