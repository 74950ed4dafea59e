"""One function over many items, one after the other or in several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

from tombola.errors import TombolaError
from tombola.machine.cores import held_to_cores
from tombola.machine.launch import several_started
from tombola.machine.locks import Lock
from tombola.runs.workers import WorkerPool

Item = TypeVar("Item")
Result = TypeVar("Result")


def check_single_process(what: str = "this") -> None:
    """TombolaError where this is one of several processes of a data-parallel launcher: all would do the same work."""
    if (reason := several_started()) is not None:
        raise TombolaError(
            f"{reason}, but {what} does not run data-parallel, as tombola find does; start one process, without "
            "torchrun, mpirun or srun -n (jobs shares replicates out over processes)"
        )


_MEASURING = Lock()


@contextmanager
def limit_threads(threads: int | None, *, exclusive: bool = False) -> Iterator[None]:
    """Let torch use so many CPU threads inside (None: as many as before), then restore their number.

    `exclusive`: one Python thread enters at a time. The number is the whole process's, and two measurements at once
    would disturb each other.
    """
    import torch

    with _MEASURING.inner if exclusive else nullcontext():
        before = torch.get_num_threads()
        torch.set_num_threads(before if threads is None else held_to_cores("threads", threads))
        try:
            yield
        finally:
            torch.set_num_threads(before)


def threads_per_job(jobs: int) -> int:
    """How many torch threads each of `jobs` processes gets."""
    import torch

    return max(1, torch.get_num_threads() // jobs)


def map_jobs(function: Callable[..., Result], items: Sequence[Item], jobs: int = 1, **here: Any) -> Iterator[Result]:
    """`function(item)` for every item, in order, in up to `jobs` processes that share torch's threads.

    Work in this process also gets the arguments `here` (bars, data already loaded); for other processes the items and
    the function must be picklable. The first error ends all work and is raised. An item whose process is killed from
    outside is begun again once; see `WorkerPool`.
    """
    if jobs <= 1:
        for item in items:
            yield function(item, **here)
        return
    with WorkerPool(function, min(jobs, len(items)), threads_per_job(jobs)) as pool:
        yield from pool.results(items)
