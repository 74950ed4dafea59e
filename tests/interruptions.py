"""Errors in the middle of work: raised as a function is entered, wherever it stands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, Self


class Interrupt:
    """Within, `error` is raised in this thread as the first Python function is entered that `where` picks.

    `reached`: whether one was.
    """

    def __init__(self, error: type[BaseException], where: Callable[[CodeType], bool]) -> None:
        self.error, self.where, self.reached = error, where, False

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._entered)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> bool:
        sys.settrace(self._before)
        return self.reached and kind is self.error

    def _entered(self, frame: FrameType, event: str, argument: Any) -> None:
        if not self.reached and self.where(frame.f_code):
            self.reached = True
            raise self.error


def named(path: str, function: str) -> Callable[[CodeType], bool]:
    """The function of that name in a file whose path ends so."""
    return lambda code: code.co_name == function and code.co_filename.replace("\\", "/").endswith(path)
