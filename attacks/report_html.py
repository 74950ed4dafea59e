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

from msgspec import to_builtins

import _fuzz
from tombola.cli import main
from tombola.report.read import read_run
from tombola.results.search import Replicate, SearchResult
from tombola.results.trial import LayerResult, LevelResult
from tombola.results.verification import ArmResult, BoundAlone, ClaimResult, ExampleSet, VerificationResult

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
        main(["report", str(root), str(proof_of(root)), "--out", str(root)])
    assert said.getvalue().replace("\n", "").isprintable(), f"printed: {said.getvalue()!r}"
    page = root / "report.html"
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        Page().feed(text)
        assert not re.search(r"\b49\b", text.partition("</style>")[2]), "a template in a name was carried out"
    for index, bad in enumerate(NOT_READ):
        make(folder / f"odd-{index}", bad)
        for run in (folder / f"odd-{index}", proof_of(folder / f"odd-{index}")):
            _fuzz.one_line(lambda run=run: read_run(run))


class Page(HTMLParser):
    """AssertionError for a tag or an attribute that a report does not have."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag.lower() not in FORBIDDEN, f"<{tag}> in the page"
        for name, value in attrs:
            assert not name.lower().startswith("on"), f"{name} in the page"
            assert "javascript:" not in str(value).lower(), f"{name}={value} in the page"
            assert name not in ("href", "src", "xlink:href") or not re.match(r"\w+:|//", str(value)), value


def make(root: Path, bad: str) -> None:
    """A search with two arms, and beside it a verification, every text of which is `bad`."""
    level = LevelResult(
        level=0, density=0.5, kept=5, total=10, barred_kept=0, metrics=bad, ticket=bad,
        layers=(LayerResult(name=bad, kept=5, total=10),),
        steps=10, seconds=0.1, stopped=bad, train_loss=0.5, train_accuracy=0.9, train_accuracy_eval=0.9,
        train_loss_eval=0.5, train_examples_eval=10, val_loss=0.5, val_accuracy=0.9, val_loss_min=0.5,
        early_stop_iteration=5, early_stop_observed=True, test_accuracy=0.9, test_loss=0.5,
        test_accuracy_early_stop=0.9, metric=bad, recipe={bad: bad},
    )  # fmt: skip
    replicate = Replicate(replicate=0, seed=1, ticket=bad, arms={"ticket": (level,), bad: (level,)})
    common: dict[str, Any] = {"method": bad, "model": bad, "data": bad, "metric": bad, "higher_is_better": True}
    common |= {"recipe": {bad: bad}, "parameters": None}
    find = SearchResult(**common, input_shape=None, replicates=(replicate,))
    alone = BoundAlone(lower=0.0, interval=(0.0, 0.2))
    arm = ArmResult(
        test_accuracy=(0.9, 0.8, 0.7), mean=0.8, interval=(0.7, 0.9), covers=bad, seeds_alone=alone,
        early_stop_iteration=(1, 2, 3), early_stop_observed=(True,) * 3, iterations_to_dense_loss=(1, 2, 3),
        metrics=(bad,),
    )  # fmt: skip
    claim = ClaimResult(
        difference=0.1, lower=0.0, interval=(0.0, 0.2), covers=bad, standard_error=0.1, degrees_of_freedom=2.0,
        variance=None, seeds_alone=alone, claim=bad, threshold=0.0, p=0.1, p_holm=0.1, lower_holm=0.0,
        confidence_holm=0.95, verdict="yes", verdict_uncorrected="yes", refuted=False, replicates_to_decide=None,
        examples_to_decide=None, why=bad,
    )  # fmt: skip
    verify = VerificationResult(
        **common, density=0.5, kept=5, total=10, barred_kept=0, replicates=3, margin=0.002, margin_in_words=bad,
        test_set=ExampleSet(examples=10, resolution=0.1), arms={"ticket": arm, bad: arm}, comparisons={bad: claim},
        speed=None, wins=None, sentence=bad,
    )  # fmt: skip
    head = {"kind": "find", "name": bad, "command": f"tombola {bad}; rm -rf ~\n", "config": {bad: {bad: [bad]}},
            "versions": {bad: bad}, "machine": {bad: bad}, "begun": bad}  # fmt: skip
    for folder, result in ((root, find), (proof_of(root), verify)):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(head))
        (folder / "result.json").write_text(json.dumps(to_builtins(result)))  # of half a character, too


def proof_of(root: Path) -> Path:
    """Where the verification lies."""
    return root.with_name(f"{root.name}-verify")
