"""What carries out the runs of a sweep, and the engine of this machine: processes that share its threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tombola.errors import TombolaError, in_short, place_of
from tombola.machine.cores import held_to_cores, usable_cores
from tombola.results.sweep import Stacked
from tombola.runs.jobs import limit_threads, threads_per_job
from tombola.runs.workers import WorkerPool
from tombola.search.driver import Together, device_of
from tombola.search.find import run_find
from tombola.search.request import Request
from tombola.train.options import Options


@dataclass(frozen=True)
class Job:
    """A run to carry out: picklable, since model and data are given by name."""

    request: Request
    out: Path


@dataclass(frozen=True)
class Ended:
    """How a run ended: `error` in one line, or None; and how it was stacked with others, where that was tried."""

    error: str | None = None
    stacked: Stacked | None = None


class Crew(Protocol):
    """What carries out runs, as long as its engine's session lasts."""

    @property
    def shows(self) -> bool:
        """Whether runs show their own bars."""

    def carried_out(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Ended]]:
        """(index, how it ended) of every job, as they end; one that fails does not stop the others."""


class Engine(Protocol):
    """Where runs are carried out."""

    def session(self) -> AbstractContextManager[Crew]:
        """A context in which there are processes, or machines, to carry them out."""


def carry_out(job: Job, together: Together | None = None) -> Ended:
    """Carry out one run, or find it finished. `together`: what it shares with others of this process."""
    try:
        run_find(job.request, job.out, together=together)
    except (Exception, SystemExit) as error:  # of a user's code, whatever it may be
        return Ended(_line(error))
    return Ended()


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) if isinstance(error, TombolaError) else in_short(error)
    place = place_of(error)
    return f"{text} ({place})" if place else text


@dataclass(frozen=True)
class Processes:
    """Processes on this machine; 1: this process.

    Args:
        jobs: how many; each gets an equal part of the threads.
        threads: of all together; None: torch's own number.
    """

    jobs: int
    threads: int | None = None

    @contextmanager
    def session(self) -> Iterator[Crew]:
        """As `Engine` says. A run whose process is killed from outside is begun again once."""
        with limit_threads(self.threads):
            if self.jobs == 1:
                yield _Here()
                return
            with WorkerPool(carry_out, self.jobs, threads_per_job(self.jobs)) as pool:
                yield _Pool(pool)


@dataclass(frozen=True)
class _Here:
    """This process, one run after the other."""

    shows: bool = True

    def carried_out(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Ended]]:
        yield from ((index, carry_out(job)) for index, job in enumerate(jobs))


NOBODY: Crew = _Here()
"""For a sweep without anything to do."""


@dataclass(frozen=True)
class _Pool:
    """Processes, which stay until the session ends."""

    pool: WorkerPool[Job, Ended]
    shows: bool = False

    def carried_out(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Ended]]:
        silent = [replace(job, request=quiet(job.request)) for job in jobs]
        yield from self.pool.completed(silent, lambda job, error: Ended(_line(error)))


def quiet(request: Request) -> Request:
    """The request without bars, for a process of its own."""
    return replace(request, options=replace(request.options, progress=False, threads=None))


def processes(jobs: int | None, machine: Options) -> Processes:
    """Processes on this machine; None: one for every thread, or core, and 1 where runs go to a GPU.

    The number does not depend on how many runs there are: each gets the same threads when a sweep goes on.
    """
    if jobs is not None:
        return Processes(held_to_cores("jobs", jobs), machine.threads)
    whole = usable_cores() if machine.threads is None else machine.threads
    return Processes(1 if device_of(machine) == "cuda" else whole, machine.threads)
