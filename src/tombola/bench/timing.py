"""Several runs timed in alternation, so that drift of the machine's speed affects all alike."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

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


class Clock(Protocol):
    """What says how long runs take."""

    def measure(self, runs: Mapping[N, Run], *, rounds: int, threads: int) -> dict[N, list[float]]:
        """Seconds per call of each, round by round."""
        ...

    def fastest(self, runs: Sequence[Run], *, seconds: float, rounds: int) -> list[float]:
        """The least seconds per call of each, over rounds of that many seconds."""
        ...


@dataclass(frozen=True)
class WallClock:
    """The time that passes, of runs in alternation.

    `round`: seconds that one run is timed for in one round of `measure`; `rest`: seconds before it, in which threads of
    the run before stop spinning.
    """

    round: float = 0.1
    rest: float = 0.02

    def measure(self, runs: Mapping[N, Run], *, rounds: int, threads: int) -> dict[N, list[float]]:
        """Seconds per call, round by round; the runs alternate, each warmed before it is timed.

        A busy machine does not take longer: slow rounds are followed by shorter ones.
        """
        timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in runs.items()}
        calls = {name: self._calls(_seconds(timer, 1)) for name, timer in timers.items()}
        seconds: dict[N, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, timer in timers.items():
                time.sleep(self.rest)
                seconds[name].append(_seconds(timer, calls[name]))
                calls[name] = min(calls[name], self._calls(seconds[name][-1]))
        return seconds

    def fastest(self, runs: Sequence[Run], *, seconds: float, rounds: int) -> list[float]:
        """The least seconds per call of each. Of many short rounds it is the least disturbed by other work."""
        counts = []
        for run in runs:
            run()
            counts.append(max(1, int(seconds / max(1e-7, _elapsed(run, 1)))))
        best = [float("inf")] * len(runs)
        for _ in range(rounds):
            for i, run in enumerate(runs):
                best[i] = min(best[i], _elapsed(run, counts[i]))
        return best

    def _calls(self, seconds: float) -> int:
        """How many calls make a round."""
        return max(1, round(self.round / seconds))


WALL = WallClock()


def _seconds(timer: Timer, calls: int) -> float:
    """Of one call. Not `.mean`, which computes in torch, with whatever default device is set."""
    (seconds,) = timer.timeit(calls).times
    return float(seconds)


def _elapsed(run: Run, times: int) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times
