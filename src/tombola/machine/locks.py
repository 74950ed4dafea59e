"""Locks for what threads share in a process, safe to fork: a child never starts with one taken.

Three kinds. `COMPILING` is held while code is compiled or a cache is filled: a fork waits for it, since a compiler in
the middle of its work cannot be used. A `Lock` guards what each holder sets anew: in the child it is free. Caches that
are filled once use `once`.
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
"""Held while code is compiled, or a cache of `once` is filled. The holder must not wait for another thread."""


class Lock:
    """A lock that is free in a forked child, whichever thread of the parent held it.

    `with lock.inner:` is reentrant, `with lock.alone():` is not. Both acquire it in one bytecode instruction, so that
    an exception of a signal handler leaves no lock held.
    """

    def __init__(self) -> None:
        self.inner = threading.RLock()
        _LOCKS.add(self)

    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """TombolaError where this thread holds it already, as when a signal handler calls what it interrupted."""
        inner = self.inner
        if _mine(inner):
            raise TombolaError(
                "a deployed network was called from inside its own call, as by a signal's handler; call it after"
            )
        return inner

    def after_fork(self) -> None:
        """In the child: free, unless the thread that forked holds it."""
        if not _mine(self.inner):
            self.inner = threading.RLock()


def _mine(lock: Any) -> bool:
    return bool(lock._is_owned())


_LOCKS: weakref.WeakSet[Lock] = weakref.WeakSet()


def once(function: Callable[P, R]) -> Callable[P, R]:
    """As functools.cache, but of threads that ask for the same key at once, one computes and the others wait.

    functools.cache would let each compute and keep one result: those of the others, whose addresses are in use, would
    be freed.
    """
    known: dict[Any, R] = {}

    @functools.wraps(function)
    def cached(*args: P.args, **kwargs: P.kwargs) -> R:
        key = args, tuple(kwargs.items())
        try:
            return known[key]
        except KeyError:
            with COMPILING:
                if key not in known:
                    known[key] = function(*args, **kwargs)
                return known[key]

    return cached


# ---- forks -------------------------------------------------------------------------------------------------------

_waiting: list[contextlib.ExitStack] = []  # for the fork in progress; changed under COMPILING


def _before_fork() -> None:
    COMPILING.acquire()
    taken = contextlib.ExitStack()
    for lock in _of_compilers():
        taken.enter_context(lock)
    _waiting.append(taken)


def _of_compilers() -> Iterator[contextlib.AbstractContextManager[Any]]:
    """The locks of numba, since loops of masks and selection compile when first called, and of llvmlite."""
    for module, path in _COMPILERS.items():
        owner: Any = sys.modules.get(module)
        for name in path:
            owner = getattr(owner, name, None)
        if isinstance(owner, contextlib.AbstractContextManager):
            yield owner


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
