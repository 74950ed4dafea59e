"""Compiled steps and what runs them: one call runs all steps on all threads, with a barrier after each."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tombola._locks import COMPILING, Lock, once
from tombola._memory import array_address
from tombola.errors import TombolaError
from tombola.runtime import runner
from tombola.runtime.native import Code


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
    """What must live as long as the step: arrays that `args` points into, the compiled code."""


class Program:
    """Steps, run one after the other; each is shared by all threads, and the next begins when all are done with it.

    One thread: the caller's, and one native call. More: threads - 1 further ones, which all programs of as many
    threads share; they wait actively for a short while after a run, then sleep. Any Python thread may call `run`; of
    programs that share threads one at a time is let in. The interpreter lock is released while steps run. After a fork
    the child starts threads of its own.

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
        """Run every step; back when all threads are done."""
        if self.threads > 1 and self.steps:
            _crew(self.threads).run(self._at, len(self.steps))
        elif self.steps:
            self._native.run(self._at, len(self.steps), 0, 1, 0, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        """The program itself: addresses in its arguments cannot be copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TombolaError("compiled steps cannot be pickled; save the plan and the model, and deploy again")


class _Crew:
    """Threads that run tables of steps together with the caller's, for as long as the process lives."""

    def __init__(self, threads: int) -> None:
        self._lock, self._threads = Lock(), threads
        self._counter, self._native = _aligned(8), _native()
        self._arrivals = array_address(self._counter)
        self._boxes, self._mail = self._counter[:0], 0

    def run(self, table: int, steps: int) -> None:
        """Of `steps` steps whose table lies at this address."""
        with self._lock.alone():
            if not self._mail:
                self._boxes = self._hired()
                self._mail = array_address(self._boxes)
            self._native.together(self._mail, table, steps, self._threads, self._arrivals)

    def _hired(self) -> NDArray[np.int64]:
        """The mailboxes of new workers; those of an attempt that was cut short stay behind, asleep."""
        boxes = _aligned(8 * (self._threads - 1)).reshape(-1, 8)
        try:
            for box in boxes:
                box[runner.LOCK], box[runner.STATE] = runner.new_lock(), runner.IDLE
                threading.Thread(target=_work, args=(self._native, boxes, array_address(box)), daemon=True).start()
        except RuntimeError as error:
            raise TombolaError(f"{self._threads} threads cannot be started: {error}; ask for fewer") from error
        return boxes


def _work(native: _Native, boxes: NDArray[np.int64], box: int) -> None:
    """Serve the mailbox at this address, one of `boxes`."""
    native.serve(box, _SPINS)


_CREWS: dict[tuple[int, int], _Crew] = {}


def _crew(threads: int) -> _Crew:
    """Of this process: after a fork its threads stay behind. Crews are never let go: their threads read them."""
    key = threads, os.getpid()
    found = _CREWS.get(key)
    if found is None:
        with COMPILING:
            found = _CREWS.setdefault(key, _Crew(threads))
    return found


_SPINS = 30_000  # some 500 µs, longer than what lies between two calls: waking a thread can cost more than the call


class _Native(NamedTuple):
    """The runner's functions; ctypes releases the interpreter lock round each call. `code` must outlive them."""

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
