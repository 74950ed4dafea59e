"""The state of one training run: what the loop works on and hooks see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tombola.data.splits import Splits, Task
from tombola.errors import TombolaError
from tombola.train.fabric import ranks_of
from tombola.train.feeds import evaluation_feed, layout, training_feed, training_loss
from tombola.train.history import Row
from tombola.train.length import steps
from tombola.train.optimizer import build_optimizer, trainable
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BuildOptimizer = Callable[[nn.Module, Recipe], torch.optim.Optimizer]


class Loop:
    """The state of one training run, as hooks see it.

    Of several processes (`ranks`), each sees its own part of a batch of `batch_examples`, whose loss is `loss`;
    gradients are those of the whole batch once the backward pass is complete, and all else is the same everywhere.
    """

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        recipe: Recipe,
        *,
        seed: int,
        fabric: Fabric,
        optimizer: BuildOptimizer | None = None,
    ) -> None:
        self.fabric = fabric
        self.ranks = ranks_of(fabric)
        self.device: torch.device = fabric.device
        self.recipe, self.seed = recipe, seed
        self.task: Task = splits.task
        channels_last = layout(model, recipe)
        self.model = model.to(self.device)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        build = optimizer or (lambda module, given: build_optimizer(trainable(module), given))
        self.optimizer = build(self.model, recipe)
        self.training_loss = training_loss(splits, recipe)
        self.train_feed = training_feed(splits, recipe, self.device, channels_last, self.ranks)
        self.val_feed = evaluation_feed(splits, splits.val, self.device, channels_last, self.ranks)
        self.batch_examples = min(recipe.batch_size, self.train_feed.examples)
        self.steps_per_epoch = self.train_feed.steps_per_epoch
        self.total = steps(recipe.length, self.steps_per_epoch)
        self.eval_every = max(1, steps(recipe.eval_every, self.steps_per_epoch))
        self.step = 0
        self.history: list[Row] = []
        self.loss = torch.zeros((), dtype=torch.float32, device=self.device)
        self.stopped: str | None = None
        if self.total < 1:
            raise TombolaError(
                f"length {recipe.length!r} is not one step of {self.steps_per_epoch} an epoch; ask for more"
            )

    def stop(self, reason: str) -> None:
        """End training after the present step."""
        self.stopped = reason

    def autocast(self) -> AbstractContextManager[Any]:
        """Where a forward pass takes place; what is rounded to bfp8 is so within the whole run."""
        return self.fabric.autocast() if self.recipe.precision == "bf16-mixed" else nullcontext()
