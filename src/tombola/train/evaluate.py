"""Loss and metric of a network over one split, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tombola.data.feed import Feed
from tombola.data.splits import Task
from tombola.errors import TombolaError
from tombola.machine.ranks import ALONE, Ranks
from tombola.nn.forward import typed, widened


@dataclass(frozen=True)
class Score:
    """Means per example over a split: the task's loss (without label smoothing) and its metric.

    `values`: the metric of every example in the split's order, float32 (N,) on the CPU; None where the metric gives
    one number per batch.
    """

    loss: float
    metric: float
    examples: int
    values: Tensor | None = field(default=None, compare=False, repr=False)


class _Measured(NamedTuple):
    """One batch: sums of loss and metric, examples, the metric's values and whether it gives one per example (1)."""

    loss: float
    metric: float
    examples: int
    values: Tensor
    form: int


def evaluate(
    model: nn.Module,
    feed: Feed,
    task: Task,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ranks: Ranks = ALONE,
) -> Score:
    """Evaluate `model` on every example of `feed`; the model's mode is put back afterwards.

    Batches weigh by their examples, so that a smaller last batch counts for what it holds. Of several ranks, for which
    the feed is made, all must call it, and all get what one would, to the bit.

    Raises:
        TombolaError: the metric or the loss has a shape that it may not have (see `metric_values`, `loss_value`).
    """
    measured: list[_Measured] = []
    with torch.no_grad(), _mode_kept(model):
        for x, y in typed(feed.sweep(), model):
            with autocast():
                output = widened(model(x))
            loss = float(loss_value(task.evaluation_loss(output, y))) * len(y)
            values = metric_values(task, output, y)
            metric = float(summed(values, len(y)))
            measured.append(_Measured(loss, metric, len(y), values.to("cpu", torch.float32).reshape(-1), values.dim()))
    return _score(_in_order(ranks.gather(measured)), task)


def _in_order(shares: Sequence[Sequence[_Measured]]) -> list[_Measured]:
    """The batches in the split's order, of which the ranks went through every so many."""
    rounds = zip_longest(*shares)
    return [batch for together in rounds for batch in together if batch is not None]


def _score(measured: Sequence[_Measured], task: Task) -> Score:
    if (
        len({batch.form for batch in measured if batch.examples > 1}) > 1
    ):  # a lone example's value is its batch's number
        raise TombolaError(
            f"metric {task.metric_name} gives one value per example for some batches and one number for others; "
            "return the same form for every batch"
        )
    each = all(batch.form for batch in measured if batch.examples > 1)
    loss, metric, examples = 0.0, 0.0, 0
    for batch in measured:  # not by `sum`, which some versions of Python round otherwise
        loss, metric, examples = loss + batch.loss, metric + batch.metric, examples + batch.examples
    values = torch.cat([batch.values for batch in measured]) if each else None
    return Score(loss / examples, metric / examples, examples, values)


@contextmanager
def _mode_kept(model: nn.Module) -> Iterator[None]:
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def metric_values(task: Task, output: Any, target: Tensor) -> Tensor:
    """The task's metric on one batch of N examples: (N,), or 0-d where it gives one number per batch.

    Raises:
        TombolaError: any other shape or type.
    """
    value = task.metric(output, target)
    count = len(target)
    if isinstance(value, (bool, int, float, np.generic, np.ndarray)):
        value = torch.tensor(value, dtype=torch.float64, device="cpu")
    if not isinstance(value, Tensor) or value.shape not in ((count,), ()):
        form = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TombolaError(
            f"metric {task.metric_name} gives {form} for a batch of {count} examples; it must give one value per "
            f"example, shape ({count},), or one number for the batch"
        )
    if value.is_complex():
        raise TombolaError(f"metric {task.metric_name} gives complex numbers; it must give real ones")
    return value if value.is_floating_point() else value.float()


def summed(values: Tensor, count: int) -> Tensor:
    """The sum over a batch of `count` examples of what `metric_values` gave: a batch mean counts for each, 0-d."""
    return values.sum() if values.dim() else values * count


def loss_value(loss: Tensor, whose: str = "the loss") -> Tensor:
    """The loss itself, 0-d; TombolaError if it is anything but one number. `whose`: for the message."""
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        form = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise TombolaError(
            f"{whose} gives {form}; it must give the mean over the batch, a scalar tensor (reduction='mean')"
        )
    return loss
