"""A run is a directory named by its content: opened by one process at a time, finished stages are reused."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from filelock import FileLock, Timeout

from tombola.errors import RunError
from tombola.machine.launch import launch
from tombola.machine.ranks import ALONE, Ranks
from tombola.runs.atomic import make_folder, write_json, write_text
from tombola.runs.integrity import (
    KEY,
    RUN,
    Damaged,
    check_format,
    checksum,
    made_of_sealed,
    made_with,
    misfits,
    read_record,
    set_aside,
    write_record,
)
from tombola.runs.stage import CHECKPOINT, RESULT, Stage
from tombola.runs.versions import versions

CONFIG = "config.yaml"
_NOW = ("versions", "machine")
RANKS = "ranks"
"""Of a machine: how many processes train together, where it is not one."""
STACKED = "stacked"
"""Of a machine: whether trainings may have been stacked with those of other runs, whose sums are rounded otherwise."""
_LEFT_OUT = {RANKS: 1, STACKED: False}
"""What a machine's record does not say where it is so."""


class Run:
    """An open run directory. A context manager: it holds the lock until it is left.

    Of several ranks, the first alone has the lock, reads and writes; all must call every method.
    """

    def __init__(self, directory: Path, lock: FileLock | None, ranks: Ranks = ALONE) -> None:
        self.directory = directory
        self._lock, self._ranks = lock, ranks

    def stage(self, name: str) -> Stage:
        """The stage of that name, e.g. "replicate-0/level-03"."""
        return Stage(self.directory / name, self._ranks)

    def result(self) -> dict[str, Any] | None:
        """The finished run's result, or None."""
        return self.stage("").result()

    def recovered(self) -> dict[str, Any] | None:
        """As `result`; where something of a finished run is damaged, its result is set aside (None)."""
        return self.stage("").recovered()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the run's result; the run is finished."""
        self.stage("").finish(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
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
    ranks: Ranks = ALONE,
) -> Run:
    """Open the run of this configuration under `parent`, creating it if it is new.

    Args:
        config: the scientific configuration (no paths, no display settings): its hash names the directory.
        machine: what the exact results depend on besides versions, e.g. threads and device kind.
        force: go on although an unfinished run was begun with other versions or another machine setting.
        ranks: the processes that work on it together.

    Raises:
        RunError: another process works on this run, or it was begun with other versions.
    """
    directory = parent / content_name(label, config)
    locks: list[FileLock] = []
    ranks.first(lambda: locks.append(_begun_by(directory, config, kind, machine, force)))
    return Run(directory, locks[0] if locks else None, ranks)


def _begun_by(
    directory: Path, config: Mapping[str, Any], kind: str, machine: Mapping[str, Any], force: bool
) -> FileLock:
    """The lock of a run's directory, which is made if it is new."""
    new = not os.path.lexists(directory)
    make_folder(directory)
    lock = _acquired(directory)
    if lock is None:
        raise RunError(f"another process is working on {directory}; wait for it, or name another folder with out")
    try:
        _describe(directory, config, kind, machine, force)
    except BaseException:
        if new:
            shutil.rmtree(directory, ignore_errors=True)
        lock.release()
        raise
    return lock


def _acquired(directory: Path) -> FileLock | None:
    """The run's lock, or None where another process has it."""
    file = directory / ".lock"
    if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
        set_aside(file, "is no lock")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise RunError(f"{file} cannot be locked: {error.strerror}; name another folder with out") from None
    return lock


def _describe(directory: Path, config: Mapping[str, Any], kind: str, machine: Mapping[str, Any], force: bool) -> None:
    now = {"versions": versions(), "machine": dict(machine)}
    text = yaml.safe_dump(json.loads(canonical(config)), sort_keys=True)
    before = _begun(directory, config)
    if before is None:
        _check_begun_alike(directory, made_with(now), force)
    elif not _changed(directory, before, now, force):
        _restore_config(directory, before, text)
        return
    write_text(directory / CONFIG, text)
    begun = {
        "kind": kind,
        "name": directory.name,
        "command": _command(),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": dict(config),
        **now,
    }
    if before is not None and KEY not in before:  # its stages have no checksums either
        write_json(directory / RUN, begun)
    else:
        write_record(directory / RUN, begun, {CONFIG: checksum(text.encode())})


def _changed(directory: Path, before: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]], force: bool) -> bool:
    """Whether an unfinished run goes on with other versions or another machine; RunError unless forced."""
    changed = [
        f"{key} {_shown(before[part], key)} (now {_shown(now[part], key)})"
        for part in now
        for key in {**now[part], **{key: None for key in _LEFT_OUT if key in before[part]}}
        if before[part].get(key) != now[part].get(key)
    ]
    if not changed or Stage(directory).result() is not None:
        return False
    if not force:
        raise RunError(
            f"{directory} was begun with {', '.join(changed)}; results would mix: "
            "go back to those, set the option force to go on anyway, or remove the directory"
        )
    return True


def _shown(part: Mapping[str, Any], key: str) -> object:
    return part.get(key, _LEFT_OUT.get(key))


def _restore_config(directory: Path, before: Mapping[str, Any], text: str) -> None:
    for error in misfits(directory / RUN, before):
        set_aside(error.file, error.what)
        write_text(error.file, text)


def _begun(directory: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The run's description; None where it is new or its description was damaged."""
    file = directory / RUN
    try:
        before = read_record(file)
        if before is not None and KEY in before and before.get("name") != directory.name:
            raise Damaged(file, f"belongs to another run ({str(before.get('name'))[:100]})")
        if before is not None and any(not isinstance(before.get(part), dict) for part in ("config", *_NOW)):
            raise Damaged(file, "describes no run")
        check_format(before or {}, file)
    except Damaged as error:
        set_aside(error.file, error.what)
        return None
    if before is not None and canonical(before["config"]) != canonical(config):
        raise RunError(f"{directory} holds another configuration; remove it, or name another folder with out")
    return before


def _check_begun_alike(directory: Path, made: str, force: bool) -> None:
    """RunError where a run has stages but no record of the versions and machine it was begun with."""
    if force or all(other == made for other in _made(directory)):
        return
    raise RunError(
        f"{directory} has lost its {RUN}, and its stages were done with other versions or threads, or do not "
        "record them; set the option force to go on with the present ones, or remove the directory"
    )


def _made(directory: Path) -> Iterator[str | None]:
    """What each stage with a result or a checkpoint was made with; None where it is not recorded."""
    for file in (*directory.rglob(RESULT), *directory.rglob(CHECKPOINT)):
        if file.suffix == ".pt":
            yield made_of_sealed(file)
        elif file.is_file():
            yield _made_of_result(file)


def _made_of_result(file: Path) -> str | None:
    try:
        seal = json.loads(file.read_bytes())[KEY]
        return str(seal["made"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def _command() -> str:
    """What began this process, to be typed again."""
    program = Path(sys.argv[0]).name
    ours, started = program in ("tombola", "__main__.py"), launch()
    if started is None:
        start = ["tombola"] if ours else ["python", program]
    else:
        machines = ["--nnodes", str(started.size // started.here)] if started.size > started.here else []
        start = [
            "torchrun",
            *machines,
            "--nproc_per_node",
            str(started.here),
            *(["-m", "tombola"] if ours else [program]),
        ]
    return " ".join([*start, *map(shlex.quote, sys.argv[1:])])
