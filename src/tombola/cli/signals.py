"""Signals that end a command, as exceptions, so that it ends its workers and leaves nothing half-written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Ended(KeyboardInterrupt):
    """The system, or another program, ends this command."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)

    @property
    def status(self) -> int:
        """The exit status by which shells know it."""
        return 128 + int(self.signal)


@contextmanager
def ending_signals_raised() -> Iterator[None]:
    """Within it Ctrl-C, SIGTERM and SIGHUP raise `Ended`, once; a signal that is ignored (nohup) or taken stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in known}
    free = {number: now for number, now in before.items() if now in (signal.SIG_DFL, signal.default_int_handler)}

    def put_back() -> None:
        for number, handler in free.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        put_back()  # a second one ends at once
        raise Ended(number)

    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        put_back()
