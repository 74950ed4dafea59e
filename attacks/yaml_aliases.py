"""Configurations of a few lines that stand for billions of values, or nest beyond the stack: YAML alias bombs.

`--config`, the file of arms of `study compare` and every value on the command line are YAML. Before one is loaded its
events are looked through, in time and memory that grow with the text: nesting, keys and the number of values with all
aliases written out are counted and limited. Aliases as such stay allowed.
"""

from __future__ import annotations

import contextlib
import io
import time
from pathlib import Path

from tombola.cli import main


def attack(folder: Path) -> None:
    hostile = {
        "bomb": bomb("model_args: {hidden: [*i, *i]}"),
        "bomb in a flow": bomb("include: [*i, *i]"),
        "merged": bomb("<<: *i"),
        "in a text": "model_args: '{hidden: [&a [1,1,1,1,1,1], &b [*a,*a,*a,*a,*a], *b]}'",
        "in itself": "model_args: &a {hidden: [*a]}",
        "deep flow": "model_args: " + "[" * 200_000,
        "deep mappings": "model_args: " + "{a: " * 50_000,
        "deep blocks": "model_args:\n" + "\n".join(f"{' ' * depth}a:" for depth in range(1, 2000)),
        "deep list": "include: " + "- " * 100_000,
        "twice": "lr: 0.1\nlr: 100\n",
        "long number": "seed: " + "9" * 50_000,
        "class": "augment: !!python/object/apply:os.system [echo]",
    }
    for name, text in hostile.items():
        file = folder / "hostile.yaml"
        file.write_text(text)
        arms = [("study", "compare", "--arms", str(file))] if name in ("bomb", "deep flow", "twice") else []
        for command in (("find", "imp", "--config", str(file)), *arms):
            begun = time.process_time()
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                status = main([*command, "--out", str(folder / "runs"), "--data", "no-such-data"])
            assert status == 2, f"{name}: {command[0]} ended with {status}"
            lines = said.getvalue().splitlines()
            assert len(lines) == 1, f"{name}: {lines[:3]}"
            assert len(lines[0]) < 1500, f"{name}: a line of {len(lines[0])} characters"
            assert time.process_time() - begun < 15, f"{name} hangs"
    assert not (folder / "runs").exists()


def bomb(last: str) -> str:
    """Ten to the ninth values in ten lines."""
    lines = ["a: &a {x: 1, y: 2}" if "<<" in last else "a: &a [" + "1, " * 10 + "]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [" + f"*{before}, " * 10 + "]")
    return "\n".join([*lines, last])
