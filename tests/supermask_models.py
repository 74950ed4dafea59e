"""A small network with supermasks and a user's own loop, for the tests of supermasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tombola.supermask import (
    refresh,
)
from tombola.supermask.layers import layers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 7), nn.Linear(7, 2)
    )


def inputs(count: int = 6) -> Tensor:
    return torch.randn(count, 1, 3, 3, generator=torch.Generator().manual_seed(1))


def scores_of(model: nn.Module) -> dict[str, Tensor]:
    return {layer.name: layer.supermask.scores.detach() for layer in layers(model)}


def train(model: nn.Module, steps: int = 4, lr: float = 0.5, x: Tensor | None = None) -> None:
    """A user's own loop, with everything handed to one optimiser."""
    x = inputs() if x is None else x
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        refresh(model)
