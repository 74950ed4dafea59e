"""The rewind point: level 0 trains up to it and no further; what draws its mask elsewhere trains on from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tombola.levels.rewind import Rewind
from tombola.levels.search import Level, Search
from tombola.levels.stage import TrainedLevel, check_connected, run_level, ticket_of, train_dense
from tombola.mask import Mask
from tombola.runs.stage import REWIND, Stage
from tombola.select.select import warn_of_empty
from tombola.ticket.origin import Origin
from tombola.train.checkpoint import Snapshot, load_snapshot
from tombola.train.hooks import Hook
from tombola.train.state import Loop
from tombola.train.trial import train_trial


class StopAt(Hook):
    """Ends the training with a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, loop: Loop) -> None:
        if loop.step == self.step:
            loop.stop(f"rewind point, iteration {self.step:,}")


@dataclass(frozen=True)
class RewindPoint:
    """Where weights return to: the search's origin, or what level 0 was at a step (`snapshot`), as an origin."""

    origin: Origin
    snapshot: Snapshot | None = None

    @property
    def step(self) -> int:
        """In iterations; 0 is initialisation."""
        return 0 if self.snapshot is None else self.snapshot.step


def train_to(search: Search, rewind: Rewind, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Level]:
    """Level 0, which trains all weights up to the rewind point and keeps all there is there; none for step 0.

    Its result says that its training was stopped, so that it is not taken for the dense network.

    Args:
        include, exclude: name patterns of the weights that are prunable, as in `prunable`.
    """
    step = rewind.step(search.setup.steps_per_epoch, search.setup.total_steps)
    if not step:
        return []
    return [train_dense(search, include=include, exclude=exclude, hooks=[StopAt(step)], capture=step)]


def kept_snapshot(search: Search, level: Level) -> Snapshot | None:
    """What a finished level kept of the rewind point, for another training; None if it kept none."""
    stage = search.stage(f"level-{level.level:02d}")
    snapshot = level.rewind if stage is None else load_snapshot(stage.directory / REWIND)
    return None if snapshot is None else replace(snapshot, hooks=())  # which watched another training


def rewind_point(search: Search, before: Sequence[Level]) -> RewindPoint:
    """The point that `train_to` has trained to, of the levels that it gave."""
    snapshot = kept_snapshot(search, before[0]) if before else None
    return RewindPoint(search.origin if snapshot is None else origin_at(search, snapshot), snapshot)


def origin_at(search: Search, snapshot: Snapshot) -> Origin:
    """The network of a snapshot, as what a ticket trains from."""
    return Origin.stored(snapshot.model, network=search.origin.network, init=search.origin.init)


def train_on(search: Search, point: RewindPoint, mask: Mask, number: int) -> Level:
    """The level of that number: from the rewind point to the end of the recipe, pruned weights held at 0.

    Raises:
        TombolaError: the mask leaves no path from the input to the output.
    """

    def train(stage: Stage | None) -> TrainedLevel:
        if empty := mask.empty_layers():
            warn_of_empty(empty)
        check_connected(search, mask, "under the mask", "a higher density, or a layerwise scope")
        trial = train_trial(
            search.setup,
            search.network(),
            seed=search.seed,
            label=f"level {number}  {mask.density:6.1%}",
            mask=mask,
            start=point.snapshot,
            stage=stage,
        )
        ticket = ticket_of(search, number, mask, trial.trained.state, origin=point.origin, rewound_steps=point.step)
        return TrainedLevel(trial, ticket)

    return run_level(search, number, train)
