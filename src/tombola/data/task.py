"""What is learned: a loss to minimise and a metric to report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.errors import TombolaError
from tombola.fingerprint import fingerprint, warn_unseen

Loss: TypeAlias = Callable[[Any, Tensor], Tensor]

IGNORED = -100
"""The label that torch's cross-entropy leaves out unless another is named."""
_OF_CLASSES = (F.cross_entropy, F.nll_loss)


@dataclass(frozen=True)
class Task:
    """What is learned: a loss to minimise and a metric to report.

    Both are called with what the network returns, of whatever nesting (half precision as float32), and the batch's
    targets. `loss(output, target)` gives the mean over the batch, a scalar; `metric(output, target)` one float per
    example, shape (N,), or one number for the batch. `eval_loss` replaces `loss` outside training (None: the
    same one). An auxiliary head that exists in training alone shows in what the network returns.

    Where `metric` is `accuracy`, it leaves out the label that `loss` leaves out (`ignored`).

    Runs are named by what the callables do, as far as it can be read. `name` replaces that, for callables that cannot
    be read or differ each time: change it when they change.
    """

    loss: Loss
    metric: Loss
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    eval_loss: Loss | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        for part in ("loss", "metric"):
            if not callable(getattr(self, part)):
                raise TombolaError(
                    f"the task's {part} is {getattr(self, part)!r}; give a function of (output, target), such as "
                    f"{'torch.nn.functional.mse_loss' if part == 'loss' else 'tombola.data.splits.accuracy'}"
                )
        if self.metric is accuracy and self.ignored not in (None, IGNORED):
            object.__setattr__(self, "metric", partial(accuracy, ignore_index=self.ignored))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What names this task in runs and tickets, JSON-able: fields as they are, callables as fingerprints.

        Taken once, at first use: callables may keep a state that training changes.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.name is not None:
            return {key: None if callable(value) else value for key, value in values.items()}
        fingerprints = {key: fingerprint(value) for key, value in values.items() if callable(value)}
        warn_unseen(
            {f"the task's {key}": part for key, part in fingerprints.items()}, "name the task: Task(..., name='v1')"
        )
        return {**values, **{key: part.digest for key, part in fingerprints.items()}}

    def evaluation_loss(self, output: Any, target: Tensor) -> Tensor:
        """The mean loss that is reported on validation and test data, a scalar."""
        return (self.eval_loss or self.loss)(output, target)

    @property
    def ignored(self) -> int | None:
        """The label that loss or metric leave out, as far as can be seen: torch's `ignore_index`; None for none."""
        for function in (self.loss, self.metric):
            bare, settings = _bare(function)
            default = IGNORED if bare in _OF_CLASSES else getattr(bare, "ignore_index", None)
            index = settings.get("ignore_index", default)
            if isinstance(index, int):
                return index
        return None

    @property
    def takes_class_numbers(self) -> bool:
        """Whether the metric is `accuracy`: outputs (N, classes, ...), whole-number targets (N, ...)."""
        return _bare(self.metric)[0] is accuracy

    @property
    def takes_scores(self) -> bool:
        """Whether the network must give one tensor (N, classes, ...): for `accuracy` or torch's losses of classes."""
        return self.takes_class_numbers or is_cross_entropy(self.loss)


def is_cross_entropy(loss: Loss) -> bool:
    """Whether this is torch's cross-entropy or negative log-likelihood, as a function, a partial or a module."""
    bare = _bare(loss)[0]
    return bare in _OF_CLASSES or isinstance(bare, nn.CrossEntropyLoss | nn.NLLLoss)


def _bare(function: Any) -> tuple[Any, dict[str, Any]]:
    """The function inside partials, and the keywords that these set."""
    settings: dict[str, Any] = {}
    while isinstance(function, partial):
        settings = {**function.keywords, **settings}
        function = function.func
    return function, settings


def accuracy(output: Tensor, target: Tensor, ignore_index: int | None = None) -> Tensor:
    """Share of each example's targets (N, ...) at the largest of `output` (N, classes, ...): float32 (N,).

    Targets that equal `ignore_index` do not count (None: -100 where an example has several targets, as in torch's
    cross-entropy). An example without any that count gets the mean of the batch's others, so that it does not move it.

    Raises:
        TombolaError: targets of any other shape.
    """
    guess = output.argmax(1)
    if guess.shape != target.shape:
        raise TombolaError(
            f"accuracy of outputs {tuple(output.shape)} needs targets {tuple(guess.shape)}; found {tuple(target.shape)}"
        )
    hits = guess == target
    if target.dim() == 1 and ignore_index is None:
        return hits.float()
    counted = (target != (IGNORED if ignore_index is None else ignore_index)).view(len(target), -1)
    counts = counted.sum(1)
    share = (hits.view(len(target), -1) & counted).sum(1) / counts.clamp(min=1)
    judged = counts > 0
    return torch.where(judged, share, share.sum() / judged.sum().clamp(min=1))


def classification(label_smoothing: float = 0.0, ignore_index: int = IGNORED) -> Task:
    """Cross-entropy and accuracy, which leave out the label `ignore_index`. Labels are smoothed in the training loss
    only.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise TombolaError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")
    whole: Callable[..., Tensor] = F.cross_entropy
    plain = whole if ignore_index == IGNORED else partial(whole, ignore_index=ignore_index)
    if label_smoothing == 0.0:
        return Task(plain, accuracy)
    return Task(partial(plain, label_smoothing=label_smoothing), accuracy, eval_loss=plain)
