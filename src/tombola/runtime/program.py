"""Compiled steps and what runs them: one call runs all steps on all threads, with a barrier after each."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.errors import TombolaError
from tombola.runtime import runner


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
        self._table = np.array([(s.function, s.args.ctypes.data) for s in self.steps], np.int64).reshape(-1)

    def run(self) -> None:
        """Run every step; back when all threads are done."""
        if self.threads > 1 and self.steps:
            # by process: after a fork the threads stayed behind, and their lock may be held for ever
            _crew(self.threads, os.getpid()).run(self._table)
        elif self.steps:
            _native()[0](self._table.ctypes.data, len(self.steps), 0, 1, 0, 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        """The program itself: addresses in its arguments cannot be copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TombolaError("compiled steps cannot be pickled; save the plan and the model, and deploy again")


class _Crew:
    """Threads that run tables of steps together with the caller's, for as long as the process lives."""

    def __init__(self, threads: int) -> None:
        self._lock = threading.Lock()
        self._threads = threads
        self._counter = _aligned(8)
        self._boxes = _aligned(8 * (threads - 1)).reshape(-1, 8)
        self._awake: list[threading.Lock] = []
        self._start = 0
        self._run, self._serve, self._post = _native()

    def run(self, table: NDArray[np.int64]) -> None:
        steps = len(table) // 2
        with self._lock:
            if not self._awake:
                self._hire()
            self._boxes[:, runner.TABLE], self._boxes[:, runner.STEPS] = table.ctypes.data, steps
            if self._post(self._boxes.ctypes.data, len(self._boxes)):
                for box, awake in zip(self._boxes, self._awake, strict=True):
                    if box[runner.FOUND] == runner.ASLEEP:
                        awake.release()
            self._run(table.ctypes.data, steps, 0, self._threads, self._counter.ctypes.data, self._start)
            self._start += steps * self._threads

    def _hire(self) -> None:
        for i, box in enumerate(self._boxes):
            box[runner.THREAD : runner.START + 1] = i + 1, self._threads, self._counter.ctypes.data, 0
            box[runner.STATE] = runner.ASLEEP
            self._awake.append(threading.Lock())
            self._awake[i].acquire()
            threading.Thread(target=_work, args=(self._serve, box, self._awake[i]), daemon=True).start()


@functools.cache
def _crew(threads: int, process: int) -> _Crew:
    return _Crew(threads)


def _work(serve: Any, box: NDArray[np.int64], awake: threading.Lock) -> None:
    awake.acquire()
    while not serve(box.ctypes.data, _SPINS):
        awake.acquire()


_SPINS = 30_000  # some 500 µs, longer than what lies between two calls: waking a thread can cost more than the call


_WORD = ctypes.c_int64


@functools.cache
def _native() -> tuple[Any, Any, Any]:
    """`run`, `serve` and `post` of the runner; ctypes releases the interpreter lock round each call."""
    code = runner.runner()
    kinds: dict[str, tuple[Any, ...]] = {"run": (None, *(_WORD,) * 6), "serve": (_WORD,) * 3, "post": (_WORD,) * 3}
    run, serve, post = (ctypes.CFUNCTYPE(*kind)(code.address(name)) for name, kind in kinds.items())
    return run, serve, post


def _aligned(words: int) -> NDArray[np.int64]:
    """Zeros that begin at a cache line."""
    room = np.zeros(words + 8, np.int64)
    first = -room.ctypes.data % 64 // 8
    return room[first : first + words]
