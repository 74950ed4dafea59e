"""A pool of worker processes: a killed one is replaced, and none outlives the process that started it."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType, TracebackType
from typing import Any, Generic, Self, TypeVar

from tombola.errors import TombolaError, in_short, place_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_ATTEMPTS = 2
_PATIENCE = 5.0  # seconds for a process to end after SIGTERM
_POLL = 1.0  # seconds between checks of the parent
_PR_SET_PDEATHSIG = 1
_RESULT, _ERROR, _WARNING = "result", "error", "warning"
_SPAWN = multiprocessing.get_context("spawn")


class WorkerWarning(UserWarning):
    """A worker process was ended from outside; its item is begun again."""


@dataclass(frozen=True, eq=False)
class _Worker:
    """A process and this side of the pipe to it."""

    process: Any
    link: Connection


class WorkerPool(Generic[Item, Result]):
    """Up to `size` processes that call `function`, each with `threads` torch threads (None: torch's own number).

    A context manager. They start when there is work for them, and end, at the latest, with the process that started
    them, also where that is killed: by the system on Linux, elsewhere by a thread in each. Ctrl-C is handled by this
    process and does not reach them. Leaving the context ends all of them, in the middle of their work.
    """

    def __init__(self, function: Callable[[Item], Result], size: int, threads: int | None = None) -> None:
        self._function, self._size, self._threads = function, size, threads
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.link.close()
            worker.process.terminate()
        for worker in workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def results(self, items: Sequence[Item]) -> Iterator[Result]:
        """`function(item)` of every item, in order.

        Raises:
            TombolaError: the processes that worked on one item were ended from outside twice, or it cannot be sent.
            Exception: what the function raised, as soon as it does.

        Warns:
            WorkerWarning: a process was ended from outside, and its item is begun again.
            Warning: what the function warned of in a process, as soon as it does.
        """
        results: dict[int, Result] = {}
        done = self.completed(items)
        for index in range(len(items)):
            while index not in results:
                number, result = next(done)
                results[number] = result
            yield results.pop(index)

    def completed(
        self, items: Sequence[Item], lost: Callable[[Item, TombolaError], Result] | None = None
    ) -> Iterator[tuple[int, Result]]:
        """(index, `function(items[index])`) as they are done; errors and warnings as in `results`.

        `lost`: gives the result of an item whose processes were ended from outside twice (None: that is raised).
        """
        waiting, attempts = list(reversed(range(len(items)))), [0] * len(items)
        busy: dict[_Worker, int] = {}
        while waiting or busy:
            while waiting and len(busy) < self._size:
                busy[self._hand_out(items[waiting[-1]], busy)] = waiting[-1]
                attempts[waiting.pop()] += 1
            for worker in _ready(busy):
                try:
                    kind, value = worker.link.recv()
                except (EOFError, OSError):
                    index = busy.pop(worker)
                    error = self._removed(worker, attempts[index] >= _ATTEMPTS)
                    if error is None:
                        waiting.append(index)
                    elif lost is None:
                        raise error from None
                    else:
                        yield index, lost(items[index], error)
                    continue
                if kind == _WARNING:
                    _warn_again(*value)
                    continue
                index = busy.pop(worker)
                if kind == _ERROR:
                    raise value
                yield index, value

    def _hand_out(self, item: Item, busy: dict[_Worker, int]) -> _Worker:
        """The worker that has been given the item: an idle one, or a new one."""
        worker = next((one for one in self._workers if one not in busy), None)
        if worker is None:
            worker = self._start()
        with (
            _clear_error_if_not_sent(),
            contextlib.suppress(OSError),
        ):  # it may have ended: seen when its answer is read
            worker.link.send(item)
        return worker

    def _start(self) -> _Worker:
        here, there = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_work, args=(there, self._function, self._threads), daemon=False)
        with _clear_error_if_not_sent(), _interrupts_held():
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _removed(self, worker: _Worker, last: bool) -> TombolaError | None:
        """Account for a worker that ended by itself or was killed; the error to raise if it was the `last` attempt."""
        worker.link.close()
        worker.process.join(_PATIENCE)
        self._workers.remove(worker)
        how = _ending(worker.process.exitcode)
        if last:
            return TombolaError(
                f"two worker processes in turn ended on the same job (the last {how}): memory may have run out (ask "
                "for fewer jobs), or a script lacks `if __name__ == '__main__':`; run the same again to go on"
            )
        warnings.warn(f"a worker process {how}; its job goes on in a new one", WorkerWarning, stacklevel=4)
        return None


def _ready(busy: dict[_Worker, int]) -> list[_Worker]:
    """The workers that have answered or ended: their pipe is readable either way. Waits for one."""
    links = {worker.link: worker for worker in busy}
    return [links[link] for link in wait(list(links)) if isinstance(link, Connection)]


def _warn_again(text: str, kind: bytes) -> None:
    """Show a worker's warning as this process shows its own."""
    try:
        category = pickle.loads(kind)  # what our own worker has sent
    except Exception:  # of a module that only the worker has
        category = UserWarning
    warnings.warn(text, category, stacklevel=4)


def _ending(status: int | None) -> str:
    if status is None:
        return "closed its pipe"
    if status >= 0:
        return f"ended with status {status}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-status).name}"
    return f"was killed by signal {-status}"


@contextmanager
def _clear_error_if_not_sent() -> Iterator[None]:
    try:
        yield
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TombolaError(
            f"jobs needs work that can be handed to another process, and this cannot ({error}); set jobs to 1"
        ) from error


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started within inherit that Ctrl-C does not reach them, also while they are importing."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- in the worker -----------------------------------------------------------------------------------------


def _work(link: Connection, function: Callable[[Any], Any], threads: int | None) -> None:
    """What a worker does: an item in, its result or an error out, and warnings before, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    warnings.showwarning = _warnings_sent(link)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    with contextlib.suppress(_Stopped, EOFError, OSError):  # the last two: the other end is closed
        while True:
            item = link.recv()  # here, and when all is done, SIGTERM ends the process silently
            link.send(_answer(function, item))


def _answer(function: Callable[[Any], Any], item: Any) -> tuple[str, Any]:
    """The function's result or error. _Stopped: SIGTERM arrived."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return _RESULT, function(item)
    except _Stopped:
        raise
    except BaseException as error:  # of a user's code, whatever it may be
        return _ERROR, _sendable(error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _warnings_sent(link: Connection) -> Callable[..., None]:
    """Replaces `warnings.showwarning`: the process that started this one shows them, in its own way."""
    one_at_a_time = threading.Lock()

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        try:
            kind = pickle.dumps(category)
        except Exception:  # a class within a function
            kind = pickle.dumps(UserWarning)
        with one_at_a_time, contextlib.suppress(OSError):
            link.send((_WARNING, (str(message), kind)))

    return show


class _Stopped(BaseException):
    """SIGTERM: the current work is unwound, and not answered."""


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Stopped


def _sendable(error: BaseException) -> BaseException:
    """The error, its traceback as a note; as text where it cannot be pickled and read again."""
    place = place_of(error)
    sent = error
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does
        sent = RuntimeError(f"in a worker process: {in_short(error)}")
    sent.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    sent.tombola_place = place  # type: ignore[attr-defined]
    return sent


def _end_with_parent() -> None:
    """End this process when its parent ends, in whatever way."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        # the pipe stays open where another child of the parent has inherited it; a new parent shows it as well
        while os.getppid() == parent.pid:
            try:
                if wait([parent.sentinel], timeout=_POLL):
                    break
            except OSError:  # closed: this process is ending
                return
        os._exit(1)

    threading.Thread(target=watch, name="tombola-watch-parent", daemon=True).start()
