"""What a training run has gathered: sums since the last row, rows, the best state, checkpoints, the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.machine.energy import EnergyMeter
from tombola.train.checkpoint import Checkpoint, CheckpointStore
from tombola.train.evaluate import Score, evaluate, summed
from tombola.train.history import Row
from tombola.train.hooks import Hook
from tombola.train.loggers import Send
from tombola.train.shared import all_sums, check_alike, own_sums
from tombola.train.snapshots import copy_state, snapshot
from tombola.train.state import Loop

CHECKED_EVERY = 16
"""Iterations after which it is asked whether a checkpoint is due."""


class Diverged(TombolaError):
    """The loss or a weight is no longer a number."""


class Recorder:
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
        self._stacked = False

    def status(self) -> str:
        """The training loss since the last evaluation, and the metric that this gave."""
        loss = f"loss {float(self._loss) / self._count:.4g}  " if self._count else ""
        return f"{loss}val {self.loop.task.metric_name} {self.loop.history[-1].val_accuracy:.4g}"

    def seconds(self) -> float:
        """Of training up to now, those before a resume included."""
        return self._before + time.monotonic() - self._clock

    def joules(self) -> float | None:
        """Energy of this part of the run and those before it; None if any was not measured, or was that of a stack."""
        now = self._meter.joules() if self._meter and not self._stacked else None
        return None if now is None or self._joules_before is None else self._joules_before + now

    def add(self, loss: Tensor, metric: Tensor, count: int) -> None:
        """The mean loss of a batch of `count` examples, and its metric as `metric_values` gives it."""
        self.loop.loss = loss
        self._loss += loss * count
        self._metric += summed(metric, count)
        self._count += count

    def sums(self) -> tuple[Tensor, Tensor]:
        """Loss and metric over the examples since the last row, float64 each."""
        return self._loss, self._metric

    def add_stacked(self, sums: tuple[Tensor, Tensor], count: int, loss: Tensor) -> None:
        """What a stack has added to `sums` by `count` examples more, the last batch of which had this mean loss."""
        self._stacked = True
        self.loop.loss = loss
        self._loss.copy_(sums[0])
        self._metric.copy_(sums[1])
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
        """Write a checkpoint where it is time for one."""
        if self._meter is not None:
            self._meter.poll()
        if self.store is None or not self.is_due():
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

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint, by rank 0's clock."""
        store = self.store
        if store is None:
            return False
        return self.loop.ranks.first(lambda: time.monotonic() - self._saved >= store.every_seconds)

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
