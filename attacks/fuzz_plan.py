"""Plans that say something else than `tombola deploy` wrote: other layers, engines, choices, threads and sizes.

Whatever a plan says, deploying by it gives a network whose outputs are the original's, or one line.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from torch import nn

import _fuzz
from tombola.deploy.deploy import TOLERANCE, deploy
from tombola.deploy.plan import Plan

BATCHES = {
    8: {
        "split": {"by": "rows", "images": 8},
        "layers": {
            "relu": {"kernel": "lanes", "height": 1, "width": 1, "vectors": 1},
            "linear_1": {"kernel": "lanes", "height": 1, "width": 1, "vectors": 1, "rows": 2, "panels": 2},
        },
    },
    1: {
        "split": {"by": "rows", "images": 1},
        "layers": {
            "relu": {"kernel": "gaps", "per_word": 2, "rows": 1, "signs": False},
            "linear_1": {"kernel": "gaps", "per_word": 4, "rows": 1, "signs": False},
        },
    },
}
"""Batch size -> a plan's choices for `network`."""


def fuzz(folder: Path, seed: int, count: int) -> None:
    draw = random.Random(seed)
    box = folder / "a" / "box"
    box.mkdir(parents=True)
    model = network()
    examples = {batch: torch.randn(batch, 12, generator=torch.Generator().manual_seed(batch)) for batch in BATCHES}
    for batch, example in examples.items():
        file = box / "plan.json"
        file.write_text(plan(batch))
        assert use(file, model, example), "the plan that the fuzzing starts from does not fit"
    with _fuzz.Watch(folder, megabytes=600) as watch:
        for number in range(count):
            batch = draw.choice(list(BATCHES))
            text = _fuzz.changed_json(plan(batch), draw).encode("utf-8", "surrogatepass")
            if draw.random() < 0.05:
                at = draw.randrange(len(text))
                text = text[:at] + draw.randbytes(draw.choice((1, 4))) + text[at + draw.choice((0, 1, 200)) :]
            file.write_bytes(text)
            watch(f"plan {number} of seed {seed}", lambda batch=batch: use(file, model, examples[batch]), text)


def network() -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    for weight in model.parameters():
        values = torch.randn(weight.shape, generator=draw)
        weight.data = values * (torch.rand(weight.shape, generator=draw) < 0.3)
    return model.eval()


def plan(batch: int) -> str:
    part = {"layers": ["0", "2"], "engine": "native", "choices": BATCHES[batch]}
    machine = {"processor": "x86_64 znver4", "python": "3.11.7"}
    whole = {"format": 2, "threads": 1, "inputs": [[batch, 12]], "parts": [part], "isolated": [], "packed": {}}
    return json.dumps({**whole, "machine": machine})


def use(file: Path, model: nn.Module, example: torch.Tensor) -> bool:
    """What a victim does who was sent a plan; whether it could be used."""
    if _fuzz.one_line(lambda: Plan.load(file)) is None:
        return False
    made = _fuzz.one_line(lambda: deploy(model, example, plan=file))
    if made is None:
        return False
    with torch.no_grad():
        wanted = model(example)
        for _ in range(2):
            error = float((made(example) - wanted).abs().max() / wanted.abs().max())
            assert error <= TOLERANCE, f"outputs differ by {error:.1e}"
    assert str(made.report).replace("\n", "").isprintable()
    return True
