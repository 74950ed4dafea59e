"""The scripts in examples/ as pages: what each is, and its code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT

FOLDER = ROOT / "examples"


def pages(folder: Path) -> Iterator[tuple[str, str]]:
    """One page, with every script."""
    files = sorted(FOLDER.glob("*.py"))
    parts = [f"## {file.name}\n\n{about(file)}\n\n```python\n{code(file)}```\n" for file in files]
    intro = (
        "# Examples\n\nWhole scripts, which the tests run. Those of Lightning and of the Hugging Face Trainer need "
        "`pip install lightning` and `pip install 'transformers[torch]'`.\n\n"
    )
    yield "examples/index.md", intro + "\n".join(parts)


def about(file: Path) -> str:
    """The script's docstring."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def code(file: Path) -> str:
    """The script without its docstring."""
    text = file.read_text(encoding="utf-8")
    first = ast.parse(text).body[0]
    return "\n".join(text.splitlines()[first.end_lineno or 0 :]).strip() + "\n"
