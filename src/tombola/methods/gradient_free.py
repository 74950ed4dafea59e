"""What the searches without gradients share: random weights that rest, masks of one density, and a budget.

A mask m of density d is judged by its mean training loss L(w·m) on a fixed sample of the training split, of
`examples` examples; it costs as many forward passes. The mask of the lowest loss within the budget is the ticket's.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Method, check_not_negative, is_nothing

if TYPE_CHECKING:
    from torch import nn

    from tombola.mask import Mask
    from tombola.train.recipe import Recipe


@dataclass(frozen=True)
class GradientFree(Method):
    """A search without gradients: `strategy` says which masks are tried.

    Args:
        density: fraction of weights that every mask keeps
        scope: layer (every layer holds the density) or global (all layers together)
        examples: training examples on which every mask is judged, drawn once; at most all of them
        budget: forward passes of examples, in all; divided by examples it is the number of masks that are tried
        finetune: length of a second level in which the mask is frozen and the weights are trained; 0it for none
        finetune_lr: learning rate of that level
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    trains_scores_only: ClassVar[bool] = True
    goes_on_from_tickets: ClassVar[bool] = True

    density: float = 0.5
    scope: str = "layer"
    examples: int = 1000
    budget: int = 10_000_000
    finetune: str = "0it"
    finetune_lr: float = 0.01
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        is_nothing(self.finetune)
        check_not_negative(finetune_lr=self.finetune_lr)
        if self.examples < 1:
            raise TombolaError(f"examples is {self.examples}; a mask is judged on at least one")
        if self.budget < self.examples:
            raise TombolaError(
                f"budget is {self.budget}, less than one mask takes on {self.examples} examples; raise it, or lower "
                "examples"
            )

    @abstractmethod
    def strategy(self, terms: levels.Terms) -> levels.Strategy:
        """Which masks are tried."""

    def init(self) -> str:
        """The initialisation of networks by name that are given none."""
        return "signed_constant"

    def seeking(self) -> levels.MaskSearch:
        """These options as a search over masks."""
        return levels.MaskSearch(
            self.strategy, self.density, self.scope, self.examples, self.budget, self.include, self.exclude
        )

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if there is nothing to search on this network, or the mask to start from is not over it."""
        levels.check_mask_search(network, self.seeking(), mask)

    def dry_run(self, search: levels.Search) -> None:
        """Two masks evaluated and one ticket made, on copies; TombolaError for what cannot work."""
        levels.dry_run_masks(search, self.seeking(), self._second(search))

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Level 1 finds the mask; level 2, if asked for, trains the weights under it."""
        found = levels.search_masks(search, self.seeking())
        recipe = self._second(search)
        return [found] if recipe is None else [found, levels.fine_tune(search, found, recipe)]

    def _second(self, search: levels.Search) -> Recipe | None:
        return levels.second_recipe(search, self.finetune, self.finetune_lr)
