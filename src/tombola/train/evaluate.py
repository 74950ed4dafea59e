"""Loss and metric of a network over one split, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tombola.data.feed import Feed
from tombola.data.splits import Task


@dataclass(frozen=True)
class Score:
    """Means per example over a split: the task's loss (without label smoothing) and its metric."""

    loss: float
    metric: float
    examples: int


def evaluate(
    model: nn.Module,
    feed: Feed,
    task: Task,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Score:
    """Evaluate `model` on every example of `feed`; the model's mode is put back afterwards."""
    mode = model.training
    model.eval()
    loss, metric, examples = 0.0, 0.0, 0
    with torch.no_grad():
        for x, y in feed.sweep():
            with autocast():
                output = model(x)
            output = output.float()
            loss += float(task.evaluation_loss(output, y)) * len(y)
            metric += float(task.metric(output, y).sum())
            examples += len(y)
    model.train(mode)
    return Score(loss / examples, metric / examples, examples)
