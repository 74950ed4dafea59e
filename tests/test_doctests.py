"""The examples in docstrings give what they show; `tb`, `torch` and `nn` are at hand in all of them."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import tombola as tb

SOURCE = Path(tb.__file__).parent


def examples() -> Iterator[doctest.DocTest]:
    """One for each docstring with a `>>>`: of the source itself, as decorators hide functions from doctest's finder."""
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if ">>> " in text else ():
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ">>> " in (
                ast.get_docstring(node) or ""
            ):
                name = f"{path.relative_to(SOURCE)}:{getattr(node, 'name', 'module')}"
                globs = {"tb": tb, "torch": torch, "nn": nn}
                shown = ast.get_docstring(node) or ""
                yield doctest.DocTestParser().get_doctest(shown, globs, name, str(path), node.body[0].lineno - 1)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_an_example_gives_what_it_shows(example: doctest.DocTest) -> None:
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)
