"""What was once found out about files, kept in the user's cache folder while they are used and not written again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tombola.errors import TombolaError
from tombola.runs.atomic import write_bytes

About: TypeAlias = NDArray[np.uint64]
"""(N, 4): number on the file system, size, and the times (ns) of the last write and of the last change of a file."""
Values: TypeAlias = NDArray[np.uint8]
"""(N, 32)"""

_ROW = np.dtype([("about", "<u8", (4,)), ("value", "u1", (32,)), ("day", "<u4")])
_FORM = b"rows with days"
_64_BITS = (1 << 64) - 1
_SETTLED = 2.0
"""Seconds after which a later write changes a file's times on every file system."""
_UNUSED = 180
"""Days after which what nobody asked for is dropped."""
_RENEWED = 30
"""Days after which it is noted that a row is still asked for."""


def about_files(paths: Iterable[str]) -> About:
    """What tells whether files have been written since: one system call each, links followed.

    Raises:
        TombolaError: a file is not there, or its folder cannot be read.
    """
    found = array("Q")
    try:
        for path in paths:
            s = os.stat(path)  # noqa: PTH116 -- a Path for each of a million files takes longer than the call
            found.extend((s.st_ino & _64_BITS, s.st_size, s.st_mtime_ns & _64_BITS, s.st_ctime_ns & _64_BITS))
    except OSError as error:
        raise TombolaError(f"cannot read {error.filename}: {error.strerror}; replace it, or leave it out") from None
    return np.frombuffer(found, np.uint64).reshape(-1, 4) if found else np.empty((0, 4), np.uint64)


class Kept:
    """32 bytes for each of many files.

    One file in the cache folder (XDG_CACHE_HOME, else ~/.cache): a sha256 of the rest, then 68 bytes a row, by the
    files' numbers. One that is damaged or of another form counts as empty. Nothing goes by names: a file that is
    moved stays known. Rows that were not asked for in half a year go, and so do the cache's files for other folders.

    Processes need not know of each other: files appear whole, and what one loses of another's is found out again.
    """

    def __init__(self, what: str) -> None:
        name = f"{hashlib.sha256(what.encode('utf-8', 'surrogateescape')).hexdigest()}.kept"
        folder = _cache_folder()
        self._path = None if folder is None else folder / name
        self._rows = self._read()

    def find(self, about: About) -> tuple[Values, NDArray[np.bool_]]:
        """The values of files, and which of them are known as they are now."""
        values = np.zeros((len(about), 32), np.uint8)
        if not len(self._rows):
            return values, np.zeros(len(about), np.bool_)
        places = np.searchsorted(self._rows["about"][:, 0], about[:, 0]).clip(max=len(self._rows) - 1)
        known = (self._rows["about"][places] == about).all(axis=1)
        values[known] = self._rows["value"][places[known]]
        used = places[known]
        if (self._rows["day"][used] + _RENEWED < _today()).any():
            rows = self._rows.copy()
            rows["day"][used] = _today()
            self._write(rows)
        return values, known

    def add(self, about: About, values: Values) -> None:
        """Keep values too, but of files that were written a moment ago: a later write might not show.

        Where there is no cache folder, or it cannot be written, nothing is kept.
        """
        now = int((time.time() - _SETTLED) * 1e9)
        settled = (about[:, 2:] < now).all(axis=1)
        rows = np.empty(int(settled.sum()), _ROW)
        if self._path is None or not len(rows):
            return
        rows["about"], rows["value"], rows["day"] = about[settled], values[settled], _today()
        rows = rows[np.unique(rows["about"][:, 0], return_index=True)[1]]
        rest = self._rows[~np.isin(self._rows["about"][:, 0], rows["about"][:, 0])]
        both = np.concatenate([rest, rows])
        self._write(both[np.argsort(both["about"][:, 0], kind="stable")])

    def _write(self, rows: NDArray[np.void]) -> None:
        self._rows = rows[rows["day"] + _UNUSED >= _today()]
        assert self._path is not None
        content = self._rows.tobytes()
        with contextlib.suppress(OSError, TombolaError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._path, _digest(content) + content)
            _drop_unused(self._path.parent)

    def _read(self) -> NDArray[np.void]:
        with contextlib.suppress(OSError):
            content = memoryview(b"" if self._path is None else self._path.read_bytes())
            if len(content) % _ROW.itemsize == 32 and _digest(content[32:]) == content[:32]:
                return np.frombuffer(content[32:], _ROW)
        return np.empty(0, _ROW)


def _digest(content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(_FORM)
    digest.update(content)
    return digest.digest()


def _today() -> int:
    """Days since 1970."""
    return int(time.time() // 86400)


def _drop_unused(folder: Path) -> None:
    """Remove the files that were not written for long; those in use are, now and then."""
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process was faster
            if file.stat().st_mtime // 86400 + _UNUSED < _today():
                file.unlink()


def _cache_folder() -> Path | None:
    """None where the user has no home, as in a container that runs as a number without an account."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tombola" / "files"
    except RuntimeError:
        return None
