"""Statistics of norm layers, for networks whose weights are not trained."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from tombola.nn.forward import typed
from tombola.rng.seeds import derive
from tombola.train.feeds import layout, training_feed
from tombola.train.trial import TrainingSetup

_BATCHES = 100


@torch.no_grad()
def renew_norm_statistics(model: nn.Module, setup: TrainingSetup, seed: int) -> None:
    """Let the norms of a model (on the device) take their statistics from the first training batches of a data order.

    The plain mean over at most 100 batches; dropout draws from the seed too. A model without such norms stays as it is.
    """
    feed = training_feed(setup.splits, setup.recipe, setup.fabric.device, layout(model, setup.recipe))
    batches = typed(feed.epoch(seed, 0), model)
    take_statistics(model, (x for (x, _), _ in zip(batches, range(_BATCHES), strict=False)), seed)


@torch.no_grad()
def take_statistics(model: nn.Module, inputs: Iterable[Tensor], seed: int) -> None:
    """Let the norms of a model take their statistics from batches of inputs, as the plain mean over them.

    Dropout draws from the seed. A model without such norms stays as it is.
    """
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    model.train()
    with torch.random.fork_rng(devices=[]):  # dropout draws
        torch.manual_seed(derive(seed, "dropout"))
        for x in inputs:
            model(x)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
