"""How wide the columns of a table are on a terminal that is narrower than the table, so that no word is cut."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.cells import cell_len

_BREAK = re.compile(r"(?:\s(?!%))+")
WIDEST_GAP = 3
"""Characters between two columns, where there is room."""
PADDINGS: Mapping[int, tuple[int, int] | tuple[int, int, int, int]] = {3: (0, 1), 2: (0, 1, 0, 0), 1: (0, 0)}
"""Gap between columns -> rich's padding of cells, to which a table with heads adds a character between columns."""


def fitted(columns: Sequence[Sequence[str]], room: int) -> tuple[list[int | None], int] | None:
    """The widths of columns with line breaks between words alone, and the gap between them; None without such.

    Nothing is set (None) where everything fits as it is, and where words must be cut even with the narrowest gap.

    Args:
        columns: the cells of every column, its head included; lines of a cell are parted by newlines.
        room: characters of the terminal.
    """
    natural = [max(_lengths(cells, lines=True)) for cells in columns]
    least = [max(_lengths(cells, lines=False)) for cells in columns]
    between = len(columns) - 1
    if sum(natural) + WIDEST_GAP * between <= room:
        return None
    for gap in sorted(PADDINGS, reverse=True):
        spare = room - gap * between - sum(least)
        if spare >= 0:
            return list(_shared(least, natural, spare)), gap
    return None


def _lengths(cells: Sequence[str], *, lines: bool) -> list[int]:
    """Of every line, or of every word; a number and its sign of percent are one."""
    return [1, *(cell_len(part) for cell in cells for part in (cell.splitlines() if lines else _BREAK.split(cell)))]


def _shared(least: Sequence[int], natural: Sequence[int], spare: int) -> list[int]:
    """The least widths, and what is spare given to the columns that lack most of what they would take."""
    widths = list(least)
    for _ in range(spare):
        lacking = max(range(len(widths)), key=lambda at: natural[at] / max(widths[at], 1))
        if natural[lacking] <= widths[lacking]:
            break
        widths[lacking] += 1
    return widths
