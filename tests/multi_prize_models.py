"""A small network, data and searches for the tests of binary networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from supermask_searches import splits
from tombola.levels.search import Level
from tombola.search.find import search
from tombola.search.request import make_request
from tombola.train.recipe import Recipe

__all__ = ["RECIPE", "levels", "network", "splits"]

RECIPE = Recipe(length="6it", batch_size=8, lr=0.1, momentum=0.9, eval_every="3it")


def network(constant: bool = False) -> nn.Sequential:
    """A convolution, a norm and two linear layers; `constant`: every layer's weights of one size."""
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(1, 4, 3, padding=1), [nn.Linear(144, 8), nn.Linear(8, 2)]
    if constant:
        for layer, size in zip((conv, *linear), (0.375, 0.125, 0.5), strict=True):
            layer.weight.data = torch.sign(layer.weight.data) * size
    return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), linear[0], nn.ReLU(), linear[1])


def levels(method: Any, model: Any = None, recipe: Recipe = RECIPE) -> list[Level]:
    return search(make_request(model or network(), splits(), method, recipe=recipe))
