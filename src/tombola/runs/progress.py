"""Progress bars with the latest figures and the time left, on stderr; silent where that is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_EVERY = 0.2
"""Seconds between two updates of a bar."""


class Update(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, figures: Callable[[], str] | None = None) -> None:
        """`done` units are finished; `figures` gives the latest figures, called only when they are shown."""


class Progress(Protocol):
    """Shows how far some work has come."""

    def track(self, description: str, total: int | None) -> AbstractContextManager[Update]:
        """A bar of `total` units (None: unknown); it gives a function to call with the number done."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def track(self, description: str, total: int | None) -> Iterator[Update]:
        yield lambda done, figures=None: None


class Bars:
    """One line per piece of work under way (rich), removed when the work is done."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    @contextmanager
    def track(self, description: str, total: int | None) -> Iterator[Update]:
        task = self._bars.add_task(description, total=total, note="")
        last = float("-inf")

        def update(done: int, figures: Callable[[], str] | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _EVERY or done == total:
                last = now
                self._bars.update(task, completed=done)
                if figures is not None:
                    self._bars.update(task, note=figures())

        try:
            yield update
        finally:
            self._bars.remove_task(task)


@contextmanager
def show_progress(wanted: bool | None = None) -> Iterator[Progress]:
    """Bars where wanted (None: where stderr is a terminal), otherwise silence."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bars(bars)
