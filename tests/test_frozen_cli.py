"""The command line is what tests/data/cli.txt says, so that a review sees every change of it."""

from __future__ import annotations

import difflib

import pytest

from freeze_cli import FILE, text


def test_the_command_line_is_the_one_reviewed() -> None:
    committed, now = FILE.read_text(encoding="utf-8").splitlines(), text().splitlines()
    changes = "\n".join(
        difflib.unified_diff(committed, now, "tests/data/cli.txt", "the command line", lineterm="", n=0)
    )
    if changes:
        pytest.fail(f"{changes}\nIf this is meant, run: python tests/freeze_cli.py", pytrace=False)
