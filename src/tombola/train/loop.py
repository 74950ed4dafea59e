"""The training loop: any module, any splits, one recipe; hooks, checkpoints and history around a plain step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.machine.energy import EnergyMeter, counters
from tombola.nn.forward import typed, widened
from tombola.nn.shared_norm import shared_norms
from tombola.results.trial import TrainingCost
from tombola.runs.progress import Update
from tombola.train.checkpoint import CheckpointStore, Snapshot, State
from tombola.train.cost import training_cost
from tombola.train.determinism import deterministic_kernels
from tombola.train.evaluate import loss_value, metric_values
from tombola.train.fabric import make_fabric, ranks_of
from tombola.train.history import Row
from tombola.train.hooks import Hook
from tombola.train.loggers import Send
from tombola.train.low_precision import training_precision
from tombola.train.penalty import penalties
from tombola.train.recipe import Recipe
from tombola.train.recorder import CHECKED_EVERY, Recorder
from tombola.train.schedule import lr_factor, plateau_factor
from tombola.train.shared import add_up_gradients, torch_seed
from tombola.train.snapshots import copy_state, restore, snapshot
from tombola.train.stacked.company import Company
from tombola.train.stacked.member import joined
from tombola.train.state import BuildOptimizer, Loop

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Trained:
    """What a training run leaves: states are CPU copies of the model's state_dict.

    `state` is the network as it is reported (see `Hook.before_eval`), at the end; `best` that at the lowest validation
    loss; `captured` the snapshot at the step asked for. `first`: the step at which it began. `cost` is None
    where it was not to be counted.
    """

    state: State
    best: State | None
    captured: Snapshot | None
    history: tuple[Row, ...]
    steps: int
    seconds: float
    stopped: str | None = None
    first: int = 0
    cost: TrainingCost | None = None


def train(
    model: nn.Module,
    splits: Splits,
    recipe: Recipe,
    *,
    seed: int = 0,
    fabric: Fabric | None = None,
    hooks: Sequence[Hook] = (),
    optimizer: BuildOptimizer | None = None,
    start: Snapshot | int | None = None,
    capture: int | None = None,
    store: CheckpointStore | None = None,
    send: Send | None = None,
    update: Update | None = None,
    deterministic: bool = False,
    count_cost: bool = False,
    company: Company | None = None,
) -> Trained:
    """Train `model` in place to the end of the recipe; it ends as it is reported (see `Hook.before_eval`).

    Several processes train it together where the Fabric has several ranks: see `tombola.train.shared`.

    Args:
        seed: data order, augmentation and torch's own generators (dropout) derive from it.
        fabric: device, precision and ranks; one on the CPU in the recipe's precision if None.
        optimizer: builds the optimiser from the model and the recipe; default: all that requires a gradient.
        start: begin at this snapshot, or at this step with the model as it is and a fresh optimiser, instead of 0.
        capture: return the snapshot at this step as well (the rewind point).
        store: where to checkpoint; a checkpoint found there is resumed from.
        send: called with every row of the history.
        update: called after each step, with what gives the latest figures as text.
        deterministic: use only kernels that give the same bits every time (CUDA; the CPU's do anyway).
        count_cost: count FLOPs and memory by one more forward pass at the end, and read the machine's energy counters;
            nothing that is trained depends on it.
        company: other trainings that this one may be stacked with, equal but for rounding; see `train.stacked`.

    Raises:
        Diverged: the loss or a weight turned NaN or infinite; the last good checkpoint stays in the store.
    """
    fabric = fabric or make_fabric("cpu", recipe.precision)
    was_training = model.training
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), deterministic_kernels(deterministic and bool(devices)):
        torch.manual_seed(torch_seed(seed, ranks_of(fabric)))
        loop = Loop(model, splits, recipe, seed=seed, fabric=fabric, optimizer=optimizer)
        meter = EnergyMeter(counters(fabric.device)) if count_cost else None
        with training_precision(loop) as rounding:
            told = update or _no_update
            told = told if company is None else company.interruptible(told)
            hooks = (*hooks, *penalties(recipe))
            trained = _run(loop, hooks, rounding, start, capture, store, send, told, meter, company)
    model.train(was_training)
    return trained


def _run(
    loop: Loop,
    hooks: Sequence[Hook],
    rounding: Hook,
    start: Snapshot | int | None,
    capture: int | None,
    store: CheckpointStore | None,
    send: Send | None,
    update: Update,
    meter: EnergyMeter | None,
    company: Company | None,
) -> Trained:
    clock = time.monotonic()
    begun = start if isinstance(start, int) else 0 if start is None else start.step
    resumed = store.load() if store else None
    if resumed is not None:
        restore(loop, hooks, resumed.snapshot)
        loop.history, loop.stopped = list(resumed.history), resumed.stopped
    elif isinstance(start, int):
        loop.step = start
    elif start is not None:
        restore(loop, hooks, start)
    recorder = Recorder(loop, hooks, resumed, store, send, capture, clock, meter)
    for hook in hooks:
        hook.on_start(loop)
    if capture == loop.step and recorder.captured is None:
        recorder.captured = snapshot(loop, hooks)
    if not loop.history:
        recorder.evaluate()
    model, optimizer, task, recipe = loop.model, loop.optimizer, loop.task, loop.recipe
    training_loss_of = loop.training_loss
    terms = [hook for hook in hooks if type(hook).training_loss is not Hook.training_loss]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shared, within = loop.ranks.size > 1, shared_norms(model, loop.ranks)
    plain = recipe.accumulate == 1 and recipe.precision != "bf16-mixed" and not shared
    factor = lr_factor(recipe, loop.steps_per_epoch)
    cut = plateau_factor(loop.history, recipe, task.higher_is_better)
    last: Tensor | None = None  # the inputs of the last batch
    member = joined(company, loop, hooks, recorder)
    while loop.step < loop.total and not loop.stopped:
        model.train()
        alone_until = loop.total if member is None else member.advance(capture)
        if alone_until is None:
            _arrive(recorder, capture, update)
            continue
        epoch, first = divmod(loop.step, loop.steps_per_epoch)
        for x, y in typed(loop.train_feed.epoch(loop.seed, epoch, first), model):
            now = cut * factor(loop.step)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * now
            for hook in hooks:
                hook.before_step(loop)
            rounding.before_step(loop)
            if plain:
                output = widened(model(x))
                loss = loss_value(training_loss_of(output, y))
                _with_terms(loop, terms, x, output, y, loss).backward()  # type: ignore[no-untyped-call]
                with torch.no_grad():
                    recorder.add(loss.detach(), metric_values(task, output, y), len(y))
            else:
                _backward_in_parts(loop, terms, x, y, recorder, within)
            if shared:
                add_up_gradients(loop)
            for hook in hooks:
                hook.after_backward(loop)
            rounding.after_backward(loop)
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loop.step += 1
            rounding.after_step(loop)
            for hook in hooks:
                hook.after_step(loop)
            if _arrive(recorder, capture, update):
                cut = plateau_factor(loop.history, recipe, task.higher_is_better)
            last = x
            if loop.step == alone_until or loop.stopped:
                break
    if member is not None:
        member.leave()
    seconds, cost = recorder.seconds(), None
    if meter is not None:
        further = sum(hook.forward_passes for hook in hooks)
        cost = training_cost(loop, last, loop.step - begun, recorder.joules(), further)
    for hook in hooks:
        hook.before_eval(loop)
    return Trained(
        state=copy_state(model),
        best=recorder.best,
        captured=recorder.captured,
        history=tuple(loop.history),
        steps=loop.step,
        seconds=seconds,
        stopped=loop.stopped,
        first=begun,
        cost=cost,
    )


def _arrive(recorder: Recorder, capture: int | None, update: Update) -> bool:
    """Do what is due after a step: the snapshot asked for, an evaluation, a checkpoint; whether it evaluated."""
    loop = recorder.loop
    if loop.step == capture:
        recorder.captured = snapshot(loop, recorder.hooks)
    evaluates = loop.step % loop.eval_every == 0 or loop.step == loop.total or bool(loop.stopped)
    if evaluates:
        recorder.evaluate()
        loop.model.train()
    update(loop.step, recorder.status)
    if loop.step % CHECKED_EVERY == 0:
        recorder.checkpoint_if_due()
    return evaluates


def _no_update(done: int, figures: Callable[[], str] | None = None) -> None:
    pass


def _with_terms(loop: Loop, terms: Sequence[Hook], x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
    """The loss with what hooks make of it, in their order."""
    for hook in terms:
        whose = f"training_loss of hook {type(hook).__name__}"
        loss = loss_value(hook.training_loss(loop, x, output, y, loss), whose)
        if not loss.requires_grad:
            raise TombolaError(f"{whose} gives a number without a gradient; give the loss that it is given, and more")
    return loss


def _backward_in_parts(
    loop: Loop,
    terms: Sequence[Hook],
    x: Tensor,
    y: Tensor,
    recorder: Recorder,
    within: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Parts of the batch one after the other, each weighed by its share of the whole one, which ranks may divide."""
    for part_x, part_y in zip(_parts(loop, x), _parts(loop, y), strict=True):
        with loop.autocast(), within():
            output = widened(loop.model(part_x))
            loss = loss_value(loop.training_loss(output, part_y))
            total = _with_terms(loop, terms, part_x, output, part_y, loss)
        loop.fabric.backward(total * (len(part_y) / loop.batch_examples))
        with torch.no_grad():
            recorder.add(loss.detach(), metric_values(loop.task, output, part_y), len(part_y))


def _parts(loop: Loop, values: Tensor) -> tuple[Tensor, ...]:
    """As many parts as the recipe says; on several ranks, which must go through as many each, even of an odd batch."""
    count = loop.recipe.accumulate
    return values.chunk(count) if loop.ranks.size == 1 else values.tensor_split(count)
