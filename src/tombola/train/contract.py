"""What a task's loss and metric do, looked into on one batch before anything is trained on.

Shapes alone do not tell a mean from a sum, or pairs from a broadcast; comparing parts of the batch does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tombola.data.splits import Task
from tombola.errors import TombolaError, in_short
from tombola.nn.forward import leaves, mapped
from tombola.train.evaluate import loss_value, metric_values

Measure = Callable[[Any, Tensor], Tensor]
"""(output, target) of a batch -> what loss or metric give for it."""


def check_task(task: Task, output: Any, target: Tensor, whose: str) -> None:
    """TombolaError unless loss and metric keep their contract on this batch: `output` of N examples, `target` (N, ...).

    The loss is the mean over the batch, one number; the metric one value per example, or a mean over the batch. Both
    pair each output with its own target. `whose` says in the error what batch it is.
    """

    def loss(output: Any, target: Tensor) -> Tensor:
        return loss_value(task.evaluation_loss(output, target))

    def metric(output: Any, target: Tensor) -> Tensor:
        return metric_values(task, output, target)

    for name, measure in (("the loss", loss), (f"metric {task.metric_name}", metric)):
        with torch.no_grad():
            try:
                form = measure(output, target).dim()
            except TombolaError:
                raise
            except Exception as error:  # a user's own function may raise anything
                raise TombolaError(f"{name} fails on {whose}: {in_short(error)}") from error
            if form == 0:
                check_mean(name, measure, output, target)
            _check_paired(name, measure, output, target)
    _check_forms(task, metric, output, target)


def repeated(output: Any, rows: int, count: int) -> Any:
    """The output of `rows` examples over and over, as of `count` examples; parts without such rows as they are."""
    index = torch.arange(count, device="cpu") % rows
    return mapped(lambda t: t[index.to(t.device)] if t.dim() and len(t) == rows else t, output)


def _check_forms(task: Task, metric: Measure, output: Any, target: Tensor) -> None:
    """One value per class (C,) passes for one per example where the batch holds C; smaller batches tell."""
    whole = metric(output, target)
    for count in (len(target) // 2, 1):
        part = _on_part(metric, output, target, 0, count) if 0 < count < len(target) else None
        if part is not None and count > 1 and part.dim() != whole.dim():
            raise TombolaError(
                f"metric {task.metric_name} gives shape {tuple(whole.shape)} for {len(target)} examples and "
                f"{tuple(part.shape)} for {count}; it must give one value per example, or always one number for the "
                "batch"
            )
        if part is not None and part.dim() == whole.dim() == 1:
            _check_alone(task.metric_name, metric, (output, target), (whole, part))


def _check_alone(name: str, metric: Measure, batch: tuple[Any, Tensor], measured: tuple[Tensor, Tensor]) -> None:
    """TombolaError if an example's value is another one among fewer examples; a metric that draws is let be."""
    whole, part = (values.double() for values in measured)
    again = _quietly(metric, *batch)
    if again is None or not torch.equal(again.double().nan_to_num(), whole.nan_to_num()):
        return
    size = whole[whole.isfinite()].abs().amax() if bool(whole.isfinite().any()) else 0.0
    if not torch.allclose(part, whole[: len(part)], rtol=1e-3, atol=1e-5 * float(size), equal_nan=True):
        raise TombolaError(
            f"metric {name} gives an example another value in a batch of fewer examples, so its values depend on "
            "each other (a broadcast, or a statistic of the batch); it must give each example's own value"
        )


def check_mean(name: str, measure: Measure, output: Any, target: Tensor) -> None:
    """TombolaError if the number for a batch with every example in it twice is twice as large, as a mean never is.

    Nothing is known of a function that asks for this very batch.
    """
    count = len(target)
    once = _quietly(measure, output, target)
    both = mapped(lambda part: torch.cat((part, part)) if part.dim() and len(part) == count else part, output)
    twice = _quietly(measure, both, torch.cat((target, target)))
    if once is None or twice is None or bool(once == 0) or not bool(torch.isclose(twice, 2 * once, rtol=1e-4)):
        return
    raise TombolaError(
        f"{name} of a batch taken twice is twice as large, so it sums over examples; it must give their mean "
        "(reduction='mean')"
    )


def _check_paired(name: str, measure: Measure, output: Any, target: Tensor) -> None:
    """TombolaError where shapes broadcast and it makes no difference which target belongs to which output."""
    pairs = [(part, joint) for part in leaves(output) if (joint := _grown(part, target)) is not None]
    if not pairs:
        return
    # Outputs of one sign are all alike to a metric that asks for the sign, and so are outputs below all targets to an
    # absolute error: about their mean, and among the targets, they are not.
    probes = [_altered(output, change) for change in (_wide, _centred, lambda part: _among(part, target))]
    measured = [_quietly(measure, probe, _wide(target)) for probe in probes]
    if measured[0] is None or all(other is None or torch.equal(measured[0], other) for other in measured[1:]):
        return
    if all(_ignores_pairs(measure, probe, target) for probe in probes):
        part, joint = pairs[0]
        raise TombolaError(
            f"{name} pairs every output with every target: outputs {tuple(part.shape)} and targets "
            f"{tuple(target.shape)} broadcast to {tuple(joint)}; give them one shape, e.g. by output.squeeze(1)"
        )


def _grown(part: Tensor, target: Tensor) -> torch.Size | None:
    """The shape that a part of the output and the targets broadcast to, where it is larger than both."""
    if part.shape == target.shape or not part.dim() or len(part) != len(target):
        return None
    try:
        joint = torch.broadcast_shapes(part.shape, target.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return None
    return joint if joint.numel() > max(part.numel(), target.numel()) else None


def _altered(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return mapped(lambda part: change(part) if part.is_floating_point() else part, output)


def _centred(part: Tensor) -> Tensor:
    return _wide(part) - _wide(part).mean()


def _among(part: Tensor, target: Tensor) -> Tensor:
    """Outputs of the targets' mean and spread."""
    around, own = target.double(), _centred(part)
    scale = around.std(correction=0) / own.std(correction=0)
    return own * scale.nan_to_num(1.0, 1.0, 1.0) + around.mean()


def _ignores_pairs(measure: Measure, output: Any, target: Tensor) -> bool:
    """Whether the measure depends on the targets, but not on which belongs to which output."""
    turned = target.flip(0)
    measured = [_quietly(measure, output, _wide(y)) for y in (target, turned, torch.zeros_like(target))]
    if any(part is None for part in measured):
        return False
    straight, crossed, without = (part for part in measured if part is not None)
    # Means over all outputs stand in the targets' order, which has turned round.
    alike = any(torch.allclose(straight, other, rtol=1e-9, atol=0) for other in (crossed, crossed.reshape(-1).flip(0)))
    differ = any(part.dim() > 0 and bool((part != part[:1]).any()) for part in leaves(output))
    told_apart = not torch.equal(target, turned) and differ
    return alike and told_apart and not torch.equal(straight, without)


def _on_part(measure: Measure, output: Any, target: Tensor, start: int, stop: int) -> Tensor | None:
    """The measure of some of the examples; None where the output has no rows, or the function needs more examples."""
    if any(part.dim() == 0 or len(part) != len(target) for part in leaves(output)):
        return None
    return _quietly(measure, mapped(lambda part: part[start:stop], output), target[start:stop])


def _quietly(measure: Measure, output: Any, target: Tensor) -> Tensor | None:
    try:
        return measure(output, target)
    except TombolaError:
        raise
    except Exception:  # of a batch that never occurs
        return None


def _wide(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values
