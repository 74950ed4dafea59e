"""SNIP (Lee et al. 2019): prune once, before training: tombola find examples.snip.Snip."""

from dataclasses import dataclass

import tombola as tb
from tombola.levels import Level, Search, context_of, train_under


@dataclass(frozen=True)
class Snip(tb.Method):
    """Keep the weights on which the loss at initialisation depends most, and train them.

    A weight's score is |g·w|, g being the gradient of the training loss.

    Args:
        density: fraction of weights kept, over all layers together
        batches: how many batches of the training the gradient is taken over
    """

    density: float = 0.05
    batches: int = 1

    def find(self, search: Search) -> list[Level]:
        """One level, its weights from the start."""

        def mask() -> tb.Mask:
            context = context_of(search)
            gradient = context.gradients("initial", self.batches)
            scores = {name: (gradient[name] * w).abs() for name, w in context.initial.items()}
            return tb.select(scores, density=self.density, scope="global")

        return [train_under(search, mask)]
