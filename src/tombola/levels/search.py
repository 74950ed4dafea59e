"""A search: what it starts from, where its stages go, and the levels that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import asdict
from torch import nn

from tombola.mask import Mask
from tombola.results.trial import LayerResult, LevelResult
from tombola.runs.stage import METRICS, TICKET, Stage
from tombola.ticket.origin import Origin
from tombola.ticket.ticket import Ticket
from tombola.train.checkpoint import Snapshot, State
from tombola.train.trial import TrainingSetup, Trial

DENSE = "level-00"
"""The stage of level 0."""


@dataclass(frozen=True)
class Search:
    """What a search starts from, and where its stages go (None: nowhere, all stays in memory).

    `architecture` stands in for the network of a user's own model, which cannot be built by name.
    `mask`: what a ticket that the search starts from (`start`) keeps; None: everything.
    `dense`: the prefix under which level 0 lies, where several searches share it; None: this search's own.
    """

    setup: TrainingSetup
    origin: Origin
    seed: int
    provenance: Mapping[str, Any]
    architecture: nn.Module | None = None
    trusted: tuple[str, ...] = ()
    directory: Path | None = None
    prefix: str = ""
    mask: Mask | None = None
    dense: str | None = None
    start: Ticket | None = None

    def network(self, origin: Origin | None = None) -> nn.Module:
        """A fresh module at the origin."""
        return (origin or self.origin).network_module(self.architecture, self.trusted)

    def state(self) -> State:
        """The origin's full state, on the CPU."""
        return self.origin.state_dict(self.architecture, self.trusted)

    def stage(self, name: str) -> Stage | None:
        """The stage of that name under this search's prefix."""
        return Stage(self.directory / self.path(name), self.setup.ranks) if self.directory else None

    def path(self, name: str) -> str:
        """A stage's path relative to the run directory."""
        prefix = self.prefix if self.dense is None or name != DENSE else self.dense
        return f"{prefix}/{name}" if prefix else name


@dataclass(frozen=True)
class Level:
    """One round: its ticket and its figures.

    `rewind`: the state that later levels start from, in a search that keeps everything in memory.
    """

    level: int
    ticket: Ticket
    result: LevelResult
    rewind: Snapshot | None = None


def level_result(
    level: int, mask: Mask, trial: Trial, path: str, barred: Mapping[str, int] | None = None
) -> LevelResult:
    """The figures of one trained network under a mask; its files lie in `path`, relative to the run's directory.

    `barred`: layer -> how many of its kept weights the criterion bars (`barred_kept`).
    """
    barred = barred or {}
    return LevelResult(
        **asdict(trial.result),
        level=level,
        density=mask.density,
        kept=mask.kept,
        total=mask.total,
        barred_kept=sum(barred.values()),
        layers=tuple(
            LayerResult(name=name, kept=kept, total=total, barred_kept=barred.get(name))
            for name, (kept, total) in mask.counts().items()
        ),
        metrics=f"{path}/{METRICS}",
        ticket=f"{path}/{TICKET}",
    )
