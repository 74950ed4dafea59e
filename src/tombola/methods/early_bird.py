"""Early-bird tickets (You et al. 2020): channels whose norms have the largest scales, drawn early in the training.

A unit is a set of channels that are kept or removed together; its score is the mean of |scale| over the norms that it
passes. At the start of every epoch the mask keeps the round(density·n) units of the largest score, over the whole
network:

    M_e = 1[score_e among the largest],    distance(M, M') = fraction of the n units in which they differ.

Level 0 trains all weights, with pressure·sign(scale) added to the gradient of every scale, and draws the ticket as soon
as the last five distances between successive masks all lie below 0.1. Level 1 is the network without the other
channels, really smaller, trained on.

Units are read from the traced network. As the authors do, the channels of residual streams are kept, unless `residual`
is set: then a stream's channel is one unit over all layers that add to it.
Defaults are theirs: pressure 1e-4, window 5, distance 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola.errors import TombolaError
from tombola.methods.base import WatchedMethod, check_density, check_not_negative, is_nothing, with_norms
from tombola.names import check_known
from tombola.train.length import END, steps

if TYPE_CHECKING:
    from torch import nn

    from tombola.levels.channels import ChannelPruning
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec

RETRAIN = ("continue", "scratch")


@dataclass(frozen=True)
class EarlyBird(WatchedMethod):
    """Watch the channels that the norms' scales would keep, draw the ticket once they are stable, train it on smaller.

    Args:
        density: fraction of channels kept, of those that can be removed and that a norm scales
        watch: further densities whose masks are watched beside, e.g. [0.3, 0.7]
        pressure: strength of the L1 penalty on the norms' scales
        draw_at: when the ticket is drawn whatever its mask does: a length such as 10ep, or end (null: once stable)
        retrain: continue (on from where the ticket was drawn, along the schedule) or scratch (from the initial weights)
        residual: prune the channels of residual streams too, each as one over all layers that add to it
        search_precision: precision of the search alone (null: the recipe's)
        stop_when_stable: end the search when the ticket is drawn, and not at the end of the recipe
    """

    name: ClassVar[str] = "early-bird"
    version: ClassVar[int] = 1

    density: float = 0.5
    watch: tuple[float, ...] = ()
    pressure: float = 1e-4
    draw_at: str | None = None
    retrain: str = "continue"
    residual: bool = False
    search_precision: str | None = None
    stop_when_stable: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for density in self.watch:
            check_density(density)
        check_not_negative(pressure=self.pressure)
        check_known("retrain", self.retrain, RETRAIN)
        if self.draw_at not in (None, END) and is_nothing(self.draw_at):
            raise TombolaError(f"draw_at is {self.draw_at}, when all scales are equal; draw after some training")
        if self.search_precision is not None:
            from tombola.train.recipe import PRECISIONS

            check_known("search_precision", self.search_precision, PRECISIONS)

    def find(self, search: Search) -> list[Level]:
        """Level 0 searches and draws the ticket, level 1 trains it as a smaller network."""
        from tombola.levels.channels import draw_channels, train_small

        drawn = draw_channels(search, self.pruning())
        return [drawn, train_small(search, self.pruning(), drawn)]

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if the ticket would be drawn before the first iteration, or after the end of the training."""
        if self.draw_at is None or self.draw_at == END:
            return
        at = steps(self.draw_at, steps_per_epoch)
        if at < 1:
            raise TombolaError(
                f"draw_at is {self.draw_at}, not one of {steps_per_epoch} iterations an epoch; draw after some training"
            )
        if at > total:
            raise TombolaError(f"draw_at is {self.draw_at}, but training ends at iteration {total:,}; draw earlier")

    def dry_run(self, search: Search) -> None:
        """One step of both levels on copies; TombolaError for what cannot work."""
        from tombola.levels.channels import dry_run

        dry_run(search, self.pruning())

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks with norms that have scales, also where it has none by default."""
        return with_norms(spec)

    def pruning(self) -> ChannelPruning:
        """These settings as axes of the search."""
        from tombola.levels.channels import ChannelPruning

        return ChannelPruning(
            density=self.density,
            watching=self.watching(),
            pressure=self.pressure,
            watch=self.watch,
            draw_at=self.draw_at,
            precision=self.search_precision,
            scratch=self.retrain == "scratch",
            residual=self.residual,
        )
