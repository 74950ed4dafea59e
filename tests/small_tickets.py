"""Tickets of a network with 70 weights, and data for it: what tests of the studies need where nothing is to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.data.splits import Splits, Task, make_splits
from tombola.mask import Mask
from tombola.rng.seeds import generator
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket

MASKED = ("0.weight", "2.weight")


def network() -> nn.Module:
    """6 features, 4 classes; the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    with torch.no_grad():
        made[2].weight *= 4  # outputs that depend on more than the biases
    return made


def mask_of(model: nn.Module) -> Mask:
    """20 of 30 and 10 of 20 weights."""
    state, draw = model.state_dict(), generator(1)
    kept = {}
    for name, count in zip(MASKED, (20, 10), strict=True):
        flat = torch.zeros(state[name].numel(), dtype=torch.bool)
        flat[torch.randperm(len(flat), generator=draw)[:count]] = True
        kept[name] = flat.view_as(state[name])
    return Mask(kept)


def ticket_of(model: nn.Module, seeded: bool = False, **fields: Any) -> Ticket:
    """The ticket with `mask_of` the model: on its present weights, or on seeded ones."""
    args = {"scale_fan": 0.5}
    origin = Origin.seeded(None, "kaiming_normal", 9, model, args) if seeded else Origin.stored(model)
    return Ticket(origin=origin, mask=mask_of(model), **fields)


def masked(state: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
    """The state with 0 where nothing is kept."""
    return {name: value * mask[name] if name in mask else value for name, value in state.items()}


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    """Whether two states hold the same tensors."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def splits(metric: Any = None, name: str = "accuracy", higher_is_better: bool = True, **more: Any) -> Splits:
    """24, 10 and 26 examples."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 6, generator=draw)
    parts = [(x[a:b], torch.arange(b - a) % 4) for a, b in ((0, 24), (24, 34), (34, 60))]
    task = None if metric is None else Task(F.cross_entropy, metric, name, higher_is_better=higher_is_better)
    return make_splits(*parts, task=task, **more)
