"""Relaxed masks that are drawn: a number in (0, 1) per weight while scores are learned, exactly so many ones after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.mask import Mask
from tombola.names import check_known
from tombola.select.select import SCOPES, selection
from tombola.supermask.rules import MaskRule, ScoredLayer, numbers

TEMPERATURE = 2 / 3


@dataclass(frozen=True)
class BinaryConcrete(MaskRule):
    """M = sigmoid((s + ln u - ln(1-u)) / temperature), u uniform (Maddison et al. 2017).

    s is the logit of a weight's chance to be kept, and begins at that of the density. dM/ds = M(1 - M)/temperature.
    The hard mask keeps the round(density·n) largest s, as Concrete Ticket Search ends (Arora & Teuscher 2025).

    Args:
        density: fraction kept by the hard mask, below 1
        temperature: the lower, the nearer to 0 and 1 the numbers lie that are drawn
        scope: over what the largest are sought in the end: global or layer
    """

    density: float = 0.05
    temperature: float = TEMPERATURE
    scope: str = "global"
    values: ClassVar[torch.dtype] = torch.float32
    stochastic: ClassVar[bool] = True
    soft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)
        check_below_one(self.density)
        check_known("scope", self.scope, SCOPES)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise TombolaError(f"temperature is {self.temperature}; it must be a number above 0, e.g. 0.667")

    @property
    def start(self) -> float:  # type: ignore[override]
        """ln(density/(1 - density)): every weight's chance is the density."""
        return math.log(self.density / (1 - self.density))

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Drawn; without a draw 1 for the largest scores of the layer, else 0."""
        if uniform is None:
            rank = scores.flatten().argsort(descending=True, stable=True).argsort()
            return (rank < round(self.density * scores.numel())).view_as(scores).to(self.values)
        return torch.sigmoid((scores + torch.logit(uniform)) / self.temperature).to(self.values)

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """M(1 - M)/temperature."""
        return (mask * (1 - mask) / self.temperature).to(scores.dtype)

    def write(self, layers: Sequence[ScoredLayer], sample: bool) -> None:
        """Draw every layer's mask, or select once over all layers."""
        if sample:
            return super().write(layers, sample)
        scores = {str(i): numbers(layer) for i, layer in enumerate(layers)}
        chosen = selection(scores, density=self.density, scope=self.scope, ties=False).mask
        for layer, mask in zip(layers, chosen.values(), strict=True):
            layer.mask.copy_(mask)
        return None

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """A logit higher by 1 where kept, lower by 1 where pruned."""
        return {name: s + torch.where(mask[name].to(s.device), 1.0, -1.0).to(s) for name, s in scores.items()}


def check_below_one(density: float) -> None:
    """TombolaError unless the density lies in (0, 1): at 1 there is no mask to find."""
    if isinstance(density, bool) or not 0.0 < density < 1.0:
        raise TombolaError(f"density is {density}, but it must lie between 0 and 1, without the two: a mask is sought")
