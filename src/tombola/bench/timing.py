"""Several runs timed in alternation, so that drift of the machine's speed affects all alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from tombola.bench.engines import Run


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# the import looks for compilers, and warns where there is a CUDA toolkit without a GPU
with _quiet(logging.getLogger("torch.utils.cpp_extension")):
    from torch.utils.benchmark import Timer

N = TypeVar("N", bound=str)
_ROUND = 0.1  # seconds that one engine is timed for in one round
_REST = 0.02  # seconds, in which threads of the engine before stop spinning


def measure(runs: Mapping[N, Run], *, rounds: int, threads: int) -> dict[N, list[float]]:
    """Seconds per call, round by round; the runs alternate, each warmed before it is timed.

    A busy machine does not take longer: slow rounds are followed by shorter ones.
    """
    timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in runs.items()}
    calls = {name: _calls(_seconds(timer, 1)) for name, timer in timers.items()}
    seconds: dict[N, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, timer in timers.items():
            time.sleep(_REST)
            seconds[name].append(_seconds(timer, calls[name]))
            calls[name] = min(calls[name], _calls(seconds[name][-1]))
    return seconds


def _calls(seconds: float) -> int:
    """How many calls make a round."""
    return max(1, round(_ROUND / seconds))


def _seconds(timer: Timer, calls: int) -> float:
    """Of one call. Not `.mean`, which computes in torch, with whatever default device is set."""
    (seconds,) = timer.timeit(calls).times
    return float(seconds)
