"""From an object file to a shared library, where this system has a linker."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tombola.errors import TombolaError

LINKERS = ("cc", "gcc", "clang", "g++", "ld.lld", "ld")
"""Looked for in this order."""


def linker() -> str | None:
    """The first of LINKERS that there is."""
    return next((found for name in LINKERS if (found := shutil.which(name))), None)


def link_line(program: str, sources: Sequence[str], target: str) -> Sequence[str]:
    """The command that links object files."""
    rest = ["-lc", "-lpthread"] if Path(program).name.startswith("ld") else ["-pthread"]
    return [program, "-shared", "-o", target, *sources, *rest]


def link(program: str, sources: Sequence[Path], target: Path) -> None:
    """Link. Raises TombolaError."""
    line = link_line(program, list(map(str, sources)), str(target))
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise TombolaError(f"{program} cannot be run: {error}; leave format c out") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        raise TombolaError(f"{program} does not link the library: {last}; leave format c out")
