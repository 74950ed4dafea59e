"""One network trained once and tested once: the unit that levels, controls and verdicts are made of."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from tombola.data.feed import steps_per_epoch
from tombola.data.splits import Split, Splits
from tombola.errors import TombolaError
from tombola.hold import hold
from tombola.machine.ranks import Ranks
from tombola.mask import Mask
from tombola.plain import as_plain
from tombola.results.codec import recovered
from tombola.results.trial import TrainingCost, TrialResult
from tombola.runs.progress import Progress, Silent
from tombola.runs.stage import METRICS, SENT, Stage
from tombola.train.checkpoint import CheckpointStore, Snapshot
from tombola.train.evaluate import Score, evaluate
from tombola.train.fabric import ranks_of
from tombola.train.feeds import evaluated_part, evaluation_feed, layout
from tombola.train.history import Row, early_stop, read_csv
from tombola.train.hooks import Hook
from tombola.train.length import steps
from tombola.train.loggers import Curve, Send, sent
from tombola.train.loop import Trained, train
from tombola.train.low_precision import forward_precision
from tombola.train.moments import ClearPruned
from tombola.train.options import Options
from tombola.train.outcomes import read_outcomes, write_outcomes
from tombola.train.recipe import Recipe
from tombola.train.snapshots import copy_state
from tombola.train.stacked.company import Company
from tombola.train.state import BuildOptimizer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Evaluate = Callable[[], Score]
"""The model on one split, as it stands."""


class Sampled(NamedTuple):
    """Means of the metric over `samples` drawn masks; `test` is None without a test split."""

    val: float | None = None
    test: float | None = None
    samples: int | None = None


MoreTests = Callable[[nn.Module, Mapping[str, Evaluate]], Sampled]
"""Further figures of a trained model, from what evaluates it on "val" and, where there is one, "test"."""


@dataclass(frozen=True)
class TrainingSetup:
    """What the trials of one search share: data, recipe, machine.

    Loggers are told where its run lies (None: in memory), and what it is about. `company`: trainings of other searches
    that these may be stacked with.
    """

    splits: Splits
    recipe: Recipe
    fabric: Fabric
    options: Options = Options()
    progress: Progress = Silent()
    directory: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    company: Company | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch of training."""
        return steps_per_epoch(len(self.splits.train), self.recipe.batch_size)

    @property
    def ranks(self) -> Ranks:
        """The processes that trials are shared by."""
        return ranks_of(self.fabric)

    @property
    def total_steps(self) -> int:
        """Iterations of one whole training run."""
        return steps(self.recipe.length, self.steps_per_epoch)

    def scorer(self, model: nn.Module, split: Split) -> Evaluate:
        """What evaluates `model`, which lies on the device, on `split`: in the layout and precision it trains in."""
        channels_last = layout(model, self.recipe)
        ranks = self.ranks
        feed = evaluation_feed(self.splits, split, self.fabric.device, channels_last, ranks)
        return lambda: evaluate(model, feed, self.splits.task, lambda: self.precision(model), ranks)

    def store(self, stage: Stage | None) -> CheckpointStore | None:
        """Where a trial is checkpointed; nowhere in memory."""
        return CheckpointStore(stage.directory, self.options.checkpoint_seconds, stage.ranks) if stage else None

    def sending(self, label: str, seed: int, stage: Stage | None, *, resumed: bool) -> AbstractContextManager[Send]:
        """What sends the rows of one training to the loggers asked for; of several processes, the first one does."""
        place = None if self.directory is None or stage is None else stage.directory.relative_to(self.directory)
        words = {key: value for key, value in self.about.items() if isinstance(value, str)}
        curve = Curve(
            run="-".join(words.values()) if self.directory is None else self.directory.name,
            training="-".join(label.split()) if place is None else place.as_posix(),
            config={**self.about, "recipe": as_plain(self.recipe), "training": label, "seed": seed},
            folder=self.directory,
            resumed=resumed,
            sent=None if stage is None else stage.directory / SENT,
        )
        return sent(self.options.loggers if self.fabric.is_global_zero else (), curve)

    def precision(self, model: nn.Module) -> AbstractContextManager[Any]:
        """The recipe's precision, for a forward pass of `model` in evaluation mode."""
        return forward_precision(self.recipe, self.fabric, model)


