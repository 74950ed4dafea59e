"""The training loop: any module, any splits, one recipe; hooks, checkpoints and history around a plain step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tombola.data.splits import Splits, Task
from tombola.errors import TombolaError
from tombola.rng.seeds import derive
from tombola.train.checkpoint import Checkpoint, CheckpointStore, Snapshot, State
from tombola.train.evaluate import Score, evaluate
from tombola.train.feeds import evaluation_feed, training_feed, training_loss, wants_channels_last
from tombola.train.history import Row, append_csv
from tombola.train.hooks import Hook, overriding
from tombola.train.length import steps
from tombola.train.optimizer import build_optimizer
from tombola.train.recipe import Recipe
from tombola.train.schedule import lr_factor

Update = Callable[[int], None]


class Diverged(TombolaError):
    """The loss or a weight is no longer a number."""


@dataclass(frozen=True)
class Trained:
    """What a training run leaves: states are CPU copies of the model's state_dict.

    `best` is the state at the lowest validation loss; `captured` the snapshot at the step asked for.
    """

    state: State
    best: State | None
    captured: Snapshot | None
    history: tuple[Row, ...]
    steps: int
    seconds: float
    stopped: str | None = None


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
        hooks: Sequence[Hook] = (),
        optimizer: Callable[[nn.Module, Recipe], torch.optim.Optimizer] | None = None,
    ) -> None:
        self.fabric = fabric
        self.device: torch.device = fabric.device
        self.recipe, self.seed, self.hooks = recipe, seed, tuple(hooks)
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

    def snapshot(self) -> Snapshot:
        """Everything at the present step, copied to the CPU."""
        return Snapshot(
            step=self.step,
            model=copy_state(self.model),
            optimizer=_to_cpu(self.optimizer.state_dict()),
            hooks=tuple(_to_cpu(dict(hook.state_dict())) for hook in self.hooks),
            generators=_generators(self.device),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot: weights, buffers, optimiser, hooks, generators, step."""
        self.model.load_state_dict(snapshot.model)
        self.optimizer.load_state_dict(dict(snapshot.optimizer))
        for hook, state in zip(self.hooks, snapshot.hooks, strict=False):
            hook.load_state_dict(state)
        torch.set_rng_state(snapshot.generators[0])
        if self.device.type == "cuda" and len(snapshot.generators) > 1:
            torch.cuda.set_rng_state(snapshot.generators[1], self.device)
        self.step = snapshot.step


def train(
    model: nn.Module,
    splits: Splits,
    recipe: Recipe,
    *,
    seed: int = 0,
    fabric: Fabric | None = None,
    hooks: Sequence[Hook] = (),
    optimizer: Callable[[nn.Module, Recipe], torch.optim.Optimizer] | None = None,
    start: Snapshot | int | None = None,
    capture: int | None = None,
    store: CheckpointStore | None = None,
    update: Update | None = None,
) -> Trained:
    """Train `model` in place to the end of the recipe.

    Args:
        seed: data order, augmentation and torch's own generators (dropout) derive from it.
        fabric: device and precision; the CPU in the recipe's precision if None.
        optimizer: builds the optimiser from the model and the recipe; default: all that requires a gradient.
        start: begin at this snapshot, or at this step with the model as it is and a fresh optimiser, instead of 0.
        capture: return the snapshot at this step as well (the rewind point).
        store: where to checkpoint; a checkpoint found there is resumed from.
        update: told the step now and then.

    Raises:
        Diverged: the loss or a weight turned NaN or infinite; the last good checkpoint stays in the store.
    """
    fabric = fabric or make_fabric("cpu", recipe.precision)
    was_training = model.training
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, "torch"))
        loop = Loop(model, splits, recipe, seed=seed, fabric=fabric, hooks=hooks, optimizer=optimizer)
        trained = _run(loop, start, capture, store, update or (lambda step: None))
    model.train(was_training)
    return trained


def _run(
    loop: Loop,
    start: Snapshot | int | None,
    capture: int | None,
    store: CheckpointStore | None,
    update: Update,
) -> Trained:
    clock = time.monotonic()
    resumed = store.load() if store else None
    if resumed is not None:
        loop.restore(resumed.snapshot)
        loop.history = list(resumed.history)
    elif isinstance(start, int):
        loop.step = start
    elif start is not None:
        loop.restore(start)
    gathered = _Gathered(loop, resumed, store, capture, clock)
    for hook in overriding(loop.hooks, "on_start"):
        hook(loop)
    if capture == loop.step and gathered.captured is None:
        gathered.captured = loop.snapshot()
    if not loop.history:
        gathered.evaluate()
    points = {name: overriding(loop.hooks, name) for name in ("before_step", "after_backward", "after_step")}
    before, backward, after = points["before_step"], points["after_backward"], points["after_step"]
    model, optimizer, task, recipe = loop.model, loop.optimizer, loop.task, loop.recipe
    training_loss_of = loop.training_loss
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    plain = recipe.accumulate == 1 and recipe.precision == "32"
    factor = lr_factor(recipe, loop.steps_per_epoch)
    while loop.step < loop.total and not loop.stopped:
        epoch, first = divmod(loop.step, loop.steps_per_epoch)
        model.train()
        for x, y in loop.train_feed.epoch(loop.seed, epoch, first):
            now = factor(loop.step)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * now
            for hook in before:
                hook(loop)
            if plain:
                output = model(x)
                loss = training_loss_of(output, y)
                loss.backward()  # type: ignore[no-untyped-call]
                gathered.add(loss.detach(), task.metric(output.detach(), y).sum(), len(y))
            else:
                _backward_in_parts(loop, x, y, gathered)
            for hook in backward:
                hook(loop)
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loop.step += 1
            for hook in after:
                hook(loop)
            if loop.step == capture:
                gathered.captured = loop.snapshot()
            if loop.step % loop.eval_every == 0 or loop.step == loop.total or loop.stopped:
                gathered.evaluate()
                model.train()
            if loop.step % 16 == 0:
                update(loop.step)
                gathered.checkpoint_if_due()
            if loop.step == loop.total or loop.stopped:
                break
    return Trained(
        state=copy_state(model),
        best=gathered.best,
        captured=gathered.captured,
        history=tuple(loop.history),
        steps=loop.step,
        seconds=gathered.seconds(),
        stopped=loop.stopped,
    )


