"""The map of packages in CONTRIBUTING.md: each package of `src/tombola` stands there, and nothing that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from pages import ROOT, Fault

PAGE = "CONTRIBUTING.md"
SOURCE = ROOT / "src" / "tombola"
_ROW = re.compile(r"^\| (`[^|]*) \|", re.MULTILINE)
_NAME = re.compile(r"`([\w./]+)`")


def faults() -> Iterator[Fault]:
    """Packages that the map leaves out, and names in it that there are not."""
    packages = {f"{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    modules = {path.name for path in SOURCE.glob("*.py")}
    yield from compared((ROOT / PAGE).read_text(encoding="utf-8"), packages, packages | modules)


def compared(page: str, wanted: Set[str], known: Set[str]) -> Iterator[Fault]:
    """`wanted` must stand in the first column of the page's tables, and all that stands there must be `known`."""
    named = {name for row in _ROW.findall(page) for name in _NAME.findall(row)}
    for name in sorted(wanted - named):
        yield Fault(PAGE, f"the map of packages leaves out {name}")
    for name in sorted(named - known):
        yield Fault(PAGE, f"the map of packages names {name}, which is not in src/tombola")
