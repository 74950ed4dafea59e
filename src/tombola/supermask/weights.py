"""What gradient the latent weights get under a mask: the weight gradient rules of joint training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.names import unknown


@runtime_checkable
class WeightRule(Protocol):
    """g = dL/d(kept or pruned represented weight), in the weight's shape -> the gradient of the latent weight."""

    @property
    def trained(self) -> bool:
        """Whether there is a gradient at all."""

    def gradient(self, g: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        """The gradient of the latent weight; all of one shape."""


@dataclass(frozen=True)
class Frozen:
    """Weights are never trained: supermasks proper."""

    trained = False

    def gradient(self, g: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        """Never asked for."""
        raise NotImplementedError


@dataclass(frozen=True)
class Masked:
    """g·M, the true gradient given the mask: pruned weights rest (but for weight decay)."""

    trained = True

    def gradient(self, g: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        """The gradient of the latent weight."""
        return g * mask


@dataclass(frozen=True)
class Dense:
    """g straight through the mask: pruned weights go on learning and may come back (DNW, Wortsman et al. 2019)."""

    trained = True

    def gradient(self, g: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        """The gradient of the latent weight."""
        return g


@dataclass(frozen=True)
class SrSte:
    """g + decay·(1 - M)·w: straight through, with pruned weights drawn to 0 (SR-STE, Zhou et al. 2021).

    Args:
        decay: the paper's lambda_w
    """

    decay: float = 2e-4
    trained = True

    def __post_init__(self) -> None:
        check_fields(self)
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise TombolaError(f"the SR-STE decay is {self.decay}; it must be a number of at least 0, e.g. 2e-4")

    def gradient(self, g: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        """The gradient of the latent weight."""
        return g + self.decay * (weight * (mask == 0))


FROZEN = Frozen()


def weight_rule(name: str, decay: float = 2e-4) -> WeightRule:
    """frozen, masked, dense or sr-ste."""
    known: dict[str, WeightRule] = {"frozen": FROZEN, "masked": Masked(), "dense": Dense(), "sr-ste": SrSte(decay)}
    if name not in known:
        raise TombolaError(unknown("weight gradient rule", name, known))
    return known[name]
