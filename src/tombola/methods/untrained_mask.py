"""The mask alone (Zhou et al. 2019): a mask drawn from trained weights, on weights that nothing trains.

Level 0 trains all weights from w_i to w_f. Each later level draws its mask from (w_i, w_f) in one shot, as imp's first
level does, and tests it as it stands: on w_i, or on sign(w_i)·std(w_i of the layer).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from tombola.errors import TombolaError
from tombola.methods.imp import IterativePruning
from tombola.names import check_known

if TYPE_CHECKING:
    from tombola.levels.prune import Counts
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask

WEIGHTS = ("init", "signed_constant")


@dataclass(frozen=True)
class UntrainedMask(IterativePruning):
    """Draw masks of several densities from one trained network, and test each on untrained weights.

    Args:
        weights: init (the initial weights), or signed_constant (their sign times their layer's standard deviation)
        densities: fractions kept, instead of density or levels; each is shared out over the layers as the last of
            `rounds` rounds does
    """

    name: ClassVar[str] = "untrained-mask"
    version: ClassVar[int] = 1
    goes_on_from_tickets: ClassVar[bool] = False

    weights: str = "init"
    densities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("weights", self.weights, WEIGHTS)
        if self.densities is not None:
            object.__setattr__(self, "densities", tuple(self.densities))
            if self.density is not None or self.levels is not None:
                raise TombolaError("densities are given, and density or levels too; leave those out")

    def find(self, search: Search) -> list[Level]:
        """Run the search; each level but the first is a mask on untrained weights."""
        from tombola.levels.untrained import WEIGHTS, untrained_levels

        return untrained_levels(search, self.pruning(), WEIGHTS[self.weights])

    def plan(self, mask: Mask, output: str, whole: Collection[str] = ()) -> Sequence[Counts]:
        """As imp's; of `densities` the last level's counts of each."""
        if self.densities is None:
            return super().plan(mask, output, whole)
        options: Mapping[str, Any] = {"densities": None, "levels": None}
        plans = [replace(self, density=density, **options).plan(mask, output, whole) for density in self.densities]
        return [plans[0][0], *(plan[-1] for plan in plans)]
