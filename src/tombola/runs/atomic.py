"""Files that exist whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tombola.errors import TombolaError
from tombola.strict import parse_json

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def write_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that gets its name only when it is complete and on disk; a failure leaves nothing behind.

    A link is replaced, not followed: a folder that somebody sent may hold links to anything. A full disk or a missing
    permission is a TombolaError.
    """
    check_file(path)
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError, ValueError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) or (isinstance(error, ValueError) and "embedded null" in str(error)):
            raise cannot_write(path, error) from None
        raise


def cannot_write(path: Path, error: BaseException) -> TombolaError:
    """One line for a file or folder that could not be written."""
    reason = getattr(error, "strerror", None) or error
    if getattr(error, "errno", None) in _FULL:
        return TombolaError(f"cannot write {path}: the disk is full ({reason}); free some space and run again")
    return TombolaError(f"cannot write {path}: {reason}; name a path in an existing folder that can be written to")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems and Windows do not sync folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_file(path: Path) -> None:
    """TombolaError if a file to be written is a folder, a device or a pipe, or lies in no folder."""
    try:
        folder, there = path.is_dir(), path.parent.exists()
        odd = path.exists() and not path.is_file()
    except (OSError, ValueError, RuntimeError):  # which writing then says; of a link to itself too
        return
    if folder:
        raise TombolaError(f"cannot write {path}: it is a folder; name a file in it")
    if odd:  # a file in the place of /dev/null would be everybody's loss
        raise TombolaError(f"cannot write {path}: it is no file, but a device, a pipe or a socket; name a file")
    if not there:
        raise cannot_write(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def check_folder(path: Path) -> None:
    """TombolaError if a folder to write into is a file, or cannot be created or written to: it is tried."""
    if "\0" in str(path):
        raise TombolaError(f"{str(path)!r} holds a NUL character; name another folder")
    for folder in (path, *path.parents):
        try:
            if folder.is_dir():
                Path(tempfile.mkdtemp(prefix=".tombola-", dir=folder)).rmdir()  # permissions alone are not enough
                return
            exists = folder.exists() or folder.is_symlink()
        except OSError as error:
            raise TombolaError(f"{folder} cannot be written to ({error.strerror}); name another folder") from None
        if exists:
            raise TombolaError(f"{folder} is a file; name a folder, or a place for a new one")


def make_folder(path: Path) -> None:
    """Create a folder and its parents where missing; TombolaError if something is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise cannot_write(path, error) from None
        raise TombolaError(
            f"folder {path} cannot be made: {error.strerror}; remove what is in its place, or name another folder"
        ) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with write_atomically(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically; NaN is refused, since it is no JSON."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is no JSON is a TombolaError."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TombolaError(f"{path} is not readable JSON ({error}); delete it, or name another file") from None
