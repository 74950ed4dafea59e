"""Several runs timed in alternation, so that a machine whose speed drifts slows all."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tombola.runtime.engines import Run


@contextmanager
def _without_remarks(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# the import looks for compilers, and says so where there is a CUDA toolkit without a GPU
with _without_remarks(logging.getLogger("torch.utils.cpp_extension")):
    from torch.utils.benchmark import Timer

_ROUND = 0.1  # seconds that one engine is timed for in one round
_REST = 0.02  # seconds: threads of the engine before stop spinning


def measure(runs: Mapping[str, Run], *, rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds per call, round by round; the runs alternate, each warmed before it is timed.

    A machine that becomes busy meanwhile is not kept longer for it: rounds that were slow are followed by shorter ones.
    """
    timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in runs.items()}
    calls = {name: _calls(_seconds(timer, 1)) for name, timer in timers.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, timer in timers.items():
            time.sleep(_REST)
            found[name].append(_seconds(timer, calls[name]))
            calls[name] = min(calls[name], _calls(found[name][-1]))
    return found


def _calls(seconds: float) -> int:
    """How many calls make a round."""
    return max(1, round(_ROUND / seconds))


def _seconds(timer: Timer, calls: int) -> float:
    """Of one call. Not `.mean`, which computes in torch, with whatever default device is set."""
    (found,) = timer.timeit(calls).times
    return float(found)
