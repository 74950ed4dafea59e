"""Checkpoints: everything a training run is, at one step, written so that a kill leaves the old one or the new."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.machine.ranks import ALONE, Ranks
from tombola.runs.atomic import make_folder, write_bytes
from tombola.runs.integrity import Damaged, clear, read_file, read_sealed, set_aside, write_sealed
from tombola.runs.stage import CHECKPOINT, METRICS
from tombola.train.history import Row, append_csv, csv_bytes

State = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A network and its optimiser at one step, with the hooks' state and torch's generators.

    Data order and augmentation need no state: they follow from the seed and the step.
    """

    step: int
    model: State
    optimizer: Mapping[str, Any]
    hooks: tuple[Mapping[str, Any], ...]
    generators: tuple[Tensor, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot plus what the loop has gathered: sums since the last row, and the best state so far."""

    snapshot: Snapshot
    sums: Mapping[str, float]
    seconds: float
    best: State | None = None
    captured: Snapshot | None = None
    history: tuple[Row, ...] = ()
    stopped: str | None = None
    joules: float | None = None


@dataclass(frozen=True)
class CheckpointStore:
    """The files of one training run in its stage directory; of several ranks, the first alone writes them."""

    directory: Path
    every_seconds: float = 20.0
    ranks: Ranks = ALONE

    @property
    def metrics(self) -> Path:
        """The file of the training curves."""
        return self.directory / METRICS

    @property
    def _file(self) -> Path:
        return self.directory / CHECKPOINT

    def exists(self) -> bool:
        """Whether a checkpoint has been written."""
        return self._file.exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint beside the old one, sync it, and put it in its place."""
        if not self.ranks.writes:
            return
        content = {
            "snapshot": _plain(checkpoint.snapshot),
            "captured": _plain(checkpoint.captured) if checkpoint.captured else None,
            "sums": dict(checkpoint.sums),
            "seconds": checkpoint.seconds,
            "best": checkpoint.best,
            "history": torch.tensor([astuple(row) for row in checkpoint.history], dtype=torch.float64, device="cpu"),
            "stopped": checkpoint.stopped,
            "joules": checkpoint.joules,
        }
        make_folder(self.directory)
        with write_sealed(self._file) as file:
            torch.save(content, file)

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None; the metrics file becomes the rows that it knows.

        A checkpoint that is damaged is set aside, which is said, and is none. Of several ranks, all must call it.
        """
        return self.ranks.first(self._load)

    def _load(self) -> Checkpoint | None:
        try:
            content = _read(self._file)
            checkpoint = None if content is None else self._checkpoint(content)
        except Damaged as error:
            set_aside(error.file, error.what)
            checkpoint = None
        if checkpoint is None:
            clear(self.metrics)
        else:
            self.write_metrics(checkpoint.history)
        return checkpoint

    def _checkpoint(self, content: Mapping[str, Any]) -> Checkpoint:
        try:
            return Checkpoint(
                snapshot=_snapshot(content["snapshot"]),
                captured=_snapshot(content["captured"]) if content["captured"] else None,
                sums=content["sums"],
                seconds=content["seconds"],
                best=content["best"],
                history=tuple(Row(int(step), *rest) for step, *rest in content["history"].tolist()),
                stopped=content["stopped"],
                joules=content.get("joules"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(self._file, f"holds no checkpoint ({_first_line(error)})") from None

    def add_row(self, row: Row) -> None:
        """Add one row to the metrics file."""
        if self.ranks.writes:
            make_folder(self.directory)
            append_csv(self.metrics, row)

    def write_metrics(self, history: Sequence[Row]) -> None:
        """Let the metrics file hold exactly these rows; what it held of others is cut off."""
        if not self.ranks.writes:
            return
        wanted = csv_bytes(history)
        try:
            there = read_file(self.metrics)
        except Damaged as error:
            set_aside(error.file, error.what)
            there = None
        if there == wanted:
            return
        if there is not None and not there.startswith(wanted):
            set_aside(self.metrics, "does not fit its checkpoint")
        write_bytes(self.metrics, wanted)


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write one snapshot, e.g. the rewind point, atomically and with its checksum."""
    make_folder(path.parent)
    with write_sealed(path) as file:
        torch.save(_plain(snapshot), file)


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote.

    Raises:
        Damaged: it is something else, or not there.
    """
    content = _read(path)
    if content is None:
        raise Damaged(path, "is missing")
    try:
        return _snapshot(content)
    except (KeyError, TypeError) as error:
        raise Damaged(path, f"holds no snapshot ({_first_line(error)})") from None


def _read(path: Path) -> Mapping[str, Any] | None:
    data = read_sealed(path)
    if data is None:
        return None
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except TombolaError:
        raise
    except Exception as error:  # of bytes without a checksum, anything may be raised
        raise Damaged(path, f"cannot be read ({_first_line(error)})") from None
    if not isinstance(content, Mapping):
        raise Damaged(path, "holds no snapshot")
    return content


def _plain(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "step": snapshot.step,
        "model": snapshot.model,
        "optimizer": dict(snapshot.optimizer),
        "hooks": [dict(state) for state in snapshot.hooks],
        "generators": list(snapshot.generators),
    }


def _snapshot(content: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        step=content["step"],
        model=content["model"],
        optimizer=content["optimizer"],
        hooks=tuple(content["hooks"]),
        generators=tuple(content["generators"]),
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
