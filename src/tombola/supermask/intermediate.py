"""Intermediate Loss Sampling (mshlis 2019) as a mask rule: logits learn from where a step would have moved the draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.mask import Mask
from tombola.supermask.rules import Bernoulli, MaskRule

_LEAST = 1e-7
"""What raw divisors are at least in size: the constant that the author adds to probabilities."""


@dataclass(frozen=True)
class Intermediate(MaskRule):
    """Drawn with probability p = sigmoid(s) like Bernoulli's; the gradient compares p with an intermediate draw pi.

    z is the mask as drawn and G = dL/dM there. A step of size a, from the one-hot draw (z, 1 - z) against the loss of
    either choice relative to that of the one drawn, normalised to sum 1, keeps with probability

        z = 1:  pi = 1 / (1 + aG),        z = 0:  pi = -aG / (1 - aG),

    and the gradient of KL(pi || p) by the logit is dL/ds = p - pi. Each part of the step is cut off at 0, so that pi
    lies in [0, 1]: G counts as max(G, 0) where z = 1 and as min(G, 0) where z = 0.

    The gradient is not proportional to G: where aG is small it is p - z, the noise of the draw, with a mean of about
    a(p·max(G, 0) - (1 - p)·max(-G, 0)); it never exceeds 1 in size.

    Args:
        step: a
        raw: the author's form, without the cut: pi may leave [0, 1], and is of any size near aG = -1 (z = 1) and 1
            (z = 0), where the divisor is held at 1e-7 or more in size so that it stays finite
    """

    step: float = 1.0
    raw: bool = False
    stochastic: ClassVar[bool] = True
    start: ClassVar[str | float] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (math.isfinite(self.step) and self.step > 0):
            raise TombolaError(f"the sampling step is {self.step}; it must be a number above 0, e.g. 1")

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """uniform < sigmoid(s); without a draw, p > 0.5."""
        return Bernoulli().mask(scores, uniform)

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """There is none: the gradient is not dL/dM times anything."""
        raise NotImplementedError

    def gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """p - pi, from G = a·b."""
        moved = a.to(scores.dtype) * b * self.step  # aG
        drawn = mask != 0
        if not self.raw:
            moved = torch.where(drawn, moved.clamp(min=0), moved.clamp(max=0))
        up, down = torch.where(drawn, 1.0, -moved), torch.where(drawn, moved, 1.0)  # the step from (z, 1 - z)
        total = up + down
        if self.raw:
            total = torch.where(total.abs() < _LEAST, torch.where(total < 0, -_LEAST, _LEAST), total)
        return (torch.sigmoid(scores) - up / total).to(scores.dtype)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Logits of +1 where kept and -1 where pruned."""
        return Bernoulli().scores_from_mask(scores, mask)
