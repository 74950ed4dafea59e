"""Errors that a user can fix: one line each, shown by the CLI without a traceback (exit status 2)."""

from __future__ import annotations

import sysconfig
import traceback
from functools import lru_cache
from pathlib import Path


class TombolaError(ValueError):
    """Something the user gave cannot be used. The message names what was given, what is allowed and the fix."""


class TicketError(TombolaError):
    """A ticket file is truncated, foreign, tampered with, or does not fit the model."""


class RunError(TombolaError):
    """A run directory is in use by another process, or was made with other versions or settings."""


def not_installed(what: str, package: str, instead: str = "") -> TombolaError:
    """The error for want of an optional package; `instead`: what may be done without it.

    >>> print(not_installed("Ray", "tombola[ray]", "use engine local"))
    Ray is not installed; run pip install 'tombola[ray]', or use engine local
    """
    quoted = f"'{package}'" if "[" in package else package  # brackets are the shell's
    return TombolaError(f"{what} is not installed; run pip install {quoted}{instead and f', or {instead}'}")


def in_short(error: BaseException) -> str:
    """Any error on one line: its type and the first line of its message."""
    try:
        text = str(error).strip()
    except Exception:  # of a user's class it may be anything
        text = ""
    return f"{type(error).__name__}: {text.splitlines()[0][:300]}" if text else type(error).__name__


def place_of(error: BaseException) -> str | None:
    """The line of the user's own files that raised an error, e.g. "nets.py, line 12"; None where it was elsewhere."""
    place: str | None = getattr(error, "tombola_place", None)  # of a worker process
    if place is None and error.__cause__ is not None:
        place = place_of(error.__cause__)
    if place is not None:
        return place
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.suffix == ".py" and not any(path.is_relative_to(folder) for folder in _others()):
            return f"{path.name}, line {frame.lineno}"
    return None


@lru_cache(maxsize=1)
def _others() -> tuple[Path, ...]:
    """The folders of Python's files, of packages, and Tombola's."""
    installed = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return (Path(__file__).parent, *(Path(folder) for folder in installed if folder))
