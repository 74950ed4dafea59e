"""What was measured while a network trained, and the early-stop iteration read off it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import islice
from pathlib import Path

from tombola.errors import TombolaError


@dataclass(frozen=True)
class Row:
    """One evaluation. Losses are means per example; accuracies (or the task's metric) lie in [0, 1].

    The training figures are means over the batches since the last row, as they were trained on (augmented, in
    training mode); the validation figures are over the whole split, in evaluation mode.
    """

    step: int
    epoch: float
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class EarlyStop:
    """The iteration of minimum validation loss; `observed` is False where the minimum lies in the last
    twentieth of the evaluations, since a longer run might have found a lower one."""

    step: int
    val_loss: float
    val_accuracy: float
    observed: bool


def early_stop(history: Sequence[Row]) -> EarlyStop | None:
    """The first row with the lowest validation loss, or None without a finite one."""
    finite = [(row.val_loss, index) for index, row in enumerate(history) if math.isfinite(row.val_loss)]
    if not finite:
        return None
    _, index = min(finite)
    row = history[index]
    last = max(1, math.ceil(len(history) / 20))
    return EarlyStop(row.step, row.val_loss, row.val_accuracy, index < len(history) - last)


def steps_to_loss(history: Sequence[Row], loss: float) -> int | None:
    """The first evaluated iteration whose validation loss is at most `loss`, or None if there is none."""
    return next((row.step for row in history if row.val_loss <= loss), None)


HEADER = tuple(field.name for field in fields(Row))


def append_csv(path: Path, row: Row) -> None:
    """Add one row to a metrics file, with a header if it is new."""
    new = not path.exists()
    try:
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(HEADER)
            writer.writerow(astuple(row))
    except OSError as error:  # a full disk does not name the file
        raise TombolaError(f"cannot write {path}: {error.strerror}; mend that and run again to go on") from None


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write a whole metrics file anew (used to cut it back to the checkpointed row), atomically."""
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HEADER)
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    part.replace(path)


def read_csv(path: Path, rows: int | None = None) -> list[Row]:
    """The rows of a metrics file; with `rows`, the first so many, whatever a kill left behind them."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Row(int(record["step"]), *(float(record[name]) for name in HEADER[1:]))
            for record in islice(csv.DictReader(file), rows)
        ]