@dataclass(frozen=True)
class Trial:
    """A finished trial. `trained` is None where the stage was found finished on disk.

    `outcomes`: the final network's metric of every test example, in the split's order, float32 (N,) on the CPU;
    None without a test split, where the metric gives one number per batch, and where a stage has not kept them.
    """

    result: TrialResult
    history: tuple[Row, ...]
    trained: Trained | None
    outcomes: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class TrainedTrial(Trial):
    """A trial that was trained just now."""

    trained: Trained


def run_trial(
    setup: TrainingSetup,
    model: nn.Module,
    *,
    seed: int,
    label: str,
    mask: Mask | None = None,
    values: Mapping[str, Tensor] | None = None,
    start: Snapshot | int | None = None,
    hooks: Sequence[Hook] = (),
    stage: Stage | None = None,
) -> Trial:
    """The trial that a finished stage holds, else `train_trial`."""
    done = recovered(TrialResult, stage)
    if stage is not None and done is not None:
        return Trial(done, tuple(read_csv(stage.directory / METRICS)), None, read_outcomes(stage.directory))
    return train_trial(
        setup, model, seed=seed, label=label, mask=mask, values=values, start=start, hooks=hooks, stage=stage
    )


def train_trial(
    setup: TrainingSetup,
    model: nn.Module,
    *,
    seed: int,
    label: str,
    mask: Mask | None = None,
    values: Mapping[str, Tensor] | None = None,
    hooks: Sequence[Hook] = (),
    optimizer: BuildOptimizer | None = None,
    more_tests: MoreTests | None = None,
    start: Snapshot | int | None = None,
    capture: int | None = None,
    best: bool = False,
    stage: Stage | None = None,
) -> TrainedTrial:
    """Train `model` (in place) under `mask`, then evaluate it once on the test split.

    `best`: the network of the lowest validation loss is what is tested and left, and not that of the end.
    `values`: what pruned weights are held at, instead of 0; by name, in the weight's shape.
    `optimizer` as in `train`. `more_tests` adds figures, and comes last.

    The stage is not marked finished here: the caller first saves what it keeps of the state.
    """
    store = setup.store(stage)
    if mask is not None:
        hooks = (*hooks, ClearPruned(mask))
    with (
        stage.writing() if stage else nullcontext(),
        hold(model, mask, values) if mask is not None else nullcontext(),
        setup.progress.track(label, setup.total_steps) as update,
        setup.sending(label, seed, stage, resumed=store is not None and store.exists()) as send,
    ):
        trained = train(
            model,
            setup.splits,
            setup.recipe,
            seed=seed,
            fabric=setup.fabric,
            hooks=hooks,
            optimizer=optimizer,
            start=start,
            capture=capture,
            store=store,
            send=send,
            update=update,
            deterministic=setup.options.deterministic,
            count_cost=True,
            company=setup.company,
        )
    if store is not None:
        store.write_metrics(trained.history)
    if best and trained.best is not None:
        model.load_state_dict(trained.best)
        trained = replace(trained, state=trained.best)
    tests = _test(setup, model, trained, more_tests or (lambda module, evaluate: Sampled()))
    outcomes = None if tests.final is None else tests.final.values
    if stage is not None and outcomes is not None:
        stage.write(lambda folder: write_outcomes(folder, outcomes))
    return TrainedTrial(_result(setup, trained, tests, best), trained.history, trained, outcomes)


NOTHING = TrainingCost(flops=0, memory_bytes=0, forward_passes=0)
"""What it costs to take a mask as it is."""


