"""Simulated annealing over masks (Kirkpatrick et al. 1983): swaps that lower the loss, and at first some that do not.

From a mask m, `block` of the kept weights are exchanged for pruned ones, which gives m'. The move is taken if
ΔL = L(m') - L(m) <= 0, else with probability exp(-ΔL / T). At the fraction t of the budget

    T = T_0^(1-t) · T_1^t        block = max(1, round(kept · b_0^(1-t) · b_1^t)).

Where no T_0 is given, it is the mean |ΔL| of the first moves, times `heat`; T_1 is a fraction of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola.errors import TombolaError
from tombola.methods.gradient_free import GradientFree

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.levels import Terms

TRIALS = 20
"""Moves from the first mask whose mean |ΔL| is the first temperature, where none is given."""


@dataclass(frozen=True)
class Anneal(GradientFree):
    """Search a mask by simulated annealing: kept and pruned weights are swapped, at a falling temperature.

    Weights rest; networks by name are drawn as signed Kaiming constants unless init says otherwise. From a ticket
    (--start) the search begins with its mask, fitted to the density at random.

    Args:
        block: fraction of the kept weights that a move swaps at first; it falls geometrically with the temperature
        final_block: that fraction at the end; at least one weight is swapped
        temperature: loss by which a move may be worse at first (null: heat times the mean change of 20 first moves)
        heat: factor of the first temperature where that is not given
        cooling: the last temperature over the first
    """

    name: ClassVar[str] = "anneal"
    version: ClassVar[int] = 1

    block: float = 0.05
    final_block: float = 0.0005
    temperature: float | None = None
    heat: float = 0.1
    cooling: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = ("block", "final_block", "cooling")
        for name in fractions:
            if not 0 < getattr(self, name) <= 1:
                raise TombolaError(f"{name} is {getattr(self, name)}, but it must lie in (0, 1]")
        for name in ("temperature", "heat"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise TombolaError(f"{name} is {value}; it must be a number above 0")

    def strategy(self, terms: Terms) -> Annealing:
        """The walk."""
        return Annealing(self, terms)


class Annealing:
    """One walk from mask to mask."""

    def __init__(self, options: Anneal, terms: Terms) -> None:
        self.options, self.terms = options, terms
        self.here: Tensor | None = None
        self.loss = math.inf
        self.temperature = options.temperature
        self.changes: list[float] = []

    def ask(self, room: int) -> Tensor:
        """A neighbour; first of all the mask to begin with."""
        space, generator = self.terms.space, self.terms.generator
        self.t = 1 - room / self.terms.evaluations
        if self.here is None:
            start = self.terms.start
            return space.random(1, generator) if start is None else start[None]
        count = max(1, round(space.kept * between(self.options.block, self.options.final_block, self.t)))
        return space.swapped(self.here, count, generator)[None]

    def tell(self, rows: Tensor, losses: Sequence[float]) -> None:
        """Go there, or stay."""
        (loss,) = losses
        if self.here is None:
            self.here, self.loss = rows[0].clone(), loss
        elif self.temperature is None and len(self.changes) < TRIALS:  # how rough it is around here
            change = abs(loss - self.loss)
            self.changes.append(change if math.isfinite(change) else 0.0)
            if loss < self.loss:
                self.here, self.loss = rows[0].clone(), loss
        elif self.accepts(loss):
            self.here, self.loss = rows[0].clone(), loss

    def accepts(self, loss: float) -> bool:
        """The rule of Metropolis."""
        if loss <= self.loss:
            return True
        first = self.temperature or self.options.heat * sum(self.changes) / len(self.changes)
        temperature = between(first, first * self.options.cooling, self.t)
        return temperature > 0 and self.terms.draw() < math.exp(-(loss - self.loss) / temperature)

    def state_dict(self) -> Mapping[str, Any]:
        """The mask, its loss, and how the loss changed at first."""
        return {"here": self.here, "loss": self.loss, "changes": list(self.changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.here, self.loss, self.changes = state["here"], state["loss"], list(state["changes"])


def between(first: float, last: float, t: float) -> float:
    """first^(1-t) · last^t: geometrically from the first to the last.

    Example:
        >>> between(4.0, 1.0, 0.5)
        2.0
    """
    return first * (last / first) ** t if first else 0.0
