"""The examples in docstrings give what they show. At hand are `tb`, `torch`, `nn` and what their module defines."""

from __future__ import annotations

import ast
import doctest
from collections.abc import Iterator
from importlib import import_module
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
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                shown = ast.get_docstring(node) or ""
                name = f"{module_name(path)}:{getattr(node, 'name', '')}".rstrip(":")
                if ">>> " in shown:
                    yield doctest.DocTestParser().get_doctest(shown, {}, name, str(path), node.body[0].lineno - 1)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_an_example_gives_what_it_shows(example: doctest.DocTest) -> None:
    module = import_module(example.name.partition(":")[0])
    example.globs = {**vars(module), "tb": tb, "torch": torch, "nn": nn}
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert not said, "".join(said)
