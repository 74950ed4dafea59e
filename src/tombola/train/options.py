"""Where and how a run works: things that do not change what it computes, so they are not in its name."""

from __future__ import annotations

from dataclasses import dataclass

from tombola.errors import TombolaError
from tombola.names import check_known

LOGGERS = ("tensorboard",)


@dataclass(frozen=True)
class Options:
    """Machine and display settings.

    Args:
        device: auto (CUDA where there is one), cpu, cuda, or cuda:N
        threads: CPU threads of torch; null leaves torch's own choice (for several runs at once, give each 1)
        deterministic: on CUDA, use only kernels that give the same bits every time (slower)
        checkpoint_seconds: seconds between the checkpoints that an interrupted run resumes from
        loggers: further loggers of the training curves: tensorboard
        progress: show progress bars; null shows them on a terminal
        force: go on with a run that was begun with other versions or another number of threads
    """

    device: str = "auto"
    threads: int | None = None
    deterministic: bool = False
    checkpoint_seconds: float = 20.0
    loggers: tuple[str, ...] = ()
    progress: bool | None = None
    force: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "loggers", tuple(self.loggers))
        if self.threads is not None and self.threads < 1:
            raise TombolaError(f"threads is {self.threads}; it must be at least 1, or null")
        if not self.checkpoint_seconds >= 0:
            raise TombolaError(f"checkpoint_seconds is {self.checkpoint_seconds}; it must be at least 0")
        for name in self.loggers:
            check_known("logger", name, LOGGERS)
