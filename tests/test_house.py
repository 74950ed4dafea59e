"""The house: every package imports only from those below it, type hints and imports inside functions included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tombola

SOURCE = Path(tombola.__file__).parent
FLOORS = [
    "__version__",
    "errors",
    "fingerprint",
    "formats",
    "strict",
    "machine",
    "fields",
    "names",
    "plain",
    "parameters",
    "rng",
    "runs",
    "results",
    "mask",
    "coverage",
    "data",
    "select",
    "hold",
    "nn",
    "graph",
    "supermask",
    "compact",
    "models",
    "train",
    "ticket",
    "gradual",
    "deltas",
    "bench",
    "deploy",
    "prune",
    "levels",
    "methods",
    "search",
    "study",
    "report",
    "cli",
]
"""From the lowest; each imports only from those before it."""
LONGEST = 425
"""Lines of a file: what is longer does two jobs."""


def test_every_package_has_its_floor() -> None:
    there = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__", "__main__"} == set(FLOORS) - {"__version__"}


@pytest.mark.parametrize("floor", [floor for floor in FLOORS if floor != "__version__"])
def test_imports_go_down(floor: str) -> None:
    below = FLOORS[: FLOORS.index(floor)]
    files = [SOURCE / f"{floor}.py"] if (SOURCE / f"{floor}.py").exists() else sorted((SOURCE / floor).rglob("*.py"))
    up = [
        f"{file.relative_to(SOURCE)}:{line} imports tombola.{package}"
        for file in files
        for package, line in imported(file)
        if package != floor and package not in below
    ]
    assert not up


def test_no_file_does_two_jobs() -> None:
    lengths = {str(file.relative_to(SOURCE)): len(file.read_text().splitlines()) for file in SOURCE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def imported(file: Path) -> Iterator[tuple[str, int]]:
    """Packages of Tombola that a file imports, with the line."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tombola":
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tombola."):
            yield str(node.module).split(".")[1], node.lineno
        elif isinstance(node, ast.Import):
            yield from (
                (alias.name.split(".")[1], node.lineno) for alias in node.names if alias.name.startswith("tombola.")
            )
