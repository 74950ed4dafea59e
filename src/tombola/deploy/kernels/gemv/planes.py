"""A matrix of signed constants as two bits for each weight: whether it is kept, and whether it is negative.

For matrices too dense for lists of gaps. The bits are stored as the kernel reads them: by blocks of 4 rows and 256
columns; of a row in a block first 8 words of kept bits, then 8 of signs; bit 31 - k of word r is column 8·k + r of the
block. The last block ends at the last column: where it overlaps the block before, the weights count there.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray


class Planes(msgspec.Struct, frozen=True, tag_field="kernel", tag="planes", forbid_unknown_fields=True):
    """Two bits for each weight, kept or not."""

    def __str__(self) -> str:
        return "gemv:planes"


ROWS = 4
COLUMNS = 256
_LANES = 8


def planes(weight: NDArray[np.float32]) -> NDArray[np.uint32]:
    """(groups of rows, blocks of columns, ROWS, 2, 8); rows past the end are not kept.

    Args:
        weight: (out, in), in >= COLUMNS.
    """
    return np.stack([_plane(weight != 0), _plane(weight < 0)], 3)


def planes_bytes(rows: int, columns: int) -> int:
    """What `planes` takes."""
    return -(-rows // ROWS) * -(-columns // COLUMNS) * ROWS * 2 * _LANES * 4


def _plane(bits: NDArray[np.bool_]) -> NDArray[np.uint32]:
    rows, columns = bits.shape
    groups, blocks = -(-rows // ROWS), -(-columns // COLUMNS)
    whole = columns // COLUMNS * COLUMNS
    room = np.zeros((groups * ROWS, blocks * COLUMNS), np.bool_)
    room[:rows, :whole] = bits[:, :whole]
    if whole < columns:
        room[:rows, whole - columns :] = bits[:, whole:]
    lanes = room.reshape(groups, ROWS, blocks, COLUMNS // _LANES, _LANES).transpose(0, 2, 1, 4, 3)
    return np.packbits(lanes, axis=-1).view(">u4")[..., 0].astype(np.uint32)
