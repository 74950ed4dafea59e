"""Taylor pruning (Molchanov et al. 2019): prune once, after training: tombola find examples.taylor.Taylor."""

from dataclasses import dataclass

import tombola as tb
from tombola.levels import Level, Search, context_of, train_dense, train_under


@dataclass(frozen=True)
class Taylor(tb.Method):
    """Train, keep the weights whose removal would change the loss most, to first order, and train those on.

    A weight's score is (g·w)², g being the gradient of the training loss at the trained weights.

    Args:
        density: fraction of weights kept, over all layers together
        batches: how many batches of the training the gradient is taken over
    """

    density: float = 0.3
    batches: int = 10

    def find(self, search: Search) -> list[Level]:
        """Level 0 is the dense network; level 1 goes on from its weights."""
        dense = train_dense(search)

        def mask() -> tb.Mask:
            context = context_of(search, dense)
            gradient = context.gradients("final", self.batches)
            scores = {name: (gradient[name] * w).square() for name, w in context.final.items()}
            return tb.select(scores, density=self.density, scope="global")

        return [dense, train_under(search, mask, after=dense, weights="trained")]
