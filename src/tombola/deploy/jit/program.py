"""Compiled steps and what runs them: one call runs all steps on all threads, with a barrier after each."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tombola.deploy.jit import runner
from tombola.deploy.jit.native import Code
from tombola.errors import TombolaError
from tombola.machine.locks import COMPILING, Lock, once
from tombola.machine.memory import array_address


@dataclass(frozen=True, eq=False)
class Step:
    """A compiled C function `void f(int64_t *args, int64_t thread, int64_t threads)` and its arguments.

    The function does the share of thread `thread` (0 .. threads - 1); what it writes must not depend on `threads`.
    """

    function: int
    """The function's address."""
    args: NDArray[np.int64]
    """Addresses and sizes, as the function wants them; the address of an input may be changed between runs."""
    keep: tuple[Any, ...] = ()
    """What must outlive the step: arrays that `args` points into, the compiled code."""


class Compiled:
    """What holds addresses of code and data: its copies are the object itself, and it is not pickled."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TombolaError("compiled steps cannot be pickled; save the plan and the model, and deploy again")


class Program(Compiled):
    """Steps, run one after the other; each is split among all threads, and the next begins when all have finished.

    With one thread, the caller's, a run is one native call. With more, threads - 1 workers join it, from a thread pool
    that all programs of the same number of threads share; they spin for a short while after a run, then sleep. Any
    Python thread may call `run`; programs that share a pool run one at a time. The GIL is released while steps run.
    After a fork the child starts threads of its own.

    Raises:
        TombolaError: fewer than 1 thread.
    """

    def __init__(self, steps: Sequence[Step], threads: int) -> None:
        if threads < 1:
            raise TombolaError(f"threads is {threads}; give 1 or more")
        self.steps, self.threads = tuple(steps), threads
        self._table = np.array([(s.function, array_address(s.args)) for s in self.steps], np.int64).reshape(-1)
        self._at, self._native = array_address(self._table), _native()

    def run(self) -> None:
        """Run every step; returns when all threads are done."""
        if self.threads > 1 and self.steps:
            _thread_pool(self.threads).run(self._at, len(self.steps))
        elif self.steps:
            self._native.run(self._at, len(self.steps), 0, 1, 0, 0)


class _ThreadPool:
    """A thread pool that runs tables of steps together with the caller's thread, for as long as the process lives."""

    def __init__(self, threads: int) -> None:
        self._lock, self._threads = Lock(), threads
        self._counter, self._native = _aligned(8), _native()
        self._arrivals = array_address(self._counter)
        self._mailboxes, self._mail = self._counter[:0], 0

    def run(self, table: int, steps: int) -> None:
        """Of `steps` steps whose table lies at this address."""
        with self._lock.alone():
            if not self._mail:
                self._mailboxes = self._start_workers()
                self._mail = array_address(self._mailboxes)
            self._native.together(self._mail, table, steps, self._threads, self._arrivals)

    def _start_workers(self) -> NDArray[np.int64]:
        """The mailboxes of new workers; the workers of an interrupted attempt stay asleep."""
        mailboxes = _aligned(8 * (self._threads - 1)).reshape(-1, 8)
        try:
            for mailbox in mailboxes:
                mailbox[runner.LOCK], mailbox[runner.STATE] = runner.new_lock(), runner.IDLE
                threading.Thread(
                    target=_work, args=(self._native, mailboxes, array_address(mailbox)), daemon=True
                ).start()
        except RuntimeError as error:
            raise TombolaError(f"{self._threads} threads cannot be started: {error}; ask for fewer") from error
        return mailboxes


def _work(native: _Native, mailboxes: NDArray[np.int64], mailbox: int) -> None:
    """Serve the mailbox at this address, one of `mailboxes`."""
    native.serve(mailbox, _SPINS)


_POOLS: dict[tuple[int, int], _ThreadPool] = {}


def _thread_pool(threads: int) -> _ThreadPool:
    """The pool of this process: threads do not survive a fork. Pools are never freed: their threads read them."""
    key = threads, os.getpid()
    pool = _POOLS.get(key)
    if pool is None:
        with COMPILING:
            pool = _POOLS.setdefault(key, _ThreadPool(threads))
    return pool


_SPINS = 30_000  # some 500 µs, longer than the time between two calls: waking a thread can cost more than a call


class _Native(NamedTuple):
    """The runner's functions; ctypes releases the GIL during each call. `code` must outlive them."""

    run: Any
    together: Any
    serve: Any
    code: Code


@once
def _native() -> _Native:
    code = runner.runner()
    run, together, serve = (
        ctypes.CFUNCTYPE(None, *(ctypes.c_int64,) * count)(code.address(name))
        for name, count in (("run", 6), ("together", 5), ("serve", 2))
    )
    return _Native(run, together, serve, code)


def _aligned(words: int) -> NDArray[np.int64]:
    """Zeros that begin at a cache line."""
    room = np.zeros(words + 8, np.int64)
    first = -array_address(room) % 64 // 8
    return room[first : first + words]
