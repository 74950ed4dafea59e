"""Commands as a user types them, without a process of their own."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from tombola.cli import main


def call(*argv: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(argv)
    return status, out.getvalue(), err.getvalue()


def last_json(*argv: str) -> dict[str, Any]:
    """The JSON of a command that must succeed: the last line of its stdout."""
    status, out, err = call(*argv, "--json")
    assert status == 0, err
    assert out.endswith("\n")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found
