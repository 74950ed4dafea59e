"""Runs whose names, layers, settings and sentences are HTML, scripts, templates, formulas or escape sequences.

A report's template escapes all that comes from a run, and its figures are drawn by our own renderer, which does so too;
a policy in the page forbids scripts besides. On a terminal nothing is printed that steers it, and a command that a run
says it was made by is shown as it is, never run.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import _fuzz
from tombola.cli import main
from tombola.report.summary import read_run

BAD = (
    "</style></svg><script>alert(1)</script><img src=x onerror=alert(1)> \"' onmouseover=alert(1) x=' ]]><!-- "
    "{{ 7*7 }} {% include '/etc/passwd' %} $\\frac{1}{0}$ \x1b]0;x\x07 \u202e"
)
NOT_READ = ("half a character: \ud800", "x" * 5000, "../../../../etc/passwd\0")
FORBIDDEN = ("script", "link", "img", "iframe", "object", "embed", "base", "form", "foreignobject")


def attack(folder: Path) -> None:
    root = folder / "runs" / "run"
    make(root, BAD)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        main(["runs", "--out", str(root.parent)])
        main(["report", str(root)])
    assert said.getvalue().replace("\n", "").isprintable(), f"printed: {said.getvalue()!r}"
    page = root / "report.html"
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        Page().feed(text)
        assert not re.search(r"\b49\b", text.partition("</style>")[2]), "a template in a name was carried out"
    for index, bad in enumerate(NOT_READ):
        make(folder / f"odd-{index}", bad)
        _fuzz.one_line(lambda index=index: read_run(folder / f"odd-{index}"))


class Page(HTMLParser):
    """AssertionError for a tag or an attribute that a report does not have."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag.lower() not in FORBIDDEN, f"<{tag}> in the page"
        for name, value in attrs:
            assert not name.lower().startswith("on"), f"{name} in the page"
            assert "javascript:" not in str(value).lower(), f"{name}={value} in the page"
            assert name not in ("href", "src", "xlink:href") or not re.match(r"\w+:|//", str(value)), value


def make(root: Path, bad: str) -> None:
    """A search with two arms and a verification, every text of which is `bad`."""
    level = {
        "level": 0, "density": 0.5, "kept": 5, "total": 10, "test_accuracy": 0.9, "val_accuracy": 0.9, "steps": 10,
        "early_stop_iteration": 5, "layers": [{"name": bad, "kept": 5, "total": 10}], "metrics": bad, "ticket": bad,
    }  # fmt: skip
    replicate = {"replicate": 0, "seed": 1, "ticket": bad, "arms": {"ticket": [level], bad: [level]}}
    common = {"method": bad, "model": bad, "data": bad, "metric": bad}
    find = {"kind": "find", **common, "replicates": [replicate]}
    arm = {"test_accuracy": [0.9, 0.8, 0.7], "mean": 0.8, "interval": [0.7, 0.9], "early_stop_iteration": [1, 2, 3],
           "iterations_to_dense_loss": [1, 2, 3], "metrics": [bad]}  # fmt: skip
    claim = {"difference": 0.1, "lower": 0.0, "interval": [0.0, 0.2], "claim": bad, "verdict": "yes", "why": bad,
             "covers": bad}  # fmt: skip
    verify = {"kind": "verify", **common, "sentence": bad, "ticket": bad, "arms": {"ticket": arm, bad: arm},
              "comparisons": {bad: claim}}  # fmt: skip
    head = {"kind": "find", "name": bad, "command": f"tombola {bad}; rm -rf ~\n", "config": {bad: {bad: [bad]}},
            "versions": {bad: bad}, "machine": {bad: bad}, "seed": bad, "fingerprint": bad, "begun": bad}  # fmt: skip
    root.mkdir(parents=True)
    content: dict[str, Any] = {"run.json": head, "result.json": find, "verify.json": verify}
    for name, value in content.items():
        (root / name).write_text(json.dumps(value))
