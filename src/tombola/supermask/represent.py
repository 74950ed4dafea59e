"""What a latent weight stands for under the mask: represented(w)·M·scale, the scale refreshed with the mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from tombola.nn.representation import Kind

Keep: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(values, mask) -> values·mask: `torch.mul`, or the same in one pass."""


@runtime_checkable
class Represent(Protocol):
    """How the effective weight is made."""

    @property
    def kind(self) -> Kind:
        """Its name in a ticket."""

    @property
    def trainable(self) -> bool:
        """Whether a gradient can reach the latent weight through it."""

    def base(self, weight: Tensor) -> Tensor:
        """The represented weight before mask and scale, in the weight's shape."""

    def scale(self, weight: Tensor, mask: Tensor, keep: Keep = torch.mul) -> Tensor | None:
        """The layer's factor for this weight and mask: 0-d, or one per output row; None for 1."""

    def mask_gradient(self, g: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """(a, b) with dL/dM = a·b elementwise, from g = dL/d(effective weight)."""

    def weight_gradient(self, g: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        """dL/dw as if nothing were pruned."""


@dataclass(frozen=True)
class Identity:
    """w·M, or w·M·n/ΣM with `rescale` (dynamic weight rescaling, Zhou et al. 2019; gradient through ΣM)."""

    rescale: bool = False
    trainable = True

    @property
    def kind(self) -> Kind:
        """Its name in a ticket."""
        return "rescaled" if self.rescale else "identity"

    def base(self, weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight

    def scale(self, weight: Tensor, mask: Tensor, keep: Keep = torch.mul) -> Tensor | None:
        """n/ΣM."""
        return _n_over_kept(weight, mask) if self.rescale else None

    def mask_gradient(self, g: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """g·w, and the part through ΣM."""
        return (g, weight) if scale is None else _through_sum(g, weight, mask, scale)

    def weight_gradient(self, g: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        """g·scale."""
        return g if scale is None else g * scale


@dataclass(frozen=True)
class Scaled:
    """w·M·factor, one number for all layers and for good: what makes up for soft masks below 1 at their start.

    Args:
        factor: above 0
    """

    factor: float
    trainable = True
    kind: Kind = "rescaled"

    def base(self, weight: Tensor) -> Tensor:
        """The weight itself."""
        return weight

    def scale(self, weight: Tensor, mask: Tensor, keep: Keep = torch.mul) -> Tensor | None:
        """The factor."""
        return torch.full((), self.factor, dtype=_wide(weight), device=weight.device)

    def mask_gradient(self, g: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """g·factor·w."""
        assert scale is not None
        return g * scale, weight

    def weight_gradient(self, g: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        """g·factor."""
        assert scale is not None
        return g * scale


@dataclass(frozen=True)
class SignedConstant:
    """sign(w)·std(w)·M: every layer's weights as one magnitude (Zhou et al. 2019); `rescale` as in Identity.

    The standard deviation is that of all the layer's weights (population form); sign(0) = 0.
    """

    rescale: bool = False
    trainable = False
    kind: Kind = "signed_constant"

    def base(self, weight: Tensor) -> Tensor:
        """sign(w)."""
        return torch.sign(weight)

    def scale(self, weight: Tensor, mask: Tensor, keep: Keep = torch.mul) -> Tensor | None:
        """std(w), times n/ΣM if rescaled."""
        std = weight.detach().std(correction=0)
        return std * _n_over_kept(weight, mask) if self.rescale else std

    def mask_gradient(self, g: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """g·sign(w)·scale, and the part through ΣM if rescaled."""
        assert scale is not None
        base = torch.sign(weight)
        return _through_sum(g, base, mask, scale) if self.rescale else (g * scale, base)

    def weight_gradient(self, g: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        """None reaches the weight: `trainable` is False."""
        raise NotImplementedError


@dataclass(frozen=True)
class Binary:
    """α·sign(w)·M with α the mean of |w| over what is kept; sign(0) = +1 (Diffenderfer & Kailkhura 2021).

    The score gradient takes α as a constant and w for α·sign(w), as the paper's code does; the weight gradient
    is straight through the sign, clipped: g·α·1[|w| <= 1].

    Args:
        per_channel: one α per output row instead of one per layer
    """

    per_channel: bool = False
    trainable = True
    kind: Kind = "binary"

    def base(self, weight: Tensor) -> Tensor:
        """+1 or -1."""
        return (weight >= 0).to(weight.dtype).mul_(2).sub_(1)  # torch.where is ten times slower on the CPU

    def scale(self, weight: Tensor, mask: Tensor, keep: Keep = torch.mul) -> Tensor | None:
        """α: 0-d, or (out, 1, ...)."""
        size, kept = weight.detach().abs(), mask if mask.dtype == torch.bool else mask != 0
        if not self.per_channel:
            return keep(size, kept).sum(dtype=_wide(weight)) / torch.count_nonzero(kept).clamp(min=1)
        dims = tuple(range(1, weight.dim()))
        count = kept.sum(dims, keepdim=True).clamp(min=1)
        return (size * kept).sum(dims, keepdim=True, dtype=_wide(weight)) / count

    def mask_gradient(self, g: Tensor, weight: Tensor, mask: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """g·w."""
        return g, weight

    def weight_gradient(self, g: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        """g·α where |w| <= 1."""
        assert scale is not None
        return g * scale * (weight.abs() <= 1)


def _n_over_kept(weight: Tensor, mask: Tensor) -> Tensor:
    return weight.numel() / _sum(mask).clamp(min=1).to(_wide(weight))


def _through_sum(g: Tensor, base: Tensor, mask: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """d/dM of base·M·c·n/Σ|M|: scale·g·base, less its mean over the kept (more, where M < 0)."""
    gradient = scale * g.to(_wide(g)) * base
    shared = (gradient * mask).sum() / _sum(mask).clamp(min=1)
    lessened = shared if mask.dtype == torch.bool else torch.where(mask < 0, -shared, shared)
    return gradient - lessened, torch.ones_like(gradient)


def _sum(mask: Tensor) -> Tensor:
    return torch.count_nonzero(mask) if mask.dtype == torch.bool else mask.abs().sum()


def _wide(tensor: Tensor) -> torch.dtype:
    """A dtype for sums and counts of its elements: half precision ends at 65,504."""
    return torch.promote_types(tensor.dtype, torch.float32)
