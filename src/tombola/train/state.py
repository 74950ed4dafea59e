"""The state of one training run: what the loop works on and hooks see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from tombola.data.splits import Splits, Task
from tombola.errors import TombolaError
from tombola.train.feeds import evaluation_feed, training_feed, training_loss, wants_channels_last
from tombola.train.history import Row
from tombola.train.length import steps
from tombola.train.optimizer import build_optimizer
from tombola.train.recipe import Recipe

BuildOptimizer = Callable[[nn.Module, Recipe], torch.optim.Optimizer]


class Loop:
    """The state of one training run, as hooks see it."""

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
        self.device: torch.device = fabric.device
        self.recipe, self.seed = recipe, seed
        self.task: Task = splits.task
        channels_last = wants_channels_last(model) if recipe.channels_last is None else recipe.channels_last
        self.model = model.to(self.device)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        build = optimizer or (lambda module, given: build_optimizer(trainable(module), given))
        self.optimizer = build(self.model, recipe)
        self.training_loss = training_loss(splits, recipe)
        self.train_feed = training_feed(splits, recipe, self.device, channels_last)
        self.val_feed = evaluation_feed(splits, splits.val, self.device, channels_last)
        self.steps_per_epoch = self.train_feed.steps_per_epoch
        self.total = steps(recipe.length, self.steps_per_epoch)
        self.eval_every = max(1, steps(recipe.eval_every, self.steps_per_epoch))
        self.step = 0
        self.history: list[Row] = []
        self.loss = torch.zeros((), device=self.device)
        self.stopped: str | None = None
        if self.total < 1:
            raise TombolaError(
                f"length {recipe.length!r} is not one step of {self.steps_per_epoch} an epoch; ask for more"
            )

    def stop(self, reason: str) -> None:
        """End training after the present step."""
        self.stopped = reason

    def autocast(self) -> AbstractContextManager[Any]:
        """The recipe's precision, for a forward pass."""
        return nullcontext() if self.recipe.precision == "32" else self.fabric.autocast()


def make_fabric(device: str, precision: str = "32", *, loggers: Any = ()) -> Fabric:
    """A Fabric on one device: "auto", "cpu", "cuda" or "cuda:1"; a device that is not there is a TombolaError."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or not (index.isdigit() or not index):
        raise TombolaError(f"device {device!r} is not known; use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise TombolaError("device 'cuda' was asked for, but torch finds no CUDA device here; use --device cpu")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    devices: Any = [int(index)] if index else 1
    fabric_precision: Any = "32-true" if precision == "32" else precision
    return Fabric(accelerator=kind, devices=devices, precision=fabric_precision, loggers=list(loggers))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]
