"""A run is a directory named by its content: opened by one process at a time, finished stages found again."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from filelock import FileLock, Timeout

from tombola.errors import RunError, TombolaError
from tombola.runs.atomic import read_json, write_json, write_text
from tombola.runs.record import stamped, unstamped
from tombola.runs.versions import versions

_WRITING = ".writing"
_PATIENCE = 15.0  # seconds that another process is given to leave a stage alone


@dataclass(frozen=True)
class Stage:
    """One finished-or-not piece of a run, in its own directory; `result.json` is written last and means done."""

    directory: Path

    def result(self) -> dict[str, Any] | None:
        """What the finished stage gave, or None."""
        file = self.directory / "result.json"
        return unstamped(read_json(file)) if file.exists() else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the stage's own lock: a process that a killed run left behind may be writing still, for a moment.

        Raises:
            RunError: another process keeps the lock.
        """
        _make(self.directory)
        lock = FileLock(self.directory / _WRITING, timeout=_PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"another process is writing to {self.directory}; wait for it, or end it") from None
        try:
            yield
        finally:
            lock.release()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the stage as done."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_json(self.directory / "result.json", stamped(result))
        for spent in ("checkpoint.pt", _WRITING):
            (self.directory / spent).unlink(missing_ok=True)
        for part in self.directory.glob(".*.part"):  # what a kill in the middle of a write left
            part.unlink(missing_ok=True)


class Run:
    """An open run directory. A context manager: it holds the lock until it is left."""

    def __init__(self, directory: Path, lock: FileLock) -> None:
        self.directory = directory
        self._lock = lock

    def stage(self, name: str) -> Stage:
        """The stage of that name, e.g. "replicate-0/level-03"."""
        return Stage(self.directory / name)

    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None."""
        return Stage(self.directory).result()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the run's result; the run is finished."""
        Stage(self.directory).finish(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def canonical(config: Mapping[str, Any]) -> str:
    """The configuration as JSON with sorted keys, the form that is hashed."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_name(label: str, config: Mapping[str, Any]) -> str:
    """`label` and the first 10 hex digits of the configuration's sha256."""
    return f"{label}-{hashlib.sha256(canonical(config).encode()).hexdigest()[:10]}"


def open_run(
    parent: Path,
    label: str,
    config: Mapping[str, Any],
    *,
    kind: str,
    machine: Mapping[str, Any],
    force: bool = False,
) -> Run:
    """Open the run of this configuration under `parent`, making it if it is new.

    Args:
        config: the scientific configuration (no paths, no display settings): its hash names the directory.
        machine: what the bits depend on besides versions, e.g. threads and device kind.
        force: go on although an unfinished run was begun with other versions or another machine setting.

    Raises:
        RunError: another process works on this run, or it was begun with other versions.
    """
    directory = parent / content_name(label, config)
    _make(directory)
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"another process is working on {directory}; wait for it, or name another folder with out"
        ) from None
    try:
        _describe(directory, config, kind, machine, force)
    except BaseException:
        lock.release()
        raise
    return Run(directory, lock)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TombolaError(f"{directory} cannot be made: {error.strerror}; name another folder with out") from None


def _describe(directory: Path, config: Mapping[str, Any], kind: str, machine: Mapping[str, Any], force: bool) -> None:
    file, now = directory / "run.json", {"versions": versions(), "machine": dict(machine)}
    if file.exists():
        before = read_json(file)
        if canonical(before["config"]) != canonical(config):
            raise RunError(f"{directory} holds another configuration; remove it, or name another folder with out")
        if Stage(directory).result() is not None:
            return
        changed = [
            f"{key} {before[part].get(key)} (now {value})"
            for part in now
            for key, value in now[part].items()
            if before[part].get(key) != value
        ]
        if changed and not force:
            raise RunError(
                f"{directory} was begun with {', '.join(changed)}; results would mix: "
                "go back to those, set the option force to go on anyway, or remove the directory"
            )
        if not changed:
            return
    write_text(directory / "config.yaml", yaml.safe_dump(json.loads(canonical(config)), sort_keys=True))
    write_json(
        file,
        {
            "kind": kind,
            "name": directory.name,
            "command": _command(),
            "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "config": dict(config),
            **now,
        },
    )


def _command() -> str:
    program = Path(sys.argv[0]).name
    start = ["tombola"] if program in ("tombola", "__main__.py") else ["python", program]
    return " ".join([*start, *map(shlex.quote, sys.argv[1:])])


def list_runs(parent: Path) -> list[dict[str, Any]]:
    """Every run under `parent`: name, kind, state ("finished", "running" or "can be resumed"), result, command."""
    found = []
    for file in sorted(parent.glob("*/run.json")):
        description, result = read_json(file), Stage(file.parent).result()
        stages = len(list(file.parent.rglob("result.json"))) - (result is not None)
        state = "finished" if result is not None else "running" if _locked(file.parent) else "can be resumed"
        found.append(
            {
                **description,
                "directory": str(file.parent),
                "state": state,
                "stages": stages,
                "recipe": recorded_recipe(file.parent),
                "result": result,
            }
        )
    return found


def recorded_recipe(directory: Path) -> dict[str, Any] | None:
    """How the run in `directory` trains, as its result or its configuration says; None where neither does."""
    described = read_json(directory / "run.json") if (directory / "run.json").exists() else {}
    for found in (Stage(directory).result() or {}, described.get("config")):
        recipe = found.get("recipe") if isinstance(found, Mapping) else None
        if isinstance(recipe, Mapping):
            return dict(recipe)
    return None


def _locked(directory: Path) -> bool:
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
