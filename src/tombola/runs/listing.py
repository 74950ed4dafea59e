"""The runs under a folder, their states, and which are damaged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tombola.errors import RunError, TombolaError
from tombola.runs.integrity import KEY, RUN, Damaged, misfits, read_record
from tombola.runs.stage import RESULT, Stage, begun_stages


def list_runs(parent: Path) -> list[dict[str, Any]]:
    """Every run under `parent`: name, kind, state, result, command, and its `damage` in words.

    The state is "finished", "running", "can be resumed" or "damaged": something in it is not what was written.
    All files are read and compared with their checksums, except those of running runs.
    """
    try:
        folders = sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError as error:
        raise TombolaError(f"{parent} cannot be read: {error.strerror}; name another folder") from None
    return [_listed(folder) for folder in folders if _is_run(folder)]


def _is_run(folder: Path) -> bool:
    return os.path.lexists(folder / RUN) or any(folder.glob(f"replicate-*/*/{RESULT}"))


def _listed(folder: Path) -> dict[str, Any]:
    running = _locked(folder)
    problems = [] if running else damage(folder)
    described, result, other = _description(folder), None, list[str]()
    try:
        result = Stage(folder).result()
    except RunError as error:  # of another format
        other.append(str(error))
    state = "damaged" if problems or other else "finished" if result is not None else "can be resumed"
    blank = {"kind": "unknown", "name": folder.name, "command": ""}
    return {
        **{key: value for key, value in described.items() if key != KEY},
        **{part: str(described.get(part, value)) for part, value in blank.items()},
        "config": described.get("config", {}),
        "directory": str(folder),
        "state": "running" if running and result is None else state,
        "stages": sum(file.parent != folder for file in folder.rglob(RESULT)),
        "recipe": _recipe(result, described),
        "result": result,
        "damage": [*(f"{error.file.relative_to(folder)} {error.what}" for error in problems), *other],
    }


def damage(directory: Path) -> list[Damaged]:
    """Every file of a run that is not what was written."""
    damaged: dict[Path, Damaged] = {}
    try:
        record = read_record(directory / RUN)
        if record is None:
            return [Damaged(directory / RUN, "is missing")]
        problems = list(misfits(directory / RUN, record))
    except Damaged as error:
        return [error]  # it holds what the others must fit
    for stage in (Stage(directory), *begun_stages(directory)):
        problems += stage.damage()
    for problem in problems:
        damaged.setdefault(problem.file, problem)
    return list(damaged.values())


def _description(directory: Path) -> dict[str, Any]:
    try:
        return read_record(directory / RUN) or {}
    except Damaged:
        return {}


def recorded_recipe(directory: Path) -> dict[str, Any] | None:
    """How the run in `directory` trains, from its result or its configuration; None where neither has it."""
    return _recipe(Stage(directory).result(), _description(directory))


def _recipe(result: Mapping[str, Any] | None, described: Mapping[str, Any]) -> dict[str, Any] | None:
    for source in (result, described.get("config")):
        recipe = source.get("recipe") if isinstance(source, Mapping) else None
        if isinstance(recipe, Mapping):
            return dict(recipe)
    return None


def _locked(directory: Path) -> bool:
    file = directory / ".lock"
    if not file.is_file():
        return False
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a folder that cannot be written to: no process trains in it
        return False
    lock.release()
    return False
