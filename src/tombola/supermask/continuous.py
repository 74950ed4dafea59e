"""Soft masks without chance: a sigmoid of every score, which hardens as its temperature is annealed."""

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
from tombola.supermask.rules import MaskRule, ScoredLayer, numbers

_PRUNED = -10.0
"""A score at which 0.00005 of a weight is left at beta 1."""


@dataclass(frozen=True)
class Continuous(MaskRule):
    """M = sigmoid(beta·s), dM/ds = beta·M(1 - M) (Continuous Sparsification, Savarese et al. 2020).

    The hard mask is 1[s > 0], to which M goes as beta grows.

    Args:
        beta: inverse temperature, above 0
    """

    beta: float = 1.0
    values: ClassVar[torch.dtype] = torch.float32
    soft: ClassVar[bool] = True
    start: ClassVar[str | float] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise TombolaError(f"beta is {self.beta}; it must be a number above 0, e.g. 1")

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """1[s > 0]."""
        return (scores > 0).to(self.values)

    def soft_mask(self, scores: Tensor) -> Tensor:
        """sigmoid(beta·s), float32."""
        return torch.sigmoid(self.beta * scores).to(self.values)

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """beta·M(1 - M)."""
        return (self.beta * (mask * (1 - mask))).to(scores.dtype)

    def write(self, layers: Sequence[ScoredLayer], sample: bool) -> None:
        """Soft in training; 0 or 1 where a ticket's mask is asked for."""
        form = self.soft_mask if sample else self.mask
        for layer in layers:
            layer.mask.copy_(form(numbers(layer)))

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """The given sizes, but above 0, where kept; -10 where pruned."""
        return {
            name: torch.where(mask[name].to(s.device), s.abs().clamp(min=1e-3), torch.full_like(s, _PRUNED))
            for name, s in scores.items()
        }