def _backward_in_parts(loop: Loop, x: Tensor, y: Tensor, gathered: _Gathered) -> None:
    for part_x, part_y in zip(x.chunk(loop.recipe.accumulate), y.chunk(loop.recipe.accumulate), strict=True):
        with loop.autocast():
            output = loop.model(part_x)
            loss = loop.training_loss(output, part_y)
        loop.fabric.backward(loss * (len(part_y) / len(y)))
        gathered.add(loss.detach(), loop.task.metric(output.detach(), part_y).sum(), len(part_y))


class _Gathered:
    """Sums since the last row, the best state, and the clock; writes rows and checkpoints."""

    def __init__(
        self,
        loop: Loop,
        resumed: Checkpoint | None,
        store: CheckpointStore | None,
        capture: int | None,
        clock: float,
    ) -> None:
        self.loop, self.store = loop, store
        self.best = resumed.best if resumed else None
        self.captured = resumed.captured if resumed else None
        sums = resumed.sums if resumed else {"loss": 0.0, "metric": 0.0, "count": 0}
        self._before = resumed.seconds if resumed else 0.0
        self._clock = clock
        self._loss = torch.tensor(sums["loss"], dtype=torch.float64, device="cpu").to(loop.device)
        self._metric = torch.tensor(sums["metric"], dtype=torch.float64, device="cpu").to(loop.device)
        self._count = int(sums["count"])
        self._saved = clock
        self._after = overriding(loop.hooks, "after_eval")

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._clock

    def add(self, loss: Tensor, metric: Tensor, count: int) -> None:
        self.loop.loss = loss
        self._loss += loss * count
        self._metric += metric
        self._count += count

    def evaluate(self) -> None:
        """Add a row to the history; keep the state if its validation loss is the lowest yet."""
        loop = self.loop
        self._check()
        score: Score = evaluate(loop.model, loop.val_feed, loop.task, loop.autocast)
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
            self.store.directory.mkdir(parents=True, exist_ok=True)
            append_csv(self.store.metrics, row)
        self._loss.zero_(), self._metric.zero_()
        self._count = 0
        for hook in self._after:
            hook(loop)

    def checkpoint_if_due(self) -> None:
        now = time.monotonic()
        if self.store is None or now - self._saved < self.store.every_seconds:
            return
        self._check()
        self.store.save(
            Checkpoint(
                snapshot=self.loop.snapshot(),
                sums={"loss": float(self._loss), "metric": float(self._metric), "count": self._count},
                seconds=self.seconds(),
                best=self.best,
                captured=self.captured,
                history=tuple(self.loop.history),
            )
        )
        self._saved = time.monotonic()

    def _check(self) -> None:
        loss_is_finite = math.isfinite(float(self._loss))
        if loss_is_finite and all(bool(torch.isfinite(p).all()) for p in self.loop.model.parameters()):
            return
        what = "a weight" if loss_is_finite else "the training loss"
        kept = f"; the last good checkpoint is in {self.store.directory}" if self.store else ""
        raise Diverged(
            f"{what} became NaN or infinite by iteration {self.loop.step} at lr {self.loop.recipe.lr:g}; "
            f"lower --lr, add --warmup or --clip_norm{kept}"
        )


def make_fabric(device: str, precision: str = "32", *, deterministic: bool = False, loggers: Any = ()) -> Fabric:
    """A Fabric on one device: "auto", "cpu", "cuda" or "cuda:1"; a device that is not there is a TombolaError."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or not (index.isdigit() or not index):
        raise TombolaError(f"device {device!r} is not known; use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise TombolaError("device 'cuda' was asked for, but torch finds no CUDA device here; use --device cpu")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if deterministic and kind == "cuda":
        torch.use_deterministic_algorithms(True)
    devices: Any = [int(index)] if index else 1
    fabric_precision: Any = "32-true" if precision == "32" else precision
    return Fabric(accelerator=kind, devices=devices, precision=fabric_precision, loggers=list(loggers))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


def copy_state(model: nn.Module) -> State:
    """A contiguous CPU copy of the model's state_dict."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


def _to_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_cpu(item) for item in value)
    return value


def _generators(device: torch.device) -> tuple[Tensor, ...]:
    cpu = torch.get_rng_state()
    return (cpu, torch.cuda.get_rng_state(device)) if device.type == "cuda" else (cpu,)
