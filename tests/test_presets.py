"""Every preset's settings work on the network and the data that it is for."""

from __future__ import annotations

import pytest

from tombola.methods import METHODS
from tombola.models.registry import build_network
from tombola.search.presets import PRESETS
from tombola.train.length import steps
from tombola.train.recipe import Recipe

SHAPES = {
    "digits": ((1, 8, 8), 1_437),
    "mnist": ((1, 28, 28), 55_000),
    "cifar10": ((3, 32, 32), 45_000),
    "folder": ((3, 224, 224), 1_281_167),
}


@pytest.mark.parametrize(("method", "model", "data"), PRESETS, ids="-".join)
def test_the_method_can_do_with_the_network(method: str, model: str, data: str) -> None:
    (shape, examples), preset = SHAPES[data], PRESETS[method, model, data]
    recipe, kind = Recipe(**preset.recipe), METHODS[method](**preset.method)
    network = build_network(model, input_shape=shape, classes=10)
    epoch = examples // recipe.batch_size
    kind.check(network, epoch, steps(recipe.length, epoch))
