"""Networks, data and searches that end in a blink, for the tests of learned masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tombola.data.splits import Splits, make_splits
from tombola.levels.fitness import Fitness
from tombola.methods import METHODS
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.search.find import find, search
from tombola.search.request import make_request
from tombola.ticket.ticket import Ticket
from tombola.train.hooks import Hook
from tombola.train.recipe import Recipe
from tombola.train.state import Loop

RECIPE = Recipe(length="8it", batch_size=8, lr=0.1, momentum=0.9, weight_decay=1e-2, eval_every="4it")
SMALL = ModelSpec("mlp", {"hidden": [12, 8]})


def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 6, 6, generator=draw)
    y = (x.mean((1, 2, 3)) > 0).long()
    return make_splits((x[:40], y[:40]), (x[40:52], y[40:52]), (x[52:], y[52:]))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(
        conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 2)
    )


def start_for(name: str, model: Any, data: Any) -> Ticket | None:
    """A ticket of that network for a method that asks for one; None for all others."""
    if name not in METHODS or not METHODS[name].starts_fresh:
        return None
    return find(model, data, IterativePruning(density=0.4, rounds=1), recipe={"length": "2it", "batch_size": 8})


class Killed(Exception):
    """What a kill looks like from within."""


class KillAt(Hook):
    """Raises before a step; the last checkpoint is that of the last multiple of 16."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, loop: Loop) -> None:
        if loop.step == self.step:
            raise Killed


def killed_at(call: int) -> Any:
    """`Fitness.__call__` that raises at its call of that number."""
    real, calls = Fitness.__call__, [0]

    def judge(fitness: Fitness, rows: Tensor) -> list[float]:
        calls[0] += 1
        if calls[0] == call:
            raise Killed
        return real(fitness, rows)

    return judge


def levels_of(method: Any, model: Any = None, recipe: Recipe = RECIPE, **more: Any) -> list[Any]:
    return search(make_request(model or network(), splits(), method, recipe=recipe, **more))


def state_of(ticket: Ticket, weights: Any = "final") -> Mapping[str, Tensor]:
    return dict(ticket.build(weights, model=network()).state_dict())
