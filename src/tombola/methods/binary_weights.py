"""Weight-trained binary networks, the baseline of multi-prize tickets (XNOR-Net, Rastegari et al. 2016).

`BinaryWeights.definition` is the method (latent weights w, g = dL/d(effective weight)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.methods.base import Definition, SupermaskMethod, binary_form, binary_rewrites, mean_size, sign

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.models.spec import ModelSpec
    from tombola.train.hooks import Hook


@dataclass(frozen=True)
class BinaryWeights(SupermaskMethod):
    """Train binary weights: the signs of latent weights, times the layer's mean magnitude; nothing is pruned.

    The gradient passes straight through the sign where |w| <= 1 and is 0 elsewhere. Norms and biases are trained.

    Args:
        activations: float or binary
        per_channel: one scale per output channel instead of one per layer
        include: name patterns of further parameters to binarise
        exclude: name patterns of weights that stay float, e.g. ["conv1.*", "fc.*"]
    """

    name: ClassVar[str] = "binary-weights"
    version: ClassVar[int] = 1

    activations: str = "float"
    per_channel: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """α·sign(w), α the mean of |w|; the gradient passes the sign where |w| <= 1. There are no scores to learn."""
        alpha = mean_size(w, w.new_ones(w.shape), self.per_channel)
        return Definition(alpha * sign(w), None, g * alpha * (w.abs() <= 1))

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        return binary_form(spec, self.activations, affine=True)

    def settles(self, steps_per_epoch: int, total: int) -> None:
        """Never: there is no mask to learn."""
        return None

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """Scores rest, weights learn."""
        return [levels.Phases(lambda step: (False, True))]

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation: a mask that keeps everything, whose scores rest."""
        from tombola.supermask.represent import Binary
        from tombola.supermask.rules import TopK
        from tombola.supermask.weights import Masked

        return levels.Learning(
            rule=TopK(1.0),
            weights=Masked(),
            represent=Binary(self.per_channel),
            include=self.include,
            exclude=self.exclude,
            hooks=self.hooks,
            rewrites=binary_rewrites(network, self.activations, self.include, self.exclude),
        )
