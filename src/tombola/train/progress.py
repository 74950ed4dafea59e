"""Progress bars with the time left, on stderr; silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Update = Callable[[int], None]


class Progress(Protocol):
    """Shows how far some work has come."""

    def track(self, description: str, total: int) -> AbstractContextManager[Update]:
        """A bar of `total` units; call what it gives with the number done."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Update]:
        yield lambda done: None


class Bars:
    """One line per piece of work under way (rich), removed when the work is done."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars

    @contextmanager
    def track(self, description: str, total: int) -> Iterator[Update]:
        task = self._bars.add_task(description, total=total)
        try:
            yield lambda done: self._bars.update(task, completed=done)
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

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield Bars(bars)
