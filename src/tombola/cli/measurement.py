"""What all studies that compare no arms print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tombola.cli.screen import Screen
from tombola.formats import plural

if TYPE_CHECKING:
    from tombola.results.measurement import Measurement


def show_measurement(screen: Screen, result: Measurement, title: str) -> None:
    """The tables of a result, and what it says in words."""
    from tombola.report import measured

    over = f"{'means over ' if result.replicates > 1 else ''}{plural(result.replicates, 'replicate')}"
    screen.line(f"{title}, {over}")
    screen.tables([table for table in measured.tables(result) if not table.folded])
    for line in filter(None, (result.sentence, result.intervals, result.note)):
        screen.line(line)
