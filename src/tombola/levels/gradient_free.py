"""Search for a mask without gradients: candidates are proposed, evaluated on a sample, and the best one is the ticket.

One loop for all such methods. A strategy proposes (`ask`) and is told the losses (`tell`); weights rest throughout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tombola.coverage import coverage
from tombola.data.probe import some_inputs
from tombola.errors import TombolaError
from tombola.levels.fitness import Fitness, sample_of
from tombola.levels.learn import try_second_level
from tombola.levels.population import Space
from tombola.levels.search import Level, Search
from tombola.levels.stage import TrainedLevel, check_connected, run_level, ticket_of
from tombola.levels.validate import check_ticket
from tombola.machine.energy import EnergyMeter, counters
from tombola.mask import Mask
from tombola.nn.flops import flops_of_call
from tombola.parameters import parameters_by_name, prunable
from tombola.results.trial import TrainingCost
from tombola.rng.seeds import generator
from tombola.runs.stage import Stage
from tombola.train.checkpoint import Checkpoint, CheckpointStore, Snapshot, State
from tombola.train.connectivity import is_cut
from tombola.train.determinism import deterministic_kernels
from tombola.train.dry_run import in_words, try_evaluation
from tombola.train.feeds import layout
from tombola.train.history import Row
from tombola.train.loggers import Send
from tombola.train.norms import take_statistics
from tombola.train.recipe import Recipe
from tombola.train.snapshots import copy_state
from tombola.train.trial import TrainedTrial, evaluate_trial

_ROWS = 20
"""Rows of the log, evenly spaced over the budget."""


class Strategy(Protocol):
    """How masks are searched for: rows of a `Space`, proposed and judged in turn."""

    def ask(self, room: int) -> Tensor:
        """The next masks to evaluate: at least one, at most `room`, (count, n)."""

    def tell(self, rows: Tensor, losses: Sequence[float]) -> None:
        """What they gave; infinity for NaN."""

    def state_dict(self) -> Mapping[str, Any]:
        """All that the search has to go on with, as tensors and numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class Terms:
    """What a strategy is made with.

    `evaluations`: how many masks the budget allows in all. `generator`: all that is random. `start`: the mask of a
    ticket to begin with, fitted to the density; None: none.
    """

    space: Space
    generator: torch.Generator
    evaluations: int
    start: Tensor | None = None

    def draw(self) -> float:
        """A number from [0, 1)."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float32, device="cpu"))


@dataclass(frozen=True)
class MaskSearch:
    """A search without gradients. `budget`: forward passes of examples, `examples` of which judge one mask."""

    strategy: Callable[[Terms], Strategy]
    density: float
    scope: str = "layer"
    examples: int = 1000
    budget: int = 1_000_000
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def space(self, network: nn.Module) -> Space:
        """The masks of this density; TombolaError if the network has no prunable weight."""
        weights = prunable(network, self.include, self.exclude)
        if not weights:
            raise TombolaError(f"the network has no prunable weight: {coverage(network, self.include, self.exclude)}")
        return Space.of(weights, self.density, self.scope)


def search_masks(search: Search, seeking: MaskSearch, *, level: int = 1) -> Level:
    """The level whose ticket holds the mask of the lowest loss that the budget brought forth.

    Norm layers take their statistics from the sample, under that mask.
    """

    def find(stage: Stage | None) -> TrainedLevel:
        run = _Run(search, seeking)
        store = search.setup.store(stage)
        on_gpu = search.setup.fabric.device.type == "cuda"
        with (
            stage.writing() if stage else nullcontext(),
            search.setup.progress.track(f"masks  {seeking.density:6.1%}", run.budget) as update,
            deterministic_kernels(search.setup.options.deterministic and on_gpu),
            search.setup.sending("masks", search.seed, stage, resumed=store is not None and store.exists()) as send,
        ):
            run.go(store, send, update)
            mask = run.space.mask(run.best)
            instead = "a higher density, a layerwise scope, or a larger budget"
            check_connected(search, mask, "under the mask found", instead)
        trial = run.trial(stage)
        return TrainedLevel(trial, _ticket(search, level, mask, trial.trained.state))

    return run_level(search, level, find)


def check_mask_search(network: nn.Module, seeking: MaskSearch, start: Mask | None = None) -> None:
    """TombolaError if there is nothing to search on this network: a layer without any weight kept, or one mask only.

    Or if `start`, the mask of a ticket to begin with, is over other weights.
    """
    space = seeking.space(network)
    if start is not None and start.keys() != space.shapes.keys():
        odd = sorted(start.keys() ^ space.shapes.keys())
        raise TombolaError(f"the start mask and the model differ in {odd[0]!r}; give the same include and exclude")
    empty = [
        name
        for name, keep in space.layers(torch.arange(space.size, device="cpu")).items()
        if keep.numel() and seeking.scope == "layer" and not round(seeking.density * keep.numel())
    ]
    if empty or not space.kept:
        raise TombolaError(
            f"at density {seeking.density:g} nothing is kept of {', '.join(empty) or 'the network'}; ask for a higher "
            "density, or leave those layers out (exclude)"
        )
    if space.is_one:
        raise TombolaError(f"density is {seeking.density:g}, at which there is one mask only; ask for a lower one")


def dry_run_masks(search: Search, seeking: MaskSearch, then: Recipe | None = None) -> None:
    """Evaluate two masks and make one ticket, on copies: what cannot work says so before the search.

    `then`: the recipe of a second level, which trains the weights under the mask; None where there is none.
    """
    try_evaluation(search.setup, search.network())
    with in_words("a mask cannot be evaluated on the training split"):
        run = _Run(search, replace(seeking, examples=min(seeking.examples, 32)))
        rows = run.space.random(2, run.generator)
        losses = run.fitness(rows if run.start is None else torch.cat([rows, run.start[None]]))
    if not any(map(math.isfinite, losses)):
        raise _no_number(len(losses))
    mask = run.space.mask(rows[0])
    with in_words("the paths of the masked network cannot be followed"):
        is_cut(search.network(), mask, some_inputs(search.setup.splits))
    run.show(rows[0])
    ticket = _ticket(search, 1, mask, copy_state(run.shown))
    built = check_ticket(search, ticket, run.shown)
    if then is not None:
        try_second_level(search, built, mask, then)


def _ticket(search: Search, level: int, mask: Mask, state: State) -> Any:
    """The ticket of a mask on the origin's weights; `state`: of the network as it was evaluated."""
    buffers = {name for name, _ in search.network().named_buffers()}
    final = {name: state[name] if name in buffers else value for name, value in search.state().items()}
    return ticket_of(search, level, mask, final)


