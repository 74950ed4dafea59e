"""One step of everything, before anything is trained: what cannot work says so now and not at the end.

A search's dry run takes one real step on a copy of its network, evaluates a few examples of every split, selects once,
and makes a ticket and reads it back. Cost: one batch of training, and about 200 examples through the forward pass,
however long the search; a streamed test split whose targets are not in memory is read once. Nothing is written, and
the global random state stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tombola.data.probe import MAX_EXTREMES, chosen, extremes, first_of, read_targets, targets_of
from tombola.data.splits import Split
from tombola.errors import TombolaError, in_short
from tombola.nn.forward import leaves, mapped, typed, widened
from tombola.train.contract import check_task, repeated
from tombola.train.evaluate import metric_values
from tombola.train.feeds import EVAL_BATCH, evaluation_feed, layout
from tombola.train.fit import copied
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.schedule import check_schedule
from tombola.train.state import BuildOptimizer, Loop
from tombola.train.trial import TrainingSetup

ROWS = 16
"""Examples of a split that go through the network."""
_NUMBERS = 1 << 26
"""Numbers in an output that stands for a whole batch's, at most."""
_CLOSE = 1e-3
"""How far outputs may differ, relative to the largest."""


def try_training(
    setup: TrainingSetup,
    model: nn.Module,
    *,
    seed: int,
    hooks: Sequence[Hook] = (),
    optimizer: BuildOptimizer | None = None,
) -> dict[str, Tensor]:
    """Train `model` (in place) for one step as `setup` will, and evaluate it; gives its state on the CPU.

    Raises:
        TombolaError: what fails or breaks the task's contract; a state that changes its form in the forward pass.
    """
    check_schedule(setup.recipe, setup.steps_per_epoch)
    setup = replace(setup, splits=replace(setup.splits, task=copied(setup.splits.task)))
    model.to(setup.fabric.device)
    forms, parameters = _forms(model), dict(model.named_parameters())
    with undisturbed(setup):
        _check_splits(setup, model)
        if not torch.is_grad_enabled():
            raise TombolaError(
                "gradients are off here (torch.no_grad or torch.inference_mode), and training needs them; call this "
                "outside"
            )
        with in_words("one step of training fails"):
            trained = train(
                model,
                replace(setup.splits, val=first_of(setup.splits.val, ROWS)),
                replace(setup.recipe, length="1it"),
                seed=seed,
                fabric=setup.fabric,
                hooks=[*hooks, _Reached()],
                optimizer=optimizer,
                deterministic=setup.options.deterministic,
            )
        _check_state(forms, _forms(model))
        _check_parameters(parameters, dict(model.named_parameters()))
        _check_outcomes(setup, model)
    return trained.state


