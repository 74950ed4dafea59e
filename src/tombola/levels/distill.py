"""Distillation: the loss is how far the outputs are from those of another network, which rests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.data.splits import Task
from tombola.errors import TombolaError
from tombola.nn.forward import widened
from tombola.nn.modes import only_norms_train
from tombola.train.feeds import layout
from tombola.train.hooks import Hook
from tombola.train.state import Loop

Divergence = Callable[[Tensor, Tensor], Tensor]


def kl(output: Tensor, target: Tensor) -> Tensor:
    """KL(target || output) of class probabilities, from logits (N, classes, ...); the mean over all but the classes.

    >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.)
    """
    given, wanted = output.log_softmax(1), target.log_softmax(1)
    return F.kl_div(given, wanted, reduction="none", log_target=True).sum(1).mean()


def reverse_kl(output: Tensor, target: Tensor) -> Tensor:
    """KL(output || target): what the target finds unlikely is dear, what the output leaves out is not."""
    return kl(target, output)


DIVERGENCES: Mapping[str, Divergence] = {"reverse-kl": reverse_kl, "kl": kl}
"""Name -> from two networks' logits, the mean over a batch."""


class Distill(Hook):
    """The loss of every batch becomes a divergence from a teacher's outputs for it.

    The teacher is in evaluation mode, but for its norms, which take their statistics from the batch.

    Args:
        teacher: makes the network, whose parameters rest.
        divergence: a name in `DIVERGENCES`.
    """

    forward_passes = 1

    def __init__(self, teacher: Callable[[], nn.Module], divergence: str) -> None:
        self.make, self.divergence = teacher, divergence
        self.teacher: nn.Module | None = None

    def on_start(self, loop: Loop) -> None:
        check_classes(loop.task, self.divergence)
        teacher = only_norms_train(self.make().to(loop.device).requires_grad_(False))
        if layout(teacher, loop.recipe):
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        self.teacher = teacher

    def training_loss(self, loop: Loop, x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            target = widened(self.teacher(x))
        return DIVERGENCES[self.divergence](output, target)


def check_classes(task: Task, name: str) -> None:
    """TombolaError unless outputs are logits of classes, of which a divergence can be taken."""
    if not task.takes_scores:
        raise TombolaError(
            f"loss is {name}, which compares probabilities of classes, but the task ({task.metric_name}) is not known "
            "to be of classes: its loss is not cross-entropy and its metric not accuracy; take loss task"
        )
