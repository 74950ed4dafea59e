"""Checkpoints: everything a training run is, at one step, written so that a kill leaves the old one or the new."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.errors import RunError
from tombola.runs.atomic import write_atomically
from tombola.train.history import Row, read_csv, write_csv

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


@dataclass(frozen=True)
class CheckpointStore:
    """The files of one training run in its stage directory."""

    directory: Path
    every_seconds: float = 20.0

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.csv"

    @property
    def _file(self) -> Path:
        return self.directory / "checkpoint.pt"

    def exists(self) -> bool:
        """Whether a checkpoint has been written."""
        return self._file.exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint beside the old one, sync it, and put it in its place."""
        content = {
            "snapshot": _plain(checkpoint.snapshot),
            "captured": _plain(checkpoint.captured) if checkpoint.captured else None,
            "sums": dict(checkpoint.sums),
            "seconds": checkpoint.seconds,
            "best": checkpoint.best,
            "rows": len(checkpoint.history),
            "stopped": checkpoint.stopped,
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        with write_atomically(self._file) as file:
            torch.save(content, file)

    def load(self) -> Checkpoint | None:
        """The last checkpoint, or None; the metrics file is cut back to the rows it knows."""
        if not self._file.exists():
            self.metrics.unlink(missing_ok=True)
            return None
        try:
            content = torch.load(self._file, map_location="cpu", weights_only=True)
            rows = read_csv(self.metrics, content["rows"]) if content["rows"] else []
            if len(rows) < content["rows"]:
                raise ValueError(f"{self.metrics.name} has lost rows")
        except (OSError, RuntimeError, KeyError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise RunError(f"{self._file} cannot be read ({_first_line(error)}); delete it to train anew") from None
        write_csv(self.metrics, rows)
        return Checkpoint(
            snapshot=_snapshot(content["snapshot"]),
            captured=_snapshot(content["captured"]) if content["captured"] else None,
            sums=content["sums"],
            seconds=content["seconds"],
            best=content["best"],
            history=tuple(rows),
            stopped=content["stopped"],
        )

    def clear(self) -> None:
        """Remove the checkpoint of a run that has ended."""
        self._file.unlink(missing_ok=True)


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write one snapshot, e.g. the rewind point, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        torch.save(_plain(snapshot), file)


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote."""
    return _snapshot(torch.load(path, map_location="cpu", weights_only=True))


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