def try_evaluation(setup: TrainingSetup, model: nn.Module) -> None:
    """Evaluate `model` (put on the device) on few examples; TombolaError for what breaks the task's contract."""
    setup = replace(setup, splits=replace(setup.splits, task=copied(setup.splits.task)))
    with undisturbed(setup):
        _check_splits(setup, model.to(setup.fabric.device))
        _check_outcomes(setup, model, "")


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Any error within becomes a TombolaError that begins with `what`."""
    try:
        yield
    except TombolaError:
        raise
    except Exception as error:  # of the user's network, task or criterion: it may be anything
        raise TombolaError(f"{what}: {in_short(error)}") from error


@contextmanager
def undisturbed(setup: TrainingSetup) -> Iterator[None]:
    """Random numbers drawn within leave the global generators as they were."""
    device = setup.fabric.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


class _Reached(Hook):
    """Something learns: a loss that does not depend on the parameters trains nothing, and fails nowhere."""

    def after_backward(self, loop: Loop) -> None:
        if all(p.grad is None for group in loop.optimizer.param_groups for p in group["params"]):
            raise TombolaError(
                "no gradient of the loss reaches a parameter that is trained; the loss must depend on the network's "
                "output, and that on its parameters (nothing detached between)"
            )


# -- what the splits hold


def _check_splits(setup: TrainingSetup, model: nn.Module) -> None:
    """Loss and metric on targets of every split.

    Few examples go through the network; their outputs stand for a whole batch's. Where that finds a fault, the
    targets' own outputs decide: those of some networks have no row per example.
    """
    sample = first_of(setup.splits.val, ROWS)
    output, _ = forward(setup, model, sample)
    for where, split in _splits(setup):
        for whose, indices, targets in _batches(setup, where, split, output):
            whose = f"{whose} of the {where} split"
            try:
                if targets is None:
                    raise TombolaError(f"{whose} must be fetched")
                ((_, targets),) = typed([(targets, targets)], model)
                _check_on_host(setup, repeated(output, len(sample), len(targets)), targets, whose)
            except TombolaError:
                _check_on_host(setup, *forward(setup, model, chosen(split, indices[: ROWS + MAX_EXTREMES])), whose)
        if len(split) % EVAL_BATCH == 1:
            alone, target = forward(setup, model, chosen(split, [len(split) - 1]))
            check_task(setup.splits.task, alone, target, f"the last batch of the {where} split, one example,")


def _check_outcomes(setup: TrainingSetup, model: nn.Module, when: str = " after one step of training") -> None:
    """TombolaError if the metric of a network is NaN, or no number whatever the output; `when`: for the message."""
    name = setup.splits.task.metric_name
    for where, split in _splits(setup):
        output, target = forward(setup, model, first_of(split, ROWS))
        known = targets_of(split)
        values, few = _measured(setup, output, target), len(target)
        if values is not None and not values.dim():  # a batch of its own size: of few examples it may be undefined
            of = "the first batch"
            whole = None if known is None else known[:EVAL_BATCH].to(target)
            values = None if whole is None else _measured(setup, repeated(output, few, len(whole)), whole)
        elif values is not None:
            of = f"{int(values.isnan().sum())} of the first {few} examples"
        if values is not None and bool(values.isnan().any()):
            raise TombolaError(
                f"metric {name} is NaN for {of} of the {where} split{when}; it must be a number whatever the output"
            )
        if values is None or not values.dim() or known is None:
            continue
        for index in extremes(known):
            value = _measured(setup, output, known[[index] * few].to(target))
            if value is not None and not bool(value.isfinite().any()):
                raise TombolaError(
                    f"metric {name} is NaN or infinite for example {index} of the {where} split, whatever the output "
                    f"(target {_shown(known[index])}); give it a finite value there, or leave that out"
                )


def _measured(setup: TrainingSetup, output: Any, target: Tensor) -> Tensor | None:
    """The metric; None where it cannot be had of a batch that never occurs."""
    try:
        return metric_values(setup.splits.task, output, target)
    except Exception:
        return None


def _batches(
    setup: TrainingSetup, where: str, split: Split, output: Any
) -> Iterator[tuple[str, Sequence[int], Tensor | None]]:
    """The first batch, and one that holds the outermost targets: indices and targets; of what must be fetched, a few.

    The test split is evaluated once, at the end: so that no surprise is left for it, its targets are all fetched.
    """
    known = targets_of(split)
    if known is None and where == "test":
        with in_words("the test split cannot be read"):
            known = read_targets(split, setup.progress.track, "the test split")
    if known is None:
        yield "the first examples", range(min(ROWS, len(split))), None
        return
    row = max((part.numel() // max(1, len(part)) for part in leaves(output) if part.dim()), default=1)
    count = min(len(known), EVAL_BATCH, max(ROWS, _NUMBERS // max(1, row)))
    yield "the first batch", range(count), known[:count]
    far = extremes(known)
    indices = [*far, *(i for i in range(count) if i not in far)][:count]
    yield "a batch with the outermost targets", indices, known[indices]


def _check_on_host(setup: TrainingSetup, output: Any, target: Tensor, whose: str) -> None:
    """`check_task` on the CPU, where a label out of range is an error like others: on a GPU it ends the process.

    A task that works on the GPU alone, since it holds tensors there, is checked there.
    """
    task = setup.splits.task
    try:
        check_task(task, mapped(lambda part: part.cpu(), output), target.cpu(), whose)
    except TombolaError as error:
        if setup.fabric.device.type == "cpu" or not isinstance(error.__cause__, RuntimeError):
            raise
        check_task(task, output, target.to(setup.fabric.device), whose)


def forward(setup: TrainingSetup, model: nn.Module, split: Split) -> tuple[Any, Tensor]:
    """Outputs for all examples of a small split, in evaluation mode, and the targets."""
    feed = evaluation_feed(setup.splits, split, setup.fabric.device, layout(model, setup.recipe))
    mode = model.training
    model.eval()
    with torch.no_grad(), in_words("the network fails in evaluation mode"):
        x, y = next(typed(feed.sweep(), model))
        with setup.precision(model):
            output = widened(model(x))
    model.train(mode)
    return output, y


def _splits(setup: TrainingSetup) -> list[tuple[str, Split]]:
    named = {"train": setup.splits.train, "val": setup.splits.val, "test": setup.splits.test}
    return [(name, split) for name, split in named.items() if split is not None]


def _shown(target: Tensor) -> str:
    return f"{target.item():g}" if target.numel() == 1 else f"of shape {tuple(target.shape)}"


# -- what the network keeps

Form = tuple[tuple[int, ...], torch.dtype]


def _forms(model: nn.Module) -> dict[str, Form]:
    return {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}


def _check_state(before: Mapping[str, Form], after: Mapping[str, Form]) -> None:
    """TombolaError where the forward pass changes what a state_dict holds other than by value."""
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            old, new = (_described(forms.get(name)) for forms in (before, after))
            raise TombolaError(
                f"{name!r} in the network's state_dict is {old} before one step and {new} after it, so that no state "
                "can be read back; keep its shape and dtype, or register the buffer with persistent=False"
            )


def _described(form: Form | None) -> str:
    return "not there" if form is None else f"{str(form[1]).removeprefix('torch.')} of shape {form[0]}"


def _check_parameters(before: Mapping[str, nn.Parameter], after: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in before.items():
        if parameter is not after.get(name):
            raise TombolaError(
                f"parameter {name!r} is replaced in the forward pass, so that the optimiser trains one that is no "
                "longer in the network; change its values in place"
            )


def close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether outputs agree but for rounding; NaN and infinity in the same places."""
    if [part.shape for part in first] != [part.shape for part in second]:
        return False
    for a, b in zip(first, second, strict=True):
        largest = a.abs().nan_to_num(0, 0, 0).max().item() if a.numel() else 0.0
        wide = torch.promote_types(a.dtype, torch.float64)
        if not torch.allclose(a.to(wide), b.to(wide), rtol=0, atol=_CLOSE * largest, equal_nan=True):
            return False
    return True
