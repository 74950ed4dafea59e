"""Plans whose layers, engines, machine and choices are import paths, file paths, escape sequences or code.

A plan names layers of the network at hand, and its choices are records of numbers: anything else is of another network.
Nothing that a plan says is imported, opened, evaluated or printed as it stands.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import _hostile
import fuzz_plan
from tombola.deploy.deploy import deploy

WORDS = ("os.system", "../../etc/passwd", "__import__('os').system('x')", "\x1b]0;owned\x07", "a\0b", "x" * 100_000)


def attack(folder: Path) -> None:
    model, example = fuzz_plan.network(), torch.ones(8, 12)
    before = set(sys.modules)
    for word in WORDS:
        for change in (
            {"parts": [part(layers=[word, "2"])]},
            {"parts": [part(engine=word)]},
            {"parts": [part(choices=word)]},
            {"parts": [part(choices={**choices(), "split": {"by": word, "images": 8}})]},
            {"parts": [part(choices={**choices(), "layers": {**choices()["layers"], "relu": {"kernel": word}}})]},
            {
                "parts": [
                    part(choices={**choices(), "layers": {**choices()["layers"], word: choices()["layers"]["relu"]}})
                ]
            },
            {"isolated": [word]},
            {"packed": {word: "packed"}},
            {word: 1},
            {"threads": word},
            {"inputs": word},
        ):
            assert_refused(folder, {**plan(), **change}, model, example)
    for odd in ({"threads": 5000}, {"threads": 2**63}, {"inputs": [[8, 2**60]]}, {"format": 10**30}):
        assert_refused(folder, {**plan(), **odd}, model, example)
    strange = {name for name in set(sys.modules) - before if not name.startswith(("tombola.", "torch."))}
    assert "os.system" not in sys.modules
    assert not {name for name in strange if name.partition(".")[0] in ("os", "antigravity")}
    assert not list(folder.glob("**/passwd"))


def plan() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fuzz_plan.plan(8))
    return found


def choices() -> dict[str, Any]:
    found: dict[str, Any] = plan()["parts"][0]["choices"]
    return found


def part(**change: Any) -> dict[str, Any]:
    return {**plan()["parts"][0], **change}


def assert_refused(folder: Path, changed: dict[str, Any], model: torch.nn.Module, example: torch.Tensor) -> None:
    file = folder / "plan.json"
    file.write_text(json.dumps(changed))
    _hostile.refused(deploy, model, example, plan=file)
