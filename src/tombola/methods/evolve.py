"""A genetic algorithm over masks (Altmann et al. 2024; Schönberger et al. 2025), at a density that always holds.

A generation of `population` masks is made of the `elite` best of the last one, of `migrants` drawn at random, and of
children. A child has two parents, each the best of `tournament` drawn at random; where they agree it is as they are, of
the rest as many weights as are missing are kept, drawn at random (uniform crossover); then a fraction `mutation` of its
kept weights is swapped for pruned ones. The papers' fitness is accuracy, then sparsity; here it is the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola.errors import TombolaError
from tombola.methods.gradient_free import GradientFree

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.levels import Terms


@dataclass(frozen=True)
class Evolve(GradientFree):
    """Search a mask by a genetic algorithm: tournaments, crossover and swaps, generation after generation.

    Weights rest; networks by name are drawn as signed Kaiming constants unless init says otherwise. From a ticket
    (--start) its mask, fitted to the density at random, is one of the first generation.

    Args:
        population: masks of a generation
        elite: the best of a generation, which go on as they are
        migrants: masks of a generation that are drawn at random
        tournament: masks drawn at random, of which the best one becomes a parent
        crossover: probability that a child has two parents and not one
        mutation: fraction of a child's kept weights that are swapped for pruned ones; at least one weight
    """

    name: ClassVar[str] = "evolve"
    version: ClassVar[int] = 1

    population: int = 20
    elite: int = 2
    migrants: int = 1
    tournament: int = 5
    crossover: float = 1.0
    mutation: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("population", 2), ("elite", 1), ("migrants", 0), ("tournament", 1)):
            if getattr(self, name) < least:
                raise TombolaError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("crossover", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise TombolaError(f"{name} is {getattr(self, name)}, but it must lie in [0, 1]")
        if self.elite + self.migrants >= self.population:
            raise TombolaError(
                f"elite {self.elite} and migrants {self.migrants} leave no room for children in a population of "
                f"{self.population}; make it larger"
            )

    def strategy(self, terms: Terms) -> Evolution:
        """The generations."""
        return Evolution(self, terms)


class Evolution:
    """The present generation, best first."""

    def __init__(self, options: Evolve, terms: Terms) -> None:
        self.options, self.terms = options, terms
        self.rows: Tensor | None = None
        self.losses: list[float] = []

    def ask(self, room: int) -> Tensor:
        """The new masks of the next generation."""
        import torch

        options, terms = self.options, self.terms
        if self.rows is None:
            first = terms.space.random(options.population, terms.generator)
            if terms.start is not None:
                first[0] = terms.start
            return first[:room]
        children = [self.child(self.rows) for _ in range(options.population - options.elite - options.migrants)]
        return torch.cat([torch.stack(children), terms.space.random(options.migrants, terms.generator)])[:room]

    def tell(self, rows: Tensor, losses: Sequence[float]) -> None:
        """The elite and the new ones are the next generation; of equal ones the older are before."""
        import torch

        from tombola.levels.population import best_first

        elite = self.options.elite
        if self.rows is not None:
            rows, losses = torch.cat([self.rows[:elite], rows]), [*self.losses[:elite], *losses]
        order = best_first(losses)
        self.rows, self.losses = rows[order], [losses[index] for index in order]

    def child(self, rows: Tensor) -> Tensor:
        """A mask made of one or two of the present generation."""
        space, generator, options = self.terms.space, self.terms.generator, self.options
        made = rows[self.parent()]
        if self.terms.draw() < options.crossover:
            made = space.crossed(made, rows[self.parent()], generator)
        return space.swapped(made, max(1, round(options.mutation * space.kept)), generator)

    def parent(self) -> int:
        """The best of some drawn at random, which is the first of them, as the best stand first."""
        import torch

        drawn = torch.randint(
            len(self.losses), (self.options.tournament,), generator=self.terms.generator, device="cpu"
        )
        return int(drawn.min())

    def state_dict(self) -> Mapping[str, Any]:
        """The generation and its losses."""
        return {"rows": self.rows, "losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.rows, self.losses = state["rows"], list(state["losses"])
