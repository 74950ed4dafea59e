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
        """The exit status that shells use for it."""
        return 128 + int(self.signal)


@contextmanager
def ending_signals_raised() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP raise `Ended`, once; signals ignored (nohup) or already handled are left alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in known}
    free = {number: now for number, now in before.items() if now in (signal.SIG_DFL, signal.default_int_handler)}

    def restore() -> None:
        for number, handler in free.items():
            signal.signal(number, handler)

    def end(number: int, frame: FrameType | None) -> None:
        restore()  # a second one ends at once
        raise Ended(number)

    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        restore()
