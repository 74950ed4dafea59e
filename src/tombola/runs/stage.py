"""A stage: one finished or unfinished piece of a run, reused if everything in it is as it was written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tombola.errors import RunError
from tombola.machine.ranks import ALONE, Ranks
from tombola.runs.atomic import make_folder
from tombola.runs.integrity import (
    KEY,
    Damaged,
    check_format,
    checksum,
    misfits,
    read_file,
    read_record,
    read_sealed,
    set_aside,
    write_record,
)
from tombola.runs.record import stamped, unstamped

RESULT, CHECKPOINT, SENT = "result.json", "checkpoint.pt", "sent.json"
METRICS, OUTCOMES, TICKET, REWIND = "metrics.csv", "outcomes.safetensors", "network.ticket", "rewind.pt"
KEPT = (METRICS, OUTCOMES, TICKET, REWIND)
"""What a stage keeps with its result, which holds their checksums."""
_WRITING = ".writing"
_PATIENCE = 15.0  # seconds to wait for another process to release a stage


@dataclass(frozen=True)
class Stage:
    """One piece of a run, in its own directory; `result.json` is written last and marks it finished.

    Of several ranks the first alone reads and writes, and all must call every method; they see the same files.
    """

    directory: Path
    ranks: Ranks = ALONE

    def result(self) -> dict[str, Any] | None:
        """What the finished stage gave; None if it has not finished, or anything that it kept is damaged."""
        return self.ranks.first(self._result)

    def _result(self) -> dict[str, Any] | None:
        try:
            record = read_record(self.directory / RESULT)
        except Damaged:
            return None
        if record is None or any(self._misfits(record)):
            return None
        check_format(record, self.directory / RESULT)
        return unstamped({key: value for key, value in record.items() if key != KEY})

    def recovered(self) -> dict[str, Any] | None:
        """As `result`; what is damaged is set aside with a warning, so that the stage can be done again.

        For the one writer of the run alone.
        """
        return self.ranks.first(self._recovered)

    def _recovered(self) -> dict[str, Any] | None:
        damaged = list(self.damage())
        if damaged:
            # first of all the stage is unfinished: a kill from here on leaves nothing that looks complete
            if all(error.file != self.directory / RESULT for error in damaged):
                (self.directory / RESULT).unlink(missing_ok=True)
            for error in damaged:
                if error.file.parent == self.directory:  # stages below handle their own
                    set_aside(error.file, error.what)
        return self._result()

    def damage(self) -> Iterator[Damaged]:
        """What does not fit: of the result, of the files it lists, and of a checkpoint."""
        try:
            record = read_record(self.directory / RESULT)
        except Damaged as error:
            record = None
            yield error
        if record is not None:
            yield from self._misfits(record)
        else:
            for name in (*KEPT, CHECKPOINT):
                yield from _unreadable(self.directory / name)

    def _misfits(self, record: Mapping[str, Any]) -> Iterator[Damaged]:
        yield from misfits(self.directory / RESULT, record)
        for name in record.get(KEY, {}).get("files", ()):
            if (below := Path(name)).name == RESULT and len(below.parts) > 1:
                yield from _below(self.directory / below)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the stage's own lock: a process of a killed run may still be writing for a moment.

        Raises:
            RunError: another process keeps the lock.
        """
        held: list[FileLock] = []
        self.ranks.first(lambda: held.append(self._locked()))
        try:
            yield
        finally:
            for lock in held:
                lock.release()

    def _locked(self) -> FileLock:
        make_folder(self.directory)
        lock = FileLock(self.directory / _WRITING, timeout=_PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise RunError(f"another process is writing to {self.directory}; wait for it, or end it") from None
        except OSError as error:
            raise RunError(f"{self.directory / _WRITING} cannot be locked: {error.strerror}; remove it") from None
        return lock

    def write(self, function: Callable[[Path], object]) -> None:
        """Call what writes into the stage's directory."""
        if self.ranks.writes:
            function(self.directory)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Mark the stage as done, with the checksums of what it keeps and of the stages below it."""
        self.ranks.first(lambda: self._finish(result))

    def _finish(self, result: Mapping[str, Any]) -> None:
        make_folder(self.directory)
        kept = [self.directory / name for name in KEPT]
        files = [*kept, *sorted(self.directory.glob(f"**/*/{RESULT}"))]
        contents = {file.relative_to(self.directory).as_posix(): read_file(file) for file in files}
        checksums = {name: checksum(data) for name, data in contents.items() if data is not None}
        write_record(self.directory / RESULT, stamped(result), checksums)
        with contextlib.suppress(OSError):
            for spent in (CHECKPOINT, SENT, _WRITING):
                (self.directory / spent).unlink(missing_ok=True)
            for part in self.directory.glob(".*.part"):  # left by a kill in the middle of a write
                part.unlink(missing_ok=True)


def _below(file: Path) -> Iterator[Damaged]:
    try:
        record = read_record(file)
    except Damaged:
        return  # it does not fit the record above, which reports it
    if record is not None:
        yield from misfits(file, record)


def _unreadable(file: Path) -> Iterator[Damaged]:
    """Of an unfinished stage: a checkpoint that does not fit its checksum, and what is no file at all."""
    try:
        if file.name == CHECKPOINT:
            read_sealed(file)
        elif os.path.lexists(file) and not file.is_file():
            read_file(file)
    except Damaged as error:
        yield error


def begun_stages(directory: Path) -> Iterator[Stage]:
    """Every stage of a run that has anything, in the order of their names."""
    names = {RESULT, CHECKPOINT, *KEPT}
    folders = {file.parent for name in names for file in directory.rglob(name) if file.parent != directory}
    yield from (Stage(folder) for folder in sorted(folders))
