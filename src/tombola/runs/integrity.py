"""Checksums of a run's files: a file is read only if it is what was written, at the same path of the run.

A record (run.json, result.json) holds its own checksum and those of the files that were complete before it; a file that
is replaced while a stage trains (`Sealed`) holds its own in its first line. Either is written in one piece with what it
covers, so that no kill can separate them. Files of runs begun before there were checksums have none, and are read as
they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tombola.errors import RunError
from tombola.runs.atomic import write_atomically, write_json
from tombola.strict import parse_json

KEY = "integrity"
"""The key of a record's checksums."""
RUN = "run.json"
FORMAT = 1
"""Of run.json and result.json. It grows when a key goes or changes its meaning; new keys leave it as it is."""
_DEPTH = 6  # of a stage below its run
_MAGIC = b"tombola-sealed 1 "
_MISFIT = "does not fit its checksum"


class DamagedWarning(UserWarning):
    """A file of a run is not what was written: it was set aside, and its content is computed again."""


class Damaged(RunError):
    """A file of a run that is not what was written; `file`: which, `what`: how it differs."""

    def __init__(self, file: Path, what: str) -> None:
        self.file, self.what = file, what
        super().__init__(f"{file} {what}; run the same command again, which sets it aside and does its stage anew")

    def __reduce__(self) -> tuple[Any, ...]:
        return Damaged, (self.file, self.what)


@dataclass(frozen=True)
class Head:
    """What the files of a run are bound to. `made`: of versions and machine; `checked`: files must have checksums."""

    root: Path
    name: str
    made: str
    checked: bool

    def locate(self, file: Path) -> str:
        """Run and path within it, the same wherever the run is moved."""
        return f"{self.name}/{file.relative_to(self.root).as_posix()}"


def head_of(file: Path) -> Head | None:
    """The head of the run that `file` belongs to; None outside of a run, and where run.json cannot be read."""
    for folder in list(file.parents)[:_DEPTH]:
        if os.path.lexists(folder / RUN):
            try:
                return _head(folder, read_record(folder / RUN) or {})
            except Damaged:
                return None
    return None


def _head(root: Path, record: Mapping[str, Any]) -> Head:
    seal = record.get(KEY)
    made = made_with(record) if isinstance(seal, Mapping) else ""
    return Head(root, str(record.get("name", root.name)), made, isinstance(seal, Mapping))


def made_with(record: Mapping[str, Any]) -> str:
    """The versions and the machine that a run was begun with, as a few digits."""
    return _sha256(_canonical({part: record.get(part) for part in ("versions", "machine")}))[:16]


