"""Functions that take turns: each in a thread of its own, of which one at a time goes on, when it is told to.

What belongs to the whole process (generators, numbers of threads) is each function's own while it goes on.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from tombola.rng.guard import generators, restore_generators

Asked = TypeVar("Asked")
Told = TypeVar("Told")
Result = TypeVar("Result")


class Interrupted(KeyboardInterrupt):
    """All functions are to end."""


@dataclass(frozen=True)
class _Process:
    """What torch, numpy and Python keep for the whole process, as it is in one thread."""

    generators: tuple[Any, ...]
    threads: int

    @classmethod
    def now(cls) -> _Process:
        return cls(generators(cuda=True), torch.get_num_threads())

    def restore(self) -> None:
        restore_generators(self.generators)
        torch.set_num_threads(self.threads)


class Turn(Generic[Asked, Told, Result]):
    """A function that asks for something now and then, and waits until it is told.

    Args:
        function: called with this object, whose `ask` it calls.
    """

    def __init__(self, function: Callable[[Turn[Asked, Told, Result]], Result]) -> None:
        self.asked: Asked | None = None
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.ended = False
        self._told: Told | None = None
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._interrupted = False
        self._under_way = False
        self._process: _Process | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run, function), daemon=True)

    def go_on(self, told: Told | None = None) -> None:
        """Let the function go on until it asks again (`asked`), or ends (`ended`, with `result` or `error`)."""
        self._told, self.asked = told, None
        before = _Process.now()
        self._process = self._process or before
        self._under_way = True
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._back.acquire()
        self._under_way = False
        before.restore()

    @property
    def outcome(self) -> Result:
        """What the function gave.

        Raises:
            BaseException: what it raised.
        """
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]

    def ask(self, asked: Asked) -> Told:
        """In the function: wait until told.

        Raises:
            Interrupted: it is to end.
        """
        self.asked = asked
        self._process = _Process.now()
        self._back.release()
        self._wait()
        return self._told  # type: ignore[return-value]

    def check(self) -> None:
        """In the function: raise where it is to end."""
        if self._interrupted:
            raise Interrupted

    def interrupt(self) -> None:
        """Let the function end as soon as it asks or checks, and wait for that."""
        self._interrupted = True
        if self._thread.ident is None or self.ended:
            return
        before = _Process.now()
        self._go.release()  # for one that waits; one under way finds it when it asks
        self._thread.join()
        before.restore()

    @property
    def under_way(self) -> bool:
        """Whether it goes on now: where the one who told it to was interrupted."""
        return self._under_way

    def _wait(self) -> None:
        self._go.acquire()
        self.check()
        if self._process is not None:
            self._process.restore()

    def _run(self, function: Callable[[Turn[Asked, Told, Result]], Result]) -> None:
        try:
            self._wait()
            self.result = function(self)
        except BaseException as error:  # told to the one who let it go on
            self.error = error
        finally:
            self.ended = True
            self._back.release()
