"""Signals that reach a process whose threads ran code of other libraries."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """This thread's alternate signal stack is afterwards what it was before.

    OpenVINO's plugin sets its own and unmaps it when it is destroyed, on whatever thread that happens: the next signal
    that Python handles, as Ctrl-C or the end of a DataLoader's worker, would then kill the process without a word.
    """
    if sys.platform != "linux":
        yield
        return
    change, before = ctypes.CDLL(None).sigaltstack, _Stack()
    known = change(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            change(ctypes.byref(before), None)