def evaluate_trial(
    setup: TrainingSetup,
    model: nn.Module,
    *,
    stage: Stage | None = None,
    history: Sequence[Row] = (),
    row: Row | None = None,
    cost: TrainingCost | None = None,
) -> TrainedTrial:
    """A trial of no iteration: `model` is evaluated as it is, once on every split.

    As with `train_trial`, the stage is not marked finished here.

    Args:
        history: rows of the log before this one, of what found the model.
        row: of the model itself, its validation figures to be filled in; the seconds before count as the trial's. None:
            of iteration 0.
        cost: of what found the model; None: nothing, as an evaluation is not counted.
    """
    start, nan, counts_iterations = time.perf_counter(), math.nan, row is None
    row = row or Row(0, 0.0, 0.0, nan, nan, nan, nan, 0.0)
    model.to(setup.fabric.device)
    if layout(model, setup.recipe):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    val = setup.scorer(model, setup.splits.val)()
    rows = (*history, replace(row, val_loss=val.loss, val_accuracy=val.metric))
    trained = Trained(copy_state(model), None, None, rows, 0, 0.0, cost=cost or NOTHING)
    tests = _test(setup, model, trained, lambda module, evaluate: Sampled())
    trained = replace(trained, seconds=row.seconds + time.perf_counter() - start)
    outcomes = None if tests.final is None else tests.final.values
    store = setup.store(stage)
    if stage is not None and store is not None:
        with stage.writing():
            store.write_metrics(history)
            store.add_row(rows[-1])
            if outcomes is not None:
                stage.write(lambda folder: write_outcomes(folder, outcomes))
    result = _result(setup, trained, tests).replace(whole_steps=0)
    if not counts_iterations:  # there was no training to stop early
        result = result.replace(early_stop_iteration=None, early_stop_observed=False, test_accuracy_early_stop=None)
    return TrainedTrial(result, trained.history, trained, outcomes)


@dataclass(frozen=True)
class _Tests:
    """What the trained network was tested on: the training split in evaluation mode, and the one look at the test
    split, at the end of training and at the early-stop iteration (both None without a test split)."""

    train: Score
    final: Score | None
    early: Score | None
    sampled: Sampled


def _result(setup: TrainingSetup, trained: Trained, tests: _Tests, best: bool = False) -> TrialResult:
    stop, final = early_stop(trained.history), tests.final
    last = next((row for row in trained.history if best and stop and row.step == stop.step), trained.history[-1])
    return TrialResult(
        steps=trained.steps,
        seconds=round(trained.seconds, 3),
        stopped=trained.stopped,
        train_loss=_number(last.train_loss),
        train_accuracy=_number(last.train_accuracy),
        train_accuracy_eval=_number(tests.train.metric),
        train_loss_eval=_number(tests.train.loss),
        train_examples_eval=tests.train.examples,
        val_loss=_number(last.val_loss),
        val_accuracy=_number(last.val_accuracy),
        val_loss_min=stop.val_loss if stop else None,
        early_stop_iteration=stop.step if stop else None,
        early_stop_observed=stop.observed if stop else False,
        test_accuracy=_number(final.metric) if final else None,
        test_loss=_number(final.loss) if final else None,
        test_accuracy_early_stop=_number(tests.early.metric) if tests.early else None,
        metric=setup.splits.task.metric_name,
        recipe=as_plain(setup.recipe),
        val_accuracy_sampled=tests.sampled.val,
        test_accuracy_sampled=tests.sampled.test,
        samples=tests.sampled.samples,
        cost=trained.cost,
        first_step=trained.first,
        whole_steps=setup.total_steps,
    )


def _test(setup: TrainingSetup, model: nn.Module, trained: Trained, more_tests: MoreTests) -> _Tests:
    splits, size = setup.splits, setup.recipe.train_eval
    on_train = setup.scorer(model, evaluated_part(splits, size))()
    scorers = {"val": setup.scorer(model, splits.val)}
    if splits.test is None:
        return _Tests(on_train, None, None, more_tests(model, scorers))
    score = scorers["test"] = setup.scorer(model, splits.test)
    early = None
    if trained.best is not None:
        model.load_state_dict(trained.best)
        early = score()
        model.load_state_dict(trained.state)
    final = _numeric(score(), splits.task.metric_name)
    return _Tests(on_train, final, early or final, more_tests(model, scorers))


def _numeric(score: Score, metric: str) -> Score:
    """The score itself; TombolaError if its metric is no number that anything could be compared with."""
    if not math.isfinite(score.metric):
        bad = 0 if score.values is None else int((~score.values.isfinite()).sum())
        of = f"{bad} of {score.examples} test examples" if bad else "the test split"
        raise TombolaError(
            f"metric {metric} is NaN or infinite for {of} after training; it must be a finite number whatever the "
            "output"
        )
    return score


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
