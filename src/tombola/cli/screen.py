"""Output for people: lines and tables; on stderr if stdout carries JSON."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from tombola.cli.columns import PADDINGS, WIDEST_GAP, fitted
from tombola.machine.launch import launch
from tombola.runs.record import stamped

if TYPE_CHECKING:
    from rich.console import JustifyMethod

    from tombola.report.tables import Table as ReportTable

PLAIN_WIDTH = 160  # of files and pipes, which do not wrap

_LONGEST_WORD, _LONGEST_MESSAGE = 500, 1500  # characters, of a user's value in a message on stderr


class _Pipe(Console):
    """A console whose reader may have seen enough, as `head` has: that is left to the command line."""

    def on_broken_pipe(self) -> None:
        raise  # the error that is being handled


class Screen:
    """Writes for people, and at the end the result for machines; both on stdout if `together`, which leads nowhere."""

    def __init__(self, as_json: bool, *, together: bool = False) -> None:
        self._json, as_json = as_json, as_json and not together
        terminal = (sys.stderr if as_json else sys.stdout).isatty()
        self._console: Console = _Pipe(
            stderr=as_json, markup=False, highlight=False, width=None if terminal else PLAIN_WIDTH
        )

    def line(self, text: str = "") -> None:
        """One line, never wrapped."""
        self._console.print(printable(text), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)) -> None:
        """A table; the columns in `left` hold words and are set flush left, the others flush right."""
        self._draw(columns, rows, left)
        self.line()

    def tables(self, tables: Sequence[ReportTable]) -> None:
        """Tables of a report, each under its title and above what it says of its columns."""
        for table in tables:
            self.line(table.title)
            rows = [[str(cell) for cell in row] for row in table.rows]
            self._draw([str(cell) for cell in table.head], rows, range(table.words))
            if table.note:
                self.line(table.note)
            self.line()

    def _draw(self, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[int]) -> None:
        shown = [list(map(printable, row)) for row in rows]
        fit = fitted([list(cells) for cells in zip(columns, *shown, strict=True)], self._console.width)
        widths, gap = ([None] * len(columns), WIDEST_GAP) if fit is None else fit
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=PADDINGS[gap])
        for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
            side: JustifyMethod = "left" if index in left else "right"
            table.add_column(column, justify=side, overflow="fold", width=width)
        for row in shown:
            table.add_row(*row)
        with self._console.capture() as drawn:
            self._console.print(table)
        self._console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))

    def run(self, run: str | None, reused: bool | None) -> None:
        """Where a run lies, and whether it had finished before."""
        if run is not None:
            self.line(f"run     {run}")
        if reused:
            self.line("already finished: nothing was trained")

    def finish(self, result: Mapping[str, Any]) -> None:
        """With --json, the result as the last line of stdout; see `stamped`."""
        if self._json:
            print(json.dumps(_finite(stamped(result))), flush=True)


@contextmanager
def loading(shown: bool | None) -> Iterator[None]:
    """A line on stderr while PyTorch is imported, which takes seconds; taken back afterwards.

    `shown` as in the option progress: None shows it on a terminal.
    """
    started = launch()
    if "torch" in sys.modules or (started and started.rank) or not (sys.stderr.isatty() if shown is None else shown):
        yield
        return
    print("loading PyTorch ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text from files, without control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def brief(text: str) -> str:
    """A message for stderr, printable: overlong words and messages are cut."""
    words = (
        word if len(word) <= _LONGEST_WORD else f"{word[:80]}...{word[-20:]}" for word in printable(text).split(" ")
    )
    message = " ".join(words)
    return message if len(message) <= _LONGEST_MESSAGE else f"{message[: _LONGEST_MESSAGE - 100]} ... {message[-90:]}"


@contextmanager
def plain_warnings(*, muted: bool = False) -> Iterator[None]:
    """Warnings as one line on stderr, without the place in the code; with `muted`, none."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"tombola: warning: {brief(' '.join(str(message).split()))}", file=file or sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # said at every start of workers where more are asked for than there are cores, which slow disks may want
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.showwarning = (lambda *given, **named: None) if muted else show
        yield


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
