"""Signed supermasks (Koster et al. 2022, "Keep, hide, invert"): every random weight is kept, dropped or flipped.

`SignedSupermask.definition` is the method (weights w, scores s, g = dL/d(effective weight)); the weights stay as they
were drawn. The authors' threshold is 0.01 by default, and scores begin Xavier-uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Definition, SupermaskMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask


@dataclass(frozen=True)
class SignedSupermask(SupermaskMethod):
    """Learn a mask of -1, 0 and +1 over random weights that are never trained; the density is an outcome.

    Weight decay draws the scores under the threshold and so makes the mask sparse. Networks by name are drawn as
    signed Kaiming constants unless init says otherwise, so that every layer's weights end up ternary.

    Args:
        threshold: scores up to this magnitude give 0, others their sign; it must lie below the initial scores
        scores: how scores are initialised: the name of an initialisation
        train_norms: train scale and bias of norm layers along with the scores
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "signed-supermask"
    version: ClassVar[int] = 1
    trains_scores_only: ClassVar[bool] = True

    threshold: float = 0.01
    scores: str = "xavier_uniform"
    train_norms: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """Scores over the threshold keep the weight, those under its negative invert it, all between hide it."""
        mask = (s > self.threshold).to(w) - (s < -self.threshold).to(w)
        return Definition(w * mask, g * w)

    def init(self) -> str:
        """The initialisation of networks by name that are given none."""
        return "signed_constant"

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network: a layer is empty from the start, for one."""
        from tombola.supermask.masks import read

        super().check(network, steps_per_epoch, total, mask)
        if empty := read(network).empty_layers():
            raise TombolaError(
                f"threshold is {self.threshold:g}, above every first score of {', '.join(empty)}, so that no gradient "
                "would pass; lower it"
            )

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.rules import Signed

        return levels.Learning(
            rule=Signed(self.threshold),
            scores=self.scores,
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.train_norms else "frozen",
        )
