"""The training loop: any module, any splits, one recipe; hooks, checkpoints and history around a plain step."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
from tombola.train.checkpoint import Checkpoint, CheckpointStore, Snapshot, State
from tombola.train.cost import training_cost
from tombola.train.evaluate import Score, evaluate, loss_value, metric_values, summed
from tombola.train.fabric import make_fabric, ranks_of
from tombola.train.history import Row
from tombola.train.hooks import Hook
from tombola.train.loggers import Send
from tombola.train.low_precision import training_precision
from tombola.train.penalty import penalties
from tombola.train.recipe import Recipe
from tombola.train.schedule import lr_factor, plateau_factor
from tombola.train.shared import add_up_gradients, all_sums, check_alike, own_sums, torch_seed
from tombola.train.snapshots import copy_state, restore, snapshot
from tombola.train.state import BuildOptimizer, Loop

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Diverged(TombolaError):
    """The loss or a weight is no longer a number."""


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
            trained = _run(
                loop, (*hooks, *penalties(recipe)), rounding, start, capture, store, send, update or _no_update, meter
            )
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
    recorder = _Recorder(loop, hooks, resumed, store, send, capture, clock, meter)
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
    while loop.step < loop.total and not loop.stopped:
        epoch, first = divmod(loop.step, loop.steps_per_epoch)
        model.train()
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
            if loop.step == capture:
                recorder.captured = snapshot(loop, hooks)
            if loop.step % loop.eval_every == 0 or loop.step == loop.total or loop.stopped:
                recorder.evaluate()
                cut = plateau_factor(loop.history, recipe, task.higher_is_better)
                model.train()
            update(loop.step, recorder.status)
            if loop.step % 16 == 0:
                recorder.checkpoint_if_due()
            last = x
            if loop.step == loop.total or loop.stopped:
                break
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


def _no_update(done: int, figures: Callable[[], str] | None = None) -> None:
    pass


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Use only kernels that give the same bits every time, where that is wanted."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


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
    recorder: _Recorder,
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


class _Recorder:
    """Sums since the last row, the best state, and the clock; writes rows and checkpoints."""

    def __init__(
        self,
        loop: Loop,
        hooks: Sequence[Hook],
        resumed: Checkpoint | None,
        store: CheckpointStore | None,
        send: Send | None,
        capture: int | None,
        clock: float,
        meter: EnergyMeter | None,
    ) -> None:
        self.loop, self.hooks, self.store, self._send = loop, hooks, store, send
        self.best = resumed.best if resumed else None
        self.captured = resumed.captured if resumed else None
        sums = {"loss": 0.0, "metric": 0.0, "count": 0, **own_sums(loop.ranks, resumed.sums if resumed else {})}
        self._before = resumed.seconds if resumed else 0.0
        self._clock, self._meter = clock, meter
        self._joules_before = resumed.joules if resumed else 0.0
        self._loss = torch.tensor(sums["loss"], dtype=torch.float64, device="cpu").to(loop.device)
        self._metric = torch.tensor(sums["metric"], dtype=torch.float64, device="cpu").to(loop.device)
        self._count = int(sums["count"])
        self._saved = clock

    def status(self) -> str:
        """The training loss since the last evaluation, and the metric that this gave."""
        loss = f"loss {float(self._loss) / self._count:.4g}  " if self._count else ""
        return f"{loss}val {self.loop.task.metric_name} {self.loop.history[-1].val_accuracy:.4g}"

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._clock

    def joules(self) -> float | None:
        """Energy of this part of the run and those before it; None if any was not measured."""
        now = self._meter.joules() if self._meter else None
        return None if now is None or self._joules_before is None else self._joules_before + now

    def add(self, loss: Tensor, metric: Tensor, count: int) -> None:
        """The mean loss of a batch of `count` examples, and its metric as `metric_values` gives it."""
        self.loop.loss = loss
        self._loss += loss * count
        self._metric += summed(metric, count)
        self._count += count

    def evaluate(self) -> None:
        """Add a row to the history; keep the state if its validation loss is the lowest yet."""
        if self.loop.ranks.size > 1:
            self._add_up()
        self._check(self._loss)
        undo = [hook.before_eval(self.loop) for hook in self.hooks]
        try:
            self._add_row()
            for hook in self.hooks:
                hook.after_eval(self.loop)
        finally:
            for restore in reversed(undo):
                if restore is not None:
                    restore()

    def _add_up(self) -> None:
        """What all ranks have gathered since the last row; their networks must be alike."""
        ranks = self.loop.ranks
        self._loss, self._metric = ranks.total(self._loss), ranks.total(self._metric)
        self._count = sum(ranks.gather(self._count))
        check_alike(self.loop)

    def _add_row(self) -> None:
        loop = self.loop
        score: Score = evaluate(loop.model, loop.val_feed, loop.task, loop.autocast, loop.ranks)
        count = self._count or math.nan
        row = Row(
            step=loop.step,
            epoch=loop.step / loop.steps_per_epoch,
            lr=loop.optimizer.param_groups[0]["lr"],
            train_loss=float(self._loss) / count,
            train_accuracy=float(self._metric) / count,
            val_loss=score.loss,
            val_accuracy=score.metric,
            seconds=round(self.seconds(), 3),
        )
        if row.val_loss < min((old.val_loss for old in loop.history), default=math.inf):
            self.best = copy_state(loop.model)
        loop.history.append(row)
        if self.store:
            self.store.add_row(row)
        if self._send is not None:
            self._send(row)
        self._loss.zero_()
        self._metric.zero_()
        self._count = 0

    def checkpoint_if_due(self) -> None:
        if self._meter is not None:
            self._meter.poll()
        if self.store is None or not self._is_due(self.store.every_seconds):
            return
        ranks = self.loop.ranks
        self._check(ranks.total(self._loss))
        own = {"loss": float(self._loss), "metric": float(self._metric), "count": self._count}
        self.store.save(
            Checkpoint(
                snapshot=snapshot(self.loop, self.hooks),
                sums=all_sums(ranks, own),
                seconds=self.seconds(),
                best=self.best,
                captured=self.captured,
                history=tuple(self.loop.history),
                stopped=self.loop.stopped,
                joules=self.joules(),
            )
        )
        self._saved = time.monotonic()

    def _is_due(self, seconds: float) -> bool:
        """By rank 0's clock."""
        return self.loop.ranks.first(lambda: time.monotonic() - self._saved >= seconds)

    def _check(self, loss: Tensor) -> None:
        loss_is_finite = math.isfinite(float(loss))
        if loss_is_finite and all(bool(torch.isfinite(p).all()) for p in self.loop.model.parameters()):
            return
        if self.loop.step == 0:
            bad = [name for name, p in self.loop.model.named_parameters() if not bool(torch.isfinite(p).all())]
            if bad:
                raise Diverged(f"{bad[0]} has values that are NaN or infinite before the first iteration; mend them")
        what = "a weight" if loss_is_finite else "the training loss"
        kept = ""
        if self.store:
            where = f"the last good checkpoint is in {self.store.directory}"
            kept = f"; {where if self.store.exists() else 'no checkpoint was saved yet'}"
        raise Diverged(
            f"{what} became NaN or infinite by iteration {self.loop.step} at lr {self.loop.recipe.lr:g}; "
            f"lower lr, or set warmup or clip_norm{kept}"
        )
