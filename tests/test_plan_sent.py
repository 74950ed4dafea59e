"""A plan that somebody sent: for more threads than this machine bears, or for layers that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb

PLAN: dict[str, Any] = {
    "format": 1,
    "threads": 1,
    "inputs": [[2, 6]],
    "parts": [{"layers": ["0", "2"], "engine": "torch", "choices": {}}],
    "apart": [],
    "packed": {},
    "machine": {},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 4000}, "4000 threads, and this machine has"),
        ({"apart": ["9"]}, "layer '9' is in only one of them"),
        ({"apart": ["\x1b[2J"]}, "names are missing"),
        ({"machine": {"processor": "x\n"}}, "texts by name are missing"),
        ({"packed": {"x" * 2000: "y"}}, "texts by name are missing"),
    ],
    ids=str,
)
def test_it_is_refused_in_one_line(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    model, example, file = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.ones(2, 6), tmp_path / "p"
    file.write_text(json.dumps({**PLAN, **change}))
    with pytest.raises(tb.TombolaError, match=said) as caught:
        tb.deploy(model, example, plan=file)
    assert str(caught.value).isprintable()


def test_the_caller_may_say_how_many_threads(tmp_path: Path) -> None:
    model, example, file = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.ones(2, 6), tmp_path / "p"
    file.write_text(json.dumps({**PLAN, "threads": 4000}))
    assert torch.allclose(tb.deploy(model, example, plan=file, threads=1)(example), model(example))
