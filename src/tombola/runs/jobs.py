"""The same function over many items, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads_per_job(jobs: int) -> int:
    """How many torch threads each of `jobs` processes gets."""
    import torch

    return max(1, torch.get_num_threads() // max(1, jobs))


def map_jobs(function: Callable[[Item], Result], items: Sequence[Item], jobs: int = 1) -> Iterator[Result]:
    """`function(item)` for every item, in order.

    With `jobs` > 1 the items and the function must be picklable; each process shares out torch's threads. The
    first error ends the others' queue and is raised.
    """
    if jobs <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_set_threads, initargs=(threads_per_job(jobs),))
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
