"""Multicoated supermasks (Okoshi et al. 2022): several nested top-k masks of one score, added up.

`Multicoat.definition` is the method (weights w, scores s, g = dL/d(effective weight)); the weights stay as they were
drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Definition, SupermaskMethod, check_density
from tombola.methods.edge_popup import largest

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Multicoat(SupermaskMethod):
    """Edge-popup with several nested masks (coats): a fixed random weight times the number of masks that keep it.

    Networks by name are drawn as signed Kaiming constants unless init says otherwise.

    Args:
        densities: fraction of every layer's weights kept by each coat, e.g. [0.3, 0.1]; the largest is the density
        scores: how scores are initialised: the name of an initialisation
        scale_fan: draw the weights for a fan of fan_in times the widest coat's density
        train_norms: train scale and bias of norm layers along with the scores
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "multicoat"
    version: ClassVar[int] = 1
    trains_scores_only: ClassVar[bool] = True

    densities: tuple[float, ...] = (0.3, 0.0788, 0.0315)
    scores: str = "torch_default"
    scale_fan: bool = True
    train_norms: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:  # the command line gives texts
            densities = tuple(float(density) for density in self.densities)
        except (TypeError, ValueError):
            densities = ()
        if not densities or isinstance(self.densities, str):
            raise TombolaError(f"densities is {self.densities!r}; give a list of numbers such as [0.3, 0.1]")
        for density in densities:
            check_density(density)
        object.__setattr__(self, "densities", densities)
        super().__post_init__()

    @property
    def density(self) -> float:
        """That of the widest coat."""
        return max(self.densities)

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """A weight is multiplied by how many coats keep it, each the largest |s| at a density of its own."""
        coats = sum((largest(s, density) for density in self.densities), s.new_zeros(s.shape))
        return Definition(w * coats, g * w * s.sign())

    def init(self) -> str:
        """The initialisation of networks by name that are given none."""
        return "signed_constant"

    def init_args(self) -> Mapping[str, Any]:
        """What the initialisation is given."""
        return {"scale_fan": self.density} if self.scale_fan else {}

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.rules import Coats

        return levels.Learning(
            rule=Coats(self.densities),
            scores=self.scores,
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.train_norms else "frozen",
        )
