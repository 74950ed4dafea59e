"""What was measured while a network trained, and the early-stop iteration read off it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from pathlib import Path

from tombola.errors import TombolaError
from tombola.runs.atomic import cannot_write


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
    lines = [row] if path.exists() else [None, row]
    try:
        with path.open("ab") as file:
            file.write(b"".join(_line(_values(line) if line else HEADER) for line in lines))
    except OSError as error:
        raise cannot_write(path, error) from None


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """A whole metrics file."""
    return b"".join([_line(HEADER), *(_line(_values(row)) for row in rows)])


def _values(row: Row) -> tuple[float, ...]:
    return (row.step, *(float(value) for value in astuple(row)[1:]))


def _line(values: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode()


def read_csv(path: Path, rows: int | None = None) -> list[Row]:
    """The rows of a metrics file; with `rows`, the first so many, whatever a kill left behind them.

    Raises:
        TombolaError: it is no metrics file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Row(int(record["step"]), *(float(record[name]) for name in HEADER[1:]))
                for record in islice(csv.DictReader(file), rows)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "a row is not as it was written"
        raise TombolaError(
            f"{path} is no log of a training run ({reason}); remove {path.parent}, and run again"
        ) from None
