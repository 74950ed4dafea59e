"""Whether network, data and task go together: tried on a few examples before anything is trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tombola.data.probe import some_batch
from tombola.data.splits import Splits
from tombola.data.task import Loss, Task, is_cross_entropy
from tombola.errors import TombolaError, in_short
from tombola.nn.forward import described, path_to_tensor, typed, widened
from tombola.train.contract import check_mean, repeated
from tombola.train.evaluate import loss_value, metric_values
from tombola.train.feeds import EVAL_BATCH

_EXAMPLES = 8


def check_fits(model: nn.Module, splits: Splits) -> None:
    """Run `model` on a few validation examples in evaluation mode, then training mode, and the task on what it gives.

    The model's buffers (norm statistics) change: give a copy. Nothing is drawn from the global generators, and the task
    keeps the state that it has, where that can be copied.

    Raises:
        TombolaError: the network does not take the inputs, its output or the targets are not what the task needs, or
            loss and metric do not give what they must (`loss_value`, `metric_values`).
    """
    x, y = some_batch(splits, _EXAMPLES)
    ((x, y),) = typed([(x, y)], model)
    task = copied(splits.task)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        output = _called(model.eval(), x)
        _check_scores(output, y, splits, "")
        _check_metric(task, output, y, splits)
        _check_loss(task.evaluation_loss, output, y)
        if len(x) > 1:  # one example has no statistics for a norm to take
            output = _called(model.train(), x)
            _check_scores(output, y, splits, " in training mode")
            _check_loss(task.loss, output, y)


def _called(model: nn.Module, x: Tensor) -> Any:
    try:
        return widened(model(x))
    except TombolaError:
        raise
    except Exception as error:  # a user's network may raise anything
        numbers = x.is_floating_point() or x.is_complex()
        tokens = "" if numbers else " (whole numbers are taken for tokens; give features as floats)"
        raise TombolaError(
            f"the network does not take {_kind(x)} inputs of shape {tuple(x.shape[1:])}{tokens}: {in_short(error)}; "
            "choose another model or data"
        ) from error


def _check_scores(output: Any, y: Tensor, splits: Splits, mode: str) -> None:
    """TombolaError if a task of torch's cross-entropy or `accuracy` cannot work on this output and these targets."""
    task = splits.task
    if not task.takes_scores:
        return
    if not isinstance(output, Tensor):
        path = path_to_tensor(output) or "..."
        scores = f"output if torch.is_tensor(output) else {path}" if mode else path
        raise TombolaError(
            f"the network returns{mode} {described(output)}, but {_loss_name(task)} takes one tensor of scores; give a "
            f"task that takes it apart, e.g. Task(loss=lambda output, y: F.cross_entropy({scores}, y), "
            f"metric=lambda output, y: accuracy({scores}, y))"
        )
    if output.dim() < 2:
        raise TombolaError(
            f"the network returns{mode} {described(output)}, but {_loss_name(task)} takes scores of shape "
            "(N, classes, ...); give it one output per class, or give a task"
        )
    if y.is_floating_point():
        if task.takes_class_numbers:
            raise TombolaError(
                f"targets are {_kind(y)} of shape {tuple(y.shape)}, but accuracy needs class numbers: give whole ones "
                "(y.long(), or y.argmax(1) of probabilities), or give a task"
            )
        return  # probabilities of the classes
    wanted = (output.shape[0], *output.shape[2:])
    if tuple(y.shape) != wanted:
        raise TombolaError(
            f"targets of shape {tuple(y.shape)} do not go with outputs {tuple(output.shape)}: class numbers of shape "
            f"{wanted} are needed{_fix(output, y, wanted)}"
        )
    _check_count(output.shape[1], splits)


def _fix(output: Tensor, y: Tensor, wanted: tuple[int, ...]) -> str:
    """What would give targets of the shape that is wanted, where it can be seen."""
    if y.dim() == output.dim() and y.shape[1] == 1 and (y.shape[0], *y.shape[2:]) == wanted:
        return "; give y.squeeze(1)"
    if y.shape == output.shape:
        return "; they look one-hot: give y.argmax(1)" if bool((y.sum(1) == 1).all()) else "; give a task of your own"
    if y.shape == output.shape[:-1]:
        return (
            "; the classes come last here: give a task that moves them, e.g. "
            "loss=lambda output, y: F.cross_entropy(output.movedim(-1, 1), y), and the metric likewise"
        )
    return "; give such targets, or a task of your own"


def _check_count(outputs: int, splits: Splits) -> None:
    needed = splits.classes
    if needed is None or outputs >= needed:
        return
    void = "; if 255 marks what to leave out, give the task classification(ignore_index=255)" if needed == 256 else ""
    raise TombolaError(
        f"the network gives {outputs} outputs, but the data has {needed} classes; make it with {needed} outputs "
        f"(num_classes among its arguments, where it has one){void}"
    )


def _check_metric(task: Task, output: Any, y: Tensor, splits: Splits) -> None:
    try:
        metric_values(task, output, y)
    except TombolaError:
        raise
    except Exception as error:  # a user's function may raise anything
        if not _works_on_many(task, output, y, splits):
            raise _failed(f"metric {task.metric_name}", output, y, error) from error


def _works_on_many(task: Task, output: Any, y: Tensor, splits: Splits) -> bool:
    """Whether the metric can be had of a batch of its own size, as rank statistics can that need every class."""
    _, many = some_batch(splits, EVAL_BATCH)
    try:
        metric_values(task, repeated(output, len(y), len(many)), many.to(y.dtype))
    except Exception:
        return False
    return True


def _check_loss(loss: Loss, output: Any, y: Tensor) -> None:
    def measure(output: Any, y: Tensor) -> Tensor:
        return loss_value(loss(output, y))

    try:
        measure(output, y)
    except TombolaError:
        raise
    except Exception as error:
        raise _failed("the loss", output, y, error) from error
    check_mean("the loss", measure, output, y)


def copied(task: Task) -> Task:
    """A copy of the task: losses may keep a state."""
    try:
        return copy.deepcopy(task)
    except Exception:  # a user's objects may refuse
        return task


def _failed(what: str, output: Any, y: Tensor, error: Exception) -> TombolaError:
    whole = (
        ""
        if y.is_floating_point() or not isinstance(output, Tensor)
        else ", or y.float() as targets where floats are needed"
    )
    return TombolaError(
        f"{what} fails on {described(output)} as output and {described(y)} as targets: {in_short(error)}; give a task "
        f"that takes them{whole}"
    )


def _loss_name(task: Task) -> str:
    return "cross-entropy" if is_cross_entropy(task.loss) else "accuracy"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
