"""Which tickets are meant: ticket files, and all those of run directories, or of a folder of runs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.runs.integrity import RUN
from tombola.study.recorded import recorded_name
from tombola.ticket.ticket import Ticket

_PLACE = re.compile(r"(?:(?P<arm>.*)/)?replicate-(?P<replicate>\d{1,6})/level-(?P<level>\d{1,6})/[^/]+")


@dataclass(frozen=True)
class Named:
    """A ticket, where it was read, and its place in a search, as far as the path says.

    `shown`: the path as it is written in results.
    """

    ticket: Ticket
    shown: str
    series: str
    replicate: int | None = None
    level: int | None = None


def read_tickets(paths: Sequence[str | Path], *, max_weights: int | None = None) -> tuple[Named, ...]:
    """The tickets at the paths, in their order, each once; of a run all in it, arm by arm; of a folder of runs, theirs.

    Raises:
        TombolaError: nothing is there, or no ticket.
    """
    if not paths:
        raise TombolaError("no ticket was given; name ticket files, or run directories")
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise TombolaError(f"tickets has {described(path)}; name tickets, their files, or run directories")
    places = [place for path in paths for place in _places(Path(path))]
    return each_once([one for place in places for one in _at(place, len(places) > 1, max_weights)])


def each_once(named: Sequence[Named]) -> tuple[Named, ...]:
    """The tickets without those that are there twice in one series."""
    once: dict[tuple[str, str], Named] = {}
    for one in named:
        once.setdefault((one.series, one.ticket.digest), one)
    return tuple(once.values())


def _places(path: Path) -> list[Path]:
    """The path itself, or the runs in it that hold tickets."""
    if not path.is_dir() or (path / RUN).is_file():
        return [path]
    runs = [run for run in sorted(path.iterdir()) if (run / RUN).is_file() and _files(run)]
    if not runs:
        fix = (
            f"name them, e.g. {path}/*.ticket" if any(path.glob("*.ticket")) else "name ticket files or run directories"
        )
        raise TombolaError(f"the folder {path} is no run, and holds none with tickets; {fix}")
    return runs


def _files(run: Path) -> list[Path]:
    return sorted(file for file in run.rglob("*.ticket") if file.resolve().is_relative_to(run.resolve()))


def _at(path: Path, several: bool, max_weights: int | None) -> list[Named]:
    if not (path / RUN).is_file():
        ticket = Ticket.load(path, max_weights=max_weights)
        return [Named(ticket, str(path), search_of(ticket))]
    files = _files(path)
    if not files:
        raise TombolaError(f"the run {path} holds no ticket; finish it, or name another")
    return [_in_run(file, path, f"{path.name}: " if several else "", max_weights) for file in files]


def _in_run(file: Path, run: Path, lead: str, max_weights: int | None) -> Named:
    ticket = Ticket.load(file, max_weights=max_weights)
    place = _PLACE.fullmatch(file.relative_to(run).as_posix())
    shown = f"{run.name}/{file.relative_to(run).as_posix()}"
    if place is None:
        return Named(ticket, shown, f"{lead}{search_of(ticket)}")
    series = f"{lead}{place['arm'] or search_of(ticket)}"
    return Named(ticket, shown, series, int(place["replicate"]), int(place["level"]))


def search_of(ticket: Ticket) -> str:
    """Tickets of one network and method lie on one curve."""
    names = (recorded_name(ticket, part) for part in ("method", "model"))
    return " on ".join(name for name in names if name) or "tickets"
