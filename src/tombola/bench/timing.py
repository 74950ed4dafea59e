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

_SLOW = 1.5
_LONG = 4


class Clock(Protocol):
    """What says how long runs take."""

    def measure(
        self, runs: Mapping[N, Run], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[N, list[float]]:
        """Seconds per call of each, round by round; `seconds`: of a round, None: as the clock has it."""
        ...

    def fastest(self, runs: Sequence[Run], *, seconds: float, rounds: int) -> list[float]:
        """The least seconds per call of each, over rounds of that many seconds; of slow ones, over fewer."""
        ...

    def now(self) -> float:
        """Seconds since some moment."""
        ...


@dataclass(frozen=True)
class WallClock:
    """The time that passes, of runs in alternation.

    `round`: seconds that one run is timed for in one round of `measure`; `rest`: seconds before it, in which threads of
    the run before stop spinning.
    """

    round: float = 0.1
    rest: float = 0.02

    def measure(
        self, runs: Mapping[N, Run], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[N, list[float]]:
        """Seconds per call, round by round; the runs alternate, each warmed before it is timed.

        A busy machine does not take longer: slow rounds are followed by shorter ones.
        """
        timers = {name: Timer("run()", globals={"run": run}, num_threads=threads) for name, run in runs.items()}
        length = self.round if seconds is None else min(self.round, seconds)
        calls = {name: _calls(length, _seconds(timer, 1)) for name, timer in timers.items()}
        times: dict[N, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, timer in timers.items():
                time.sleep(self.rest)
                times[name].append(_seconds(timer, calls[name]))
                calls[name] = min(calls[name], _calls(length, times[name][-1]))
        return times

    def fastest(self, runs: Sequence[Run], *, seconds: float, rounds: int) -> list[float]:
        """The least seconds per call of each. Of many short rounds it is the least disturbed by other work.

        Each is timed twice at least. One that is then `_SLOW` times as slow as the best is not timed again, nor is one
        that has taken `_LONG` times as long as its rounds were to take.
        """
        best, counts = [float("inf")] * len(runs), [1] * len(runs)
        left = [_LONG * seconds * rounds] * len(runs)
        for i, run in enumerate(runs):
            run()
            best[i] = _elapsed(run, 1)
            counts[i] = max(1, int(seconds / max(1e-7, best[i])))
        for turn in range(rounds):
            within = _SLOW * min(best, default=0.0)
            for i, run in enumerate(runs):
                if turn and (best[i] > within or left[i] <= 0):
                    continue
                once = _elapsed(run, counts[i])
                left[i] -= once * counts[i]
                best[i] = min(best[i], once)
                counts[i] = max(1, min(counts[i], int(seconds / max(1e-7, once))))
        return best

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


WALL = WallClock()


def _calls(length: float, seconds: float) -> int:
    """How many calls of so many seconds make a round of that length."""
    return max(1, round(length / seconds))


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
