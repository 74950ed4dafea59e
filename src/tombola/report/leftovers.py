"""Figures of an earlier report that a new one no longer has: removed if unchanged since Tombola wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tombola.runs.atomic import write_text

RECORD = ".tombola.json"
"""In the folder of figures: {page: {file: sha256}} of what was written there."""
_SUFFIXES = (".svg", ".pdf")


def clear_leftovers(page: str, folder: Path, written: Iterable[Path]) -> None:
    """Remove what an earlier report of this name wrote into ``folder`` and this one did not, and record what it did.

    Files that have changed since, that belong to another page or that no such record lists stay.

    Args:
        page: the name of the page that has just been written.
    """
    record = _read(folder / RECORD)
    before, mine = record.pop(page, {}), {path.name: _digest(path) for path in written}
    others = {name for files in record.values() for name in files}
    for name, digest in before.items():
        if name not in mine and name not in others and digest is not None and _digest(folder / name) == digest:
            (folder / name).unlink()
    known = {**record, page: mine} if mine else record
    if known:
        write_text(folder / RECORD, json.dumps(known, indent=1, sort_keys=True) + "\n")
    else:
        (folder / RECORD).unlink(missing_ok=True)


def _read(file: Path) -> dict[str, dict[str, str]]:
    """The record; entries that are not plain figure names are ignored, since the file is untrusted."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    pages = content.items() if isinstance(content, dict) else ()
    return {page: {k: v for k, v in files.items() if _plain(k)} for page, files in pages if isinstance(files, dict)}


def _plain(name: str) -> bool:
    return Path(name).name == name and "\\" not in name and Path(name).suffix in _SUFFIXES


def _digest(file: Path) -> str | None:
    """sha256 of a file; None where there is no such file, or a link in its place."""
    if file.is_symlink() or not file.is_file():
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()