def _no_number(count: int) -> TombolaError:
    return TombolaError(
        f"all of {count:,} masks give a loss of NaN or infinity; check the network's weights and the task's loss, or "
        "ask for another density"
    )


@dataclass
class _Progress:
    """What a search has come to; all of it goes into a checkpoint.

    `done`: masks evaluated. `best`: the first one of the lowest loss so far.
    """

    done: int = 0
    best: Tensor | None = None
    loss: float = math.inf
    history: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    joules: float | None = 0.0


class _Run:
    """One search under way: the networks on the device, the strategy, and how far it is."""

    def __init__(self, search: Search, seeking: MaskSearch) -> None:
        self.search, self.setup, self.seeking = search, search.setup, seeking
        self.space, self._origin = seeking.space(search.network()), search.state()
        self.shown = self._placed(search.network())
        batches = sample_of(self.setup, self.shown, seeking.examples, search.seed)
        self.fitness = Fitness(self.setup, self._placed(search.network()), self.space, batches)
        self.evaluations = seeking.budget // self.fitness.examples
        self.budget = self.evaluations * self.fitness.examples
        self.generator = generator(search.seed, "masks")
        self.start = self._start()
        self.strategy = seeking.strategy(Terms(self.space, self.generator, self.evaluations, self.start))
        self.at = _Progress()
        self._clock = time.monotonic()
        self._meter = EnergyMeter(counters(self.setup.fabric.device))

    @property
    def best(self) -> Tensor:
        """The mask of the lowest loss so far."""
        if self.at.best is None:
            raise _no_number(self.at.done)
        return self.at.best

    def go(self, store: CheckpointStore | None, send: Send, update: Callable[..., None]) -> None:
        """Search until the budget is spent, from the store's checkpoint if there is one."""
        at, every, saved = self.at, max(1, self.evaluations // _ROWS), time.monotonic()
        if store is not None and (checkpoint := store.load()) is not None:
            self._restore(checkpoint)
        while at.done < self.evaluations:
            self._meter.poll()
            rows = self.strategy.ask(self.evaluations - at.done)
            losses = self.fitness(rows)
            self.strategy.tell(rows, losses)
            for row, loss in zip(rows, losses, strict=True):
                if loss < at.loss:
                    at.best, at.loss = row.clone(), loss
            before, at.done = at.done, at.done + len(rows)
            if at.done < self.evaluations and before // every != at.done // every and at.best is not None:
                self._log(store, send)
            update(at.done * self.fitness.examples, lambda: f"loss {at.loss:.4g}")
            if store is not None and time.monotonic() - saved >= store.every_seconds:
                store.save(self._checkpoint())
                saved = time.monotonic()

    def show(self, row: Tensor) -> None:
        """Let `shown` be the network under a mask, its norms' statistics taken from the sample."""
        weights = parameters_by_name(self.shown)
        with torch.no_grad():
            for name, keep in self.space.layers(row).items():
                weights[name].copy_(torch.where(keep, self._origin[name], 0))
        take_statistics(self.shown, (x for x, _ in self.fitness.batches), self.search.seed)

    def trial(self, stage: Stage | None) -> TrainedTrial:
        """The best mask's network, tested once on every split."""
        self.show(self.best)
        return evaluate_trial(
            self.setup,
            self.shown,
            stage=stage,
            history=tuple(self.at.history),
            row=self._row(),
            cost=self._cost(),
        )

    def _log(self, store: CheckpointStore | None, send: Send) -> None:
        """A row: the best mask so far on the validation split."""
        self.show(self.best)
        val = self.setup.scorer(self.shown, self.setup.splits.val)()
        row = replace(self._row(), val_loss=val.loss, val_accuracy=val.metric)
        self.at.history.append(row)
        if store is not None:
            store.add_row(row)
        send(row)

    def _row(self) -> Row:
        passes = self.at.done * self.fitness.examples
        epoch = passes / len(self.setup.splits.train)
        nan = math.nan
        return Row(self.at.done, epoch, 0.0, self.at.loss, nan, nan, nan, round(self._seconds(), 3))

    def _cost(self) -> TrainingCost:
        x = self.fitness.batches[0][0]
        try:
            flops = flops_of_call(lambda: self.shown.eval()(x))
        except Exception:  # of a network that cannot be counted
            flops = None
        passes = self.at.done * self.fitness.examples
        return TrainingCost(
            flops=None if flops is None else round(flops * passes / len(x)),
            forward_passes=passes,
            energy_joules=self._joules(),
        )

    def _seconds(self) -> float:
        return self.at.seconds + time.monotonic() - self._clock

    def _joules(self) -> float | None:
        now = self._meter.joules()
        return None if now is None or self.at.joules is None else self.at.joules + now

    def _checkpoint(self) -> Checkpoint:
        at = self.at
        best = {} if at.best is None else {"best": at.best}
        snapshot = Snapshot(at.done, best, {}, (self.strategy.state_dict(),), (self.generator.get_state(),))
        return Checkpoint(
            snapshot,
            sums={"loss": at.loss},
            seconds=self._seconds(),
            best=None,
            history=tuple(at.history),
            joules=self._joules(),
        )

    def _restore(self, saved: Checkpoint) -> None:
        at, snapshot = self.at, saved.snapshot
        at.done, at.best, at.loss = snapshot.step, snapshot.model.get("best"), saved.sums["loss"]
        at.history, at.seconds, at.joules = list(saved.history), saved.seconds, saved.joules
        self.strategy.load_state_dict(snapshot.hooks[0])
        self.generator.set_state(snapshot.generators[0])

    def _placed(self, model: nn.Module) -> nn.Module:
        model.to(self.setup.fabric.device)
        if layout(model, self.setup.recipe):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        return model

    def _start(self) -> Tensor | None:
        """The mask of the ticket that the search goes on from, fitted to the density at random."""
        mask = self.search.mask
        if mask is None:
            return None
        return self.space.fitted(self.space.row(mask), generator(self.search.seed, "start"))
