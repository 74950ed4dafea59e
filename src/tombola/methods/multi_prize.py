"""Multi-prize tickets (Diffenderfer & Kailkhura 2021): binary networks found by masking random weights alone.

`MultiPrize.definition` is the method (weights w, scores s, g = dL/d(effective weight)); the weights stay as they were
drawn, Kaiming normal. The authors train the scores as edge-popup does; with binary activations y = sign(x),
dy/dx = 2(1 - |x|) where |x| <= 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import (
    Definition,
    SupermaskMethod,
    binary_form,
    binary_rewrites,
    check_not_negative,
    is_nothing,
    mean_size,
    sign,
)
from tombola.methods.edge_popup import annealed, check_anneal, check_fall, largest
from tombola.names import check_known
from tombola.train.length import steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec
    from tombola.supermask.rules import TopK
    from tombola.train.hooks import Hook

NORMS = ("fixed", "trained", "tuned")


@dataclass(frozen=True)
class MultiPrize(SupermaskMethod):
    """Learn which random weights to keep in a binary network: their signs, times one scale per layer.

    The effective weight is alpha·sign(w)·M with alpha the mean of |w| over what is kept. With binary activations
    (MPT-1/1) Tombola's own networks take the order convolution, pool, norm, activation, with norms inserted; other
    models have their ReLUs replaced.

    Args:
        density: fraction of weights kept
        scope: layer or global
        anneal: length over which the density falls from 0.5 to its value, cubically, e.g. "10ep"; 0it for none
        activations: float (MPT-1/32) or binary (MPT-1/1)
        per_channel: one scale per output channel instead of one per layer
        norms: fixed (no scale and bias), trained (along with the scores), or tuned (in a second level, once the mask
            is found)
        tune: length of that second level
        tune_lr: learning rate of that second level
        whole: name patterns of weights that are binary but not masked, such as the first or last layer's
        scores: how scores are initialised: the name of an initialisation
        scale_fan: draw the weights for a fan of fan_in times density
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone (random, float), e.g. ["fc.*"]
    """

    name: ClassVar[str] = "multi-prize"
    version: ClassVar[int] = 1
    trains_scores_only: ClassVar[bool] = True
    tunes_norms: ClassVar[bool] = True

    density: float = 0.5
    scope: str = "layer"
    anneal: str = "0it"
    activations: str = "float"
    per_channel: bool = False
    norms: str = "fixed"
    tune: str = "10ep"
    tune_lr: float = 0.01
    whole: tuple[str, ...] = ()
    scores: str = "torch_default"
    scale_fan: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("norms", self.norms, NORMS)
        check_fall(self.anneal, self.density)
        if self.norms == "tuned" and is_nothing(self.tune):
            raise TombolaError(f"norms are tuned, but tune is {self.tune}; ask for a length such as 10ep")
        check_not_negative(tune_lr=self.tune_lr)

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """Edge-popup whose kept weights count by their sign, times α = Σ|w|M / ΣM.

        The scores' gradient takes w for α·sign(w), as the authors' code does; sign(0) = +1.
        """
        mask = largest(s, self.density)
        return Definition(mean_size(w, mask, self.per_channel) * sign(w) * mask, g * w * s.sign())

    def init(self) -> str:
        """The initialisation of networks by name that are given none."""
        return "kaiming_normal"

    def init_args(self) -> Mapping[str, Any]:
        """What the initialisation is given."""
        return {"scale_fan": self.density} if self.scale_fan else {}

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        return binary_form(spec, self.activations, self.norms != "fixed")

    def second_level(self) -> tuple[str, float] | None:
        """The norms are tuned under the mask, if asked for."""
        return (self.tune, self.tune_lr) if self.norms == "tuned" else None

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network."""
        check_anneal(self.anneal, steps_per_epoch, total)
        if self.norms != "fixed":
            levels.check_norms(network)
        super().check(network, steps_per_epoch, total, mask)

    def settles(self, steps_per_epoch: int, total: int) -> int:
        """When the density has fallen."""
        return steps(self.anneal, steps_per_epoch)

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """That by which the density falls."""
        return annealed(search, self.anneal, self._rule())

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.represent import Binary

        return levels.Learning(
            rule=self._rule(),
            represent=Binary(self.per_channel),
            scores=self.scores,
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.norms == "trained" else "frozen",
            hooks=self.hooks,
            rewrites=binary_rewrites(network, self.activations, self.include, self.exclude),
        )

    def _rule(self) -> TopK:
        from tombola.supermask.rules import TopK

        return TopK(self.density, self.scope, whole=self.whole)
