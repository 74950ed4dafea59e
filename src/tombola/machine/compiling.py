"""Whether torch compiles or exports in this thread. Torch says it of the whole process, whichever thread does it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from tombola.machine.locks import Lock

_EXPORTS = Lock()  # torch.export changes torch.nn.Module for the whole process while it runs


@dataclass(frozen=True, eq=False)
class _Exporter:
    """The thread that exports from one moment to another; None: none."""

    thread: int | None = None


_now = [_Exporter()]


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """One thread at a time exports a network within."""
    with _EXPORTS.inner:
        before = _now[0]
        try:
            _now[0] = _Exporter(threading.get_ident())
            yield
        finally:
            _now[0] = _Exporter(before.thread)


def compiling() -> bool:
    """As `torch.compiler.is_compiling`, but not for an export (`exporting`) in another thread.

    >>> compiling()
    False
    """
    if torch.compiler.is_dynamo_compiling():  # torch.compile reads this very function, and needs nothing of the rest
        return True
    while True:
        exporter = _now[0]
        any_thread = torch.compiler.is_compiling()
        if _now[0] is exporter:  # else another export began or ended between the two
            return any_thread and (exporter.thread is None or exporter.thread == threading.get_ident())