def write_record(file: Path, content: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Write a record with its checksums. `files`: path from the record's folder -> `checksum` of that file."""
    if file.name == RUN:
        about = {"of": f"{content['name']}/{RUN}", "made": made_with(content)}
    else:
        head = head_of(file)
        about = {"of": head.locate(file) if head else file.name, "made": head.made if head else ""}
    content = {**content, "format": FORMAT, KEY: {**about, "files": dict(files)}}
    bare = json.loads(json.dumps(content, allow_nan=False))
    bare[KEY]["sha256"] = _sha256(_canonical(bare))
    write_json(file, bare)


def read_record(file: Path) -> dict[str, Any] | None:
    """A record as it was written, `KEY` included; None where there is none.

    Raises:
        Damaged: the file is not what was written.
    """
    data = read_file(file)
    if data is None:
        return None
    try:
        record = parse_json(data.decode())
    except ValueError:
        raise Damaged(file, "is empty" if not data else "is not readable JSON") from None
    if not isinstance(record, dict):
        raise Damaged(file, "holds no JSON object")
    seal = record.get(KEY)
    if seal is None:
        lost = any(isinstance(part, dict) and "sha256" in part for part in record.values())  # under a garbled key
        if lost or (file.name != RUN and (head := head_of(file)) is not None and head.checked):
            raise Damaged(file, "has no checksum")
        return record
    if not isinstance(seal, dict) or not isinstance(seal.get("files"), dict):
        raise Damaged(file, _MISFIT)
    bare = {**record, KEY: {key: value for key, value in seal.items() if key != "sha256"}}
    if seal.get("sha256") != _sha256(_canonical(bare)):
        raise Damaged(file, _MISFIT)
    if file.name == RUN:
        return record
    head = head_of(file)
    if seal.get("of") != (head.locate(file) if head else file.name):
        raise Damaged(file, f"belongs to another place ({str(seal.get('of'))[:100]})")
    return record


def check_format(record: Mapping[str, Any], file: Path) -> None:
    """RunError for a record of another format; those without a number are older, and the same."""
    if (number := record.get("format", FORMAT)) != FORMAT:
        raise RunError(
            f"{file} has format {repr(number)[:20]}, and this version of Tombola reads format {FORMAT}; read it with "
            "the version that wrote it, or name another folder"
        )


def misfits(file: Path, record: Mapping[str, Any]) -> Iterator[Damaged]:
    """The files listed in a record that do not fit it."""
    seal = record.get(KEY)
    for name, wanted in seal["files"].items() if isinstance(seal, Mapping) else ():
        path = file.parent / name
        try:
            data = read_file(path)
        except Damaged as error:
            yield error
            continue
        if data is None:
            yield Damaged(path, "is missing")
        elif checksum(data) != wanted:
            yield Damaged(path, "is empty" if not data else _MISFIT)


def read_file(file: Path) -> bytes | None:
    """All bytes of a file of a run; None where there is none. Damaged: it cannot be read, or is no regular file."""
    try:
        if not os.path.lexists(file):
            return None
        if not stat.S_ISREG(file.stat().st_mode):  # reading a pipe would block
            raise Damaged(file, "is a folder" if file.is_dir() else "is no regular file")
        return file.read_bytes()
    except OSError as error:
        raise Damaged(file, f"cannot be read ({error.strerror})") from None


def checksum(data: bytes) -> str:
    """sha256 as hex digits: 0.5 to 2 GB/s, a fraction of what writing to disk takes."""
    return hashlib.sha256(data).hexdigest()


class _Hashing:
    """A file to write to, which keeps the first error, since torch's writer would hide it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if self.error is None:
            try:
                self._file.write(view)
                self._hash.update(view)
            except OSError as error:
                self.error = error
        return view.nbytes

    def flush(self) -> None:
        pass

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def write_sealed(file: Path) -> Iterator[Any]:
    """A binary file, written atomically, whose first line holds the checksum of the rest; see `read_sealed`."""
    head = head_of(file)
    about = {"of": head.locate(file) if head else file.name, "made": head.made if head else ""}
    with write_atomically(file) as out:
        out.write(_first_line(about, "0" * 64))
        inner = _Hashing(out)
        yield inner
        if inner.error is not None:
            raise inner.error
        out.seek(0)
        out.write(_first_line(about, inner.hexdigest()))


def read_sealed(file: Path) -> bytes | None:
    """What `write_sealed` wrote into `file`; None where there is none. Of before there were checksums, all bytes.

    Raises:
        Damaged: it is not what was written there.
    """
    data, head = read_file(file), head_of(file)
    if data is None:
        return None
    if data.startswith(b"PK") and not (head is not None and head.checked):
        return data
    line, _, rest = data.partition(b"\n")
    try:
        about = json.loads(line.removeprefix(_MAGIC)) if line.startswith(_MAGIC) else None
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise Damaged(file, "is empty" if not data else "has no checksum")
    if line + b"\n" != _first_line(about, checksum(rest)):
        raise Damaged(file, _MISFIT)
    if about.get("of") != (head.locate(file) if head else file.name):
        raise Damaged(file, f"belongs to another place ({str(about.get('of'))[:100]})")
    return rest


def made_of_sealed(file: Path) -> str | None:
    """What `made_with` was when the file was written; None where it is not recorded."""
    try:
        data = read_file(file)
        about = json.loads((data or b"").partition(b"\n")[0].removeprefix(_MAGIC))
        return str(about["made"])
    except (Damaged, ValueError, RecursionError, KeyError, TypeError):
        return None


def _first_line(about: Mapping[str, Any], digest: str) -> bytes:
    ordered = {"of": about.get("of"), "made": about.get("made"), "sha256": digest}
    return _MAGIC + json.dumps(ordered).encode() + b"\n"


def set_aside(file: Path, what: str) -> None:
    """Rename what is damaged, so that its path is free, and warn. For what is missing, only warn."""
    text = f"{file} {what}"
    if os.path.lexists(file):
        free = (file.with_name(f"{file.name}.damaged{n or ''}") for n in range(10_000))
        aside = next(aside for aside in free if not os.path.lexists(aside))
        try:
            file.rename(aside)
        except OSError as error:
            raise RunError(f"{text}, and cannot be set aside: {error.strerror}; remove it") from None
        text += f"; it was renamed to {aside.name}"
    warnings.warn(f"{text}; what it held is computed again", DamagedWarning, stacklevel=2)


def clear(file: Path) -> None:
    """Free a file's path: an existing file is removed, anything else set aside."""
    if file.is_symlink() or file.is_file():
        file.unlink(missing_ok=True)
    elif os.path.lexists(file):
        set_aside(file, "is a folder" if file.is_dir() else "is no regular file")


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
