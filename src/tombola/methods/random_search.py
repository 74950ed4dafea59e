"""Random search: the best of many random masks, the baseline of every search over masks.

What `RandomSearch` finds is what luck alone gives for the same number of forward passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola.methods.gradient_free import GradientFree

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.levels import Terms

_AT_ONCE = 16


@dataclass(frozen=True)
class RandomSearch(GradientFree):
    """Draw masks at random and keep the best: what the other searches without gradients have to beat.

    Weights rest; networks by name are drawn as signed Kaiming constants unless init says otherwise. From a ticket
    (--start) its mask, fitted to the density at random, is the first that is tried.
    """

    name: ClassVar[str] = "random-search"
    version: ClassVar[int] = 1

    def strategy(self, terms: Terms) -> Drawing:
        """Masks drawn uniformly."""
        return Drawing(terms)


class Drawing:
    """Masks drawn uniformly, after that of a ticket if there is one."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self.begun = terms, terms.start is None

    def ask(self, room: int) -> Tensor:
        """So many new ones."""
        if not self.begun and self.terms.start is not None:
            return self.terms.start[None]
        return self.terms.space.random(min(room, _AT_ONCE), self.terms.generator)

    def tell(self, rows: Tensor, losses: Sequence[float]) -> None:
        """Nothing is learned from them."""
        self.begun = True

    def state_dict(self) -> Mapping[str, Any]:
        """Whether the first one was tried."""
        return {"begun": self.begun}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.begun = state["begun"]
