"""Errors that Python code can meet speak of arguments, not of command-line options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import tombola

SOURCES = Path(tombola.__file__).parent
_OPTION = re.compile(r"(?<![\w-])--[a-z]\w*")
# The page shows the command that made it, and writes CSS variables.
_APART = ("cli", "report")
_OF_TORCHRUN = ("--nnodes", "--nproc_per_node")  # in the command that resumes a run of several processes


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """The texts in code, docstrings left out."""
    notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes:
            yield node


def options(source: str) -> list[str]:
    return [
        f"{text.lineno}: {found}"
        for text in strings(ast.parse(source))
        for found in _OPTION.findall(text.value)
        if found not in _OF_TORCHRUN
    ]


def test_no_message_names_an_option() -> None:
    found = {
        str(file.relative_to(SOURCES)): named
        for file in SOURCES.rglob("*.py")
        if file.relative_to(SOURCES).parts[0] not in _APART
        if (named := options(file.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_search_sees_parts_of_formatted_texts_and_passes_over_dashes() -> None:
    assert options('raise ValueError(f"{x} is odd; lower --lr")') == ["1: --lr"]
    assert options('"""Use --lr."""\nx = "a -- b, 1--2, a--b"') == []
