"""The content of files as one hash: each is read once, and again only when it has been written."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tombola.data.kept import About, Kept, Values, about_files
from tombola.errors import TombolaError

_CHUNK = 256
_SAVED = 60.0
"""Seconds of reading after which what was read is kept, should the rest be cut off."""


def files_digest(paths: Sequence[str], root: Path, update: Callable[[int], None] = lambda done: None) -> str:
    """sha256 (hex) over the path relative to `root` and the content of each file, in the order given.

    The same for every copy of the files. A file is read the first time; its digest is then kept (see `Kept`) under
    its number on the file system, its size and its times, so that only files that have been written since are read
    again. `update` is called with the number of files done.

    Raises:
        TombolaError: a file cannot be read.
    """
    contents = _contents(paths, about_files(paths), Kept(f"content {root.absolute()}"), update).tobytes().hex()
    digest = hashlib.sha256()
    for row, name in enumerate(_relative(paths, root)):
        digest.update(f"{name}\0{contents[64 * row : 64 * row + 64]}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _contents(paths: Sequence[str], about: About, kept: Kept, update: Callable[[int], None]) -> Values:
    """sha256 of each file, (N, 32)."""
    values, known = kept.find(about)
    rows, clock = np.flatnonzero(~known), time.monotonic()
    update(len(paths) - len(rows))
    saved = 0
    with ThreadPoolExecutor() as pool:
        for at in range(0, len(rows), _CHUNK):
            part = rows[at : at + _CHUNK].tolist()
            found = b"".join(pool.map(_content, [Path(paths[row]) for row in part]))
            values[part] = np.frombuffer(found, np.uint8).reshape(-1, 32)
            done = at + len(part)
            update(len(paths) - len(rows) + done)
            if done == len(rows) or time.monotonic() - clock > _SAVED:
                kept.add(about[rows[saved:done]], values[rows[saved:done]])
                saved, clock = done, time.monotonic()
    return values


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise TombolaError(f"cannot read {path}: {error.strerror}; replace it, or leave it out") from None


def _relative(paths: Sequence[str], root: Path) -> Iterator[str]:
    """Paths relative to `root`, with slashes."""
    start = f"{root}{os.sep}"
    for path in paths:
        rest = path[len(start) :].replace(os.sep, "/")
        plain = path.startswith(start) and not rest.startswith((".", "/")) and "/." not in rest and "//" not in rest
        yield rest if plain else os.path.relpath(path, root).replace(os.sep, "/")
