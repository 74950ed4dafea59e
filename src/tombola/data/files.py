"""The content of files as one hash: read once, and cached until one of them is written again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tombola.errors import TombolaError
from tombola.runs.atomic import write_text

_CHUNK = 256
_SETTLED = 2.0
"""Seconds after which a later write changes a file's times on every file system."""


def files_digest(paths: Sequence[str], root: Path, update: Callable[[int], None] = lambda done: None) -> str:
    """sha256 (hex) over the path relative to `root` and the content of each file, in the order given.

    The same for every copy of the files. All bytes are read the first time; the digest is then kept in the user's
    cache folder (XDG_CACHE_HOME, else ~/.cache) under the files' paths, sizes and times, so that only files that
    have been written since are read again. `update` is called with the number of files done.

    Raises:
        TombolaError: a file cannot be read.
    """
    try:
        about = [(os.path.relpath(path, root).replace(os.sep, "/"), Path(path), Path(path).stat()) for path in paths]
    except OSError as error:
        raise TombolaError(f"cannot read {error.filename}: {error.strerror}; replace it, or leave it out") from None
    entries = [f"{path.absolute()}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ctime_ns}" for _, path, s in about]
    kept = _cache_folder() / hashlib.sha256("\n".join([str(root.absolute()), *entries]).encode()).hexdigest()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if len(digest_text := kept.read_text(encoding="ascii")) == 64:
            return digest_text
    digest = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for at in range(0, len(about), _CHUNK):
            part = about[at : at + _CHUNK]
            for (name, _, _), content in zip(part, pool.map(_content, [path for _, path, _ in part]), strict=True):
                digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
            update(at + len(part))
    newest = max((max(s.st_mtime, s.st_ctime) for _, _, s in about), default=0.0)
    if newest < time.time() - _SETTLED:
        with contextlib.suppress(OSError, TombolaError):  # a cache that cannot be written is no reason to stop
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, digest.hexdigest())
    return digest.hexdigest()


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TombolaError(f"cannot read {path}: {error.strerror}; replace it, or leave it out") from None


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tombola" / "files"
