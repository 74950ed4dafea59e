"""The runs of a sweep before anything is trained: their directories, and which are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.formats import setting_in_words
from tombola.plain import as_plain
from tombola.runs.directory import canonical
from tombola.runs.progress import Progress
from tombola.search.driver import Place
from tombola.search.find import place_of_run
from tombola.search.request import Request, loaded


@dataclass(frozen=True)
class Search:
    """One search that is asked for. `setting`: what the grid says of it; `where` that stands, for errors."""

    setting: Mapping[str, Any]
    request: Request
    where: str = "the sweep"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors of this search say which it is, and where it stands."""
        try:
            yield
        except TombolaError as error:
            raise TombolaError(f"{self.where}, {setting_in_words(self.setting)}: {error}") from None


@dataclass(frozen=True)
class Planned:
    """A search, and where its run lies."""

    search: Search
    place: Place

    @property
    def directory(self) -> Path:
        """That of the run."""
        return self.place.directory

    @property
    def finished(self) -> bool:
        """Whether the run was finished before."""
        return self.place.finished


def plan(searches: Sequence[Search], out: Path, progress: Progress) -> list[Planned]:
    """The runs of all searches under `out`, in order.

    Each data set is read once, and no two are held at the same time.

    Raises:
        TombolaError: a data set, a network or a file that a search names is not there.
    """
    planned: dict[int, Planned] = {}
    with progress.track("naming the runs", len(searches)) as update:
        for places in _by_data(searches).values():
            with searches[places[0]].named():
                splits = loaded(searches[places[0]].request.data, progress)
                splits.identify(progress.track)
            for place in places:
                with searches[place].named():
                    planned[place] = Planned(searches[place], place_of_run(searches[place].request, splits, out))
                update(len(planned))
    return [planned[place] for place in range(len(searches))]


def _by_data(searches: Sequence[Search]) -> dict[str, list[int]]:
    """The places of the searches on each data set."""
    places: dict[str, list[int]] = {}
    for place, search in enumerate(searches):
        data = search.request.data
        key = canonical(as_plain(data)) if isinstance(data, DataSpec) else str(id(data))
        places.setdefault(key, []).append(place)
    return places
