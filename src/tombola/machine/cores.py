"""How many processor cores this process may use, and numbers of threads and processes limited to that (torch-free)."""

from __future__ import annotations

import operator
import os
import warnings
from typing import SupportsIndex

from tombola.errors import TombolaError


class CoresWarning(UserWarning):
    """More threads or processes were asked for than there are cores to run them."""


def usable_cores() -> int:
    """The cores that this process may run on (its affinity, where the system knows one), at least 1."""
    count = getattr(os, "process_cpu_count", None)  # Python 3.13 and later
    if count is not None:
        return count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def held_to_cores(what: str, asked: SupportsIndex) -> int:
    """`asked`, or as many as there are usable cores where that is fewer.

    `what`: what is counted, e.g. "threads".

    Raises:
        TombolaError: it is no whole number of at least 1.

    Warns:
        CoresWarning: it was more.
    """
    whole = 0 if isinstance(asked, bool) or not hasattr(asked, "__index__") else operator.index(asked)
    if whole < 1:
        raise TombolaError(f"{what} is {asked!r}; give a whole number of at least 1")
    cores = usable_cores()
    if whole > cores:
        available = "1 core" if cores == 1 else f"{cores} cores"
        text = f"{what} is {whole}, but there are {available} to use; {cores} will do"
        warnings.warn(text, CoresWarning, stacklevel=3)
    return min(whole, cores)
