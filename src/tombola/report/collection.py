"""Many runs for one page: those of a sweep, or all in a folder. Only what a comparison needs is read of each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError
from tombola.results.codec import typed
from tombola.results.record import Settings
from tombola.results.run import RunRecord
from tombola.results.search import SearchResult
from tombola.results.settings import SearchRun, differing, settings_of
from tombola.results.sweep import SweepResult
from tombola.runs.integrity import RUN, Damaged, read_record
from tombola.runs.stage import RESULT

FINISHED, UNFINISHED = "finished", "can be resumed"
SWEEP = "sweep"
DENSITY = ".density"


@dataclass(frozen=True)
class Member:
    """One run: its directory, what it is, its state, its result if it is a finished search, and a sweep's setting."""

    path: Path
    record: RunRecord
    state: str
    search: SearchResult | None = None
    named: Settings = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def compared(self) -> SearchRun | None:
        """The run as one to compare with others."""
        return None if self.search is None else SearchRun(self.name, self.record.config, self.search, self.named)


@dataclass(frozen=True)
class Collection:
    """Runs of one page. `failed`: what a sweep's runs failed of, by setting; `command`: what made them, "" if many."""

    path: Path
    members: tuple[Member, ...]
    failed: tuple[tuple[str, str], ...] = ()
    command: str = ""

    @property
    def searches(self) -> tuple[SearchRun, ...]:
        """The finished searches."""
        return tuple(run for member in self.members if (run := member.compared) is not None)


def is_collection(path: Path) -> bool:
    """Whether this is a sweep's directory, or a folder of runs that is none itself."""
    if os.path.lexists(path / RUN):
        return path.name.startswith(SWEEP) and _kind(path) == SWEEP
    return any(path.glob(f"*/{RUN}"))


def read_collection(path: Path) -> Collection:
    """The runs of a sweep in the order of its grid, or those in a folder in the order of their settings.

    Raises:
        TombolaError: a sweep's own files are damaged.
    """
    if not os.path.lexists(path / RUN):
        members = [member(file.parent) for file in sorted(path.glob(f"*/{RUN}"))]
        return Collection(path, tuple(_in_order([one for one in members if one.record.kind != SWEEP])))
    record = typed(RunRecord, read_record(path / RUN) or {}, path / RUN)
    content = read_record(path / RESULT)
    if content is None:
        raise TombolaError(f"{path} holds no finished sweep; run its command again: {record.command}")
    sweep = typed(SweepResult, content, path / RESULT)
    folders = [path.resolve().parent / name for name in sweep.runs]
    failed = tuple((search.name, search.error or "") for search in sweep.failed)
    named = {search.run: search.unseeded for search in reversed(sweep.searches)}
    members = [replace(member(folder), named=named[folder.name]) for folder in folders if (folder / RUN).is_file()]
    return Collection(path, tuple(members), failed, record.command)


def member(path: Path) -> Member:
    """One run, read as far as a comparison needs it."""
    try:
        record = typed(RunRecord, read_record(path / RUN) or {}, path / RUN)
    except TombolaError as error:
        return Member(path, RunRecord(name=path.name), _damaged(error))
    try:
        content = read_record(path / RESULT)
        if content is None:
            return Member(path, record, UNFINISHED)
        if content.get("kind") != "find":
            return Member(path, record, FINISHED)
        return Member(path, record, FINISHED, typed(SearchResult, content, path / RESULT))
    except TombolaError as error:
        return Member(path, record, _damaged(error))


def _damaged(error: TombolaError) -> str:
    return f"damaged: {error.file.name} {error.what}" if isinstance(error, Damaged) else f"not readable: {error}"


def _kind(path: Path) -> str:
    try:
        return str((read_record(path / RUN) or {}).get("kind", ""))
    except Damaged:
        return ""


def _in_order(members: Sequence[Member]) -> list[Member]:
    """By the settings in which they differ, numbers by their size, from dense to sparse; then by seed."""
    settings = {one.name: settings_of(one.record.config) for one in members}
    names = differing([settings[one.name] for one in members if one.search is not None])

    def key(one: Member) -> tuple[Any, ...]:
        own = settings[one.name]
        return (
            *(_sortable(own.get(name), name.endswith(DENSITY)) for name in names),
            _sortable(one.record.config.get("seed")),
            one.name,
        )

    return sorted(members, key=key)


def _sortable(value: Any, falling: bool = False) -> tuple[int, float, str]:
    if isinstance(value, bool | int | float):
        return 1, -float(value) if falling else float(value), ""
    return (0, 0.0, "") if value is None else (2, 0.0, str(value))
