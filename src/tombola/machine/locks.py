"""Locks for what threads share in a process, safe to fork: no child ever finds one taken.

Three kinds, by what a fork may meet. `COMPILING` is held while code is compiled or a cache is filled: a fork waits for
it, since half a compiler cannot be mended. A `Lock` guards what each holder sets anew: in the child it is free. Caches
that fill once are `once`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from tombola.errors import TombolaError

P = ParamSpec("P")
R = TypeVar("R")

COMPILING = threading.RLock()
"""Who compiles, or fills a cache of `once`. The holder must wait for no other thread."""


class Lock:
    """A lock that is free in a forked child, whichever thread of the parent had it.

    `with lock.inner:` lets the same thread in again, `with lock.alone():` does not. Both enter in one step of the
    interpreter, so that what a signal's handler raises leaves no lock behind.
    """

    def __init__(self) -> None:
        self.inner = threading.RLock()
        _LOCKS.add(self)

    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """Raises TombolaError where this thread has it already: a signal's handler calls what it interrupted."""
        inner = self.inner
        if _mine(inner):
            raise TombolaError(
                "a deployed network was called from inside its own call, as by a signal's handler; call it after"
            )
        return inner

    def after_fork(self) -> None:
        """In the child: free, unless the thread that forked has it."""
        if not _mine(self.inner):
            self.inner = threading.RLock()


def _mine(lock: Any) -> bool:
    return bool(lock._is_owned())


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

_waiting: list[contextlib.ExitStack] = []  # for the fork in progress; whoever has COMPILING changes it


def _before_fork() -> None:
    COMPILING.acquire()
    taken = contextlib.ExitStack()
    for lock in _of_compilers():
        taken.enter_context(lock)
    _waiting.append(taken)


def _of_compilers() -> Iterator[contextlib.AbstractContextManager[Any]]:
    """The locks of numba, since loops of masks and selection compile when first called, and of llvmlite."""
    for module, path in _COMPILERS.items():
        found: Any = sys.modules.get(module)
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, contextlib.AbstractContextManager):
            yield found


_COMPILERS = {"numba.core.compiler_lock": ("global_compiler_lock",), "llvmlite.binding.ffi": ("lib", "_lock")}


def _after_fork() -> None:
    _waiting.pop().close()
    COMPILING.release()


def _in_child() -> None:
    _after_fork()
    for lock in list(_LOCKS):
        lock.after_fork()


if hasattr(os, "register_at_fork"):  # where there are forks
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
