"""How the density falls while a network trains: the cubic schedule of Zhu & Gupta 2017, "To prune, or not to prune"."""

from __future__ import annotations

from dataclasses import dataclass

from tombola.errors import TombolaError
from tombola.fields import check_counts, check_fields
from tombola.select.checks import checked_density

__all__ = ["Cubic", "cubic"]


def cubic(step: int, *, begin: int, end: int, initial: float, final: float) -> float:
    """final + (initial - final)·(1 - (step - begin) / (end - begin))³, constant before and after.

    Equation 1 of Zhu & Gupta 2017, whose sparsities are 1 - density.

    >>> [cubic(step, begin=2, end=6, initial=1.0, final=0.5) for step in (0, 2, 4, 6, 8)]
    [1.0, 1.0, 0.5625, 0.5, 0.5]
    """
    if step >= end:
        return final  # to the bit
    left = 1.0 if step <= begin else 1.0 - (step - begin) / (end - begin)
    return final + (initial - final) * left**3


@dataclass(frozen=True)
class Cubic:
    """When a network is pruned further, counted in steps of the optimiser, and how far.

    Half of what will go has gone after a fifth of the way: what is pruned early is what hurts least, and the network
    has the rest of the training to recover.

    Args:
        end: the step at which the final density is reached; train on for a while after it.
        begin: the step before which nothing is pruned, so that the network is trained first (warm-up).
        frequency: steps from one pruning to the next; the last one is at `end` in any case.
        initial: density at `begin`.

    >>> schedule = tb.Cubic(begin=100, end=500, frequency=200)
    >>> [(step, schedule.density(step, 0.5)) for step in range(700) if schedule.is_due(step)]
    [(100, 1.0), (300, 0.5625), (500, 0.5)]
    """

    end: int
    begin: int = 0
    frequency: int = 100
    initial: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_counts(frequency=self.frequency)
        if not 0 <= self.begin < self.end:
            raise TombolaError(f"begin is {self.begin} and end {self.end}; give steps 0 <= begin < end")
        checked_density(self.initial, " initial")

    def density(self, step: int, final: float) -> float:
        """The density after so many steps, on the way to `final`."""
        return cubic(step, begin=self.begin, end=self.end, initial=self.initial, final=final)

    def is_due(self, step: int) -> bool:
        """Whether the network is pruned after this step."""
        due = (step - self.begin) % self.frequency == 0 or step == self.end
        return self.begin <= step <= self.end and due
