"""Locks for what threads share in a process, safe to fork: no child ever finds one taken.

Three kinds, by what a fork may meet. `COMPILING` is held while code is compiled or a cache is filled: a fork waits for
it, since half a compiler cannot be mended. A `Lock` guards what each holder sets anew: in the child it is free. Caches
that fill once are `once`.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from tombola.errors import TombolaError

P = ParamSpec("P")
R = TypeVar("R")

COMPILING = threading.RLock()
"""Who compiles, or fills a cache of `once`. The holder must wait for no other thread."""


class Lock:
    """A lock that is free in a forked child, whichever thread of the parent had it.

    A thread that asks for it while it has it (a signal's handler that calls what it interrupted) gets a TombolaError,
    unless `again`.
    """

    def __init__(self, *, again: bool = False) -> None:
        self._lock, self._again, self._depth = threading.RLock(), again, 0
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._depth and not self._again:
            self._lock.release()
            raise TombolaError(
                "a deployed network was called from inside its own call, as by a signal's handler; call it after"
            )
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        self._lock.release()

    def after_fork(self) -> None:
        """In the child: free, unless the thread that forked has it."""
        if self._depth and self._lock.acquire(blocking=False):
            self._lock.release()
            return
        self._lock, self._depth = threading.RLock(), 0


_LOCKS: weakref.WeakSet[Lock] = weakref.WeakSet()


def once(function: Callable[P, R]) -> Callable[P, R]:
    """As functools.cache, but of threads that ask for the same at once one computes and the others wait.

    functools.cache would let each compute and keep one: what the others got, and hold addresses in, would be freed.
    """
    known: dict[Any, R] = {}

    @functools.wraps(function)
    def found(*args: P.args, **kwargs: P.kwargs) -> R:
        key = args, tuple(kwargs.items())
        try:
            return known[key]
        except KeyError:
            with COMPILING:
                if key not in known:
                    known[key] = function(*args, **kwargs)
                return known[key]

    return found


# ---- forks -------------------------------------------------------------------------------------------------------

_waiting: list[Any] = []  # the locks of the fork in progress; only ever changed by the thread that has COMPILING


def _before_fork() -> None:
    COMPILING.acquire()
    numba = sys.modules.get("numba.core.compiler_lock")
    lock = getattr(numba, "global_compiler_lock", None)  # the loops of masks and selection compile when first called
    if lock is not None:
        lock.acquire()
    _waiting.append(lock)


def _after_fork() -> None:
    lock = _waiting.pop()
    if lock is not None:
        lock.release()
    COMPILING.release()


def _in_child() -> None:
    _after_fork()
    for lock in list(_LOCKS):
        lock.after_fork()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
