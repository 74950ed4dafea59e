"""Where and how a run works: things that do not change what it computes, so they are not in its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.machine.cores import held_to_cores
from tombola.train.loggers import check_loggers


@dataclass(frozen=True)
class Options:
    """Machine and display settings.

    Args:
        device: auto (CUDA where there is one), cpu, cuda, or cuda:N
        threads: CPU threads of torch, at most the cores available; null leaves torch's own choice (for several runs at
            once, give each 1)
        deterministic: on CUDA, use only kernels that give the same bits every time (slower)
        checkpoint_seconds: seconds between the checkpoints that an interrupted run resumes from
        loggers: where training curves go besides their CSV files: tensorboard, wandb, trackio, or the import path of an
            object with init, log and finish (in Python also the object itself)
        progress: show progress bars; null shows them on a terminal
        force: go on with a run that was begun with other versions or another number of threads
    """

    device: str = "auto"
    threads: int | None = None
    deterministic: bool = False
    checkpoint_seconds: float = 20.0
    loggers: tuple[Any, ...] = ()
    progress: bool | None = None
    force: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "loggers", tuple(self.loggers))
        check_fields(self)
        if self.threads is not None:
            object.__setattr__(self, "threads", held_to_cores("threads", self.threads))
        if not self.checkpoint_seconds >= 0:
            raise TombolaError(f"checkpoint_seconds is {self.checkpoint_seconds}; it must be at least 0")
        check_loggers(self.loggers)
