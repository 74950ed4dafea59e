"""What a stored weight stands for: itself, its sign times a constant, or a rescaled copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from tombola.errors import TicketError
from tombola.formats import plural
from tombola.nn.representation import Kind
from tombola.ticket.tensors import own_all, same_bits, show

On = Literal["both", "origin"]


@dataclass(frozen=True, eq=False)
class Representation:
    """How a masked weight w turns into the effective weight.

    `kind`: "identity" w; "signed_constant" sign(w)·s (sign(0) = 0; Zhou et al. 2019); "binary" α·sign(w)
    (sign(0) = +1; Diffenderfer and Kailkhura 2021); "rescaled" w·s (Ramanujan et al. 2020).
    `scales`: per layer name a float tensor s (or α): 0-d, or (out,), or with as many dimensions as
    the weight, of sizes 1 or its own. A layer without a scale stays as it is, so kinds can differ by layer.
    `on`: "both": trained values are latent and are represented too; "origin": only the origin's weights are
    represented, and trained values are effective already.
    """

    kind: Kind = "identity"
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    on: On = "both"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise TicketError(f"representation {show(self.kind)} is unknown; use one of {get_args(Kind)}")
        if self.on not in get_args(On):
            raise TicketError(f"representation on {show(self.on)} is unknown; use one of {get_args(On)}")
        object.__setattr__(self, "scales", own_all(self.scales))
        if (self.kind == "identity") == bool(self.scales):
            raise TicketError(
                f"representation {self.kind} with {len(self.scales)} scales; identity takes none, "
                "every other kind at least one"
            )
        for name, scale in self.scales.items():
            if not scale.is_floating_point() or scale.element_size() < 2:
                raise TicketError(f"scale of {show(name)} is {scale.dtype}; give float16 or wider")

    def __repr__(self) -> str:
        scales = f", scales of {plural(len(self.scales), 'layer')}" if self.scales else ""
        return f"Representation({self.kind}{scales}{'' if self.on == 'both' else f', on {self.on}'})"

    def keeps_signs_only(self, name: str) -> bool:
        """True when only the sign of a trained value matters, so that int8 signs are stored."""
        return self.on == "both" and self.kind in ("signed_constant", "binary") and name in self.scales

    def check_scale(self, name: str, shape: tuple[int, ...]) -> None:
        """TicketError unless the scale of `name`, if any, fits a weight of `shape`."""
        if name in self.scales:
            _broadcast(self.scales[name], shape, name)

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The represented weight: same shape, dtype and device; computed in float32 or wider."""
        scale = self.scales.get(name)
        if scale is None:
            return weight
        wide = torch.promote_types(torch.promote_types(weight.dtype, scale.dtype), torch.float32)
        latent = weight.to(wide)
        factor = _broadcast(scale, tuple(weight.shape), name).to(weight.device, wide)
        if self.kind == "signed_constant":
            latent = torch.sign(latent)
        elif self.kind == "binary":
            latent = torch.where(latent < 0, -1.0, 1.0).to(wide)
        return (latent * factor).to(weight.dtype)


def signs_of(values: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """(int8 signs, 0-d size) if all `values` (1-D floats of 16 bits or more) are exactly -size or +size, else None.

    `size`: the only one that counts; by default that of the first value. Zero, NaN and infinite sizes do not.
    """
    if not values.numel() or not values.is_floating_point() or values.element_size() < 2:
        return None
    size, signs = values[0].abs() if size is None else size.abs(), torch.sign(values)
    if not bool(size > 0) or not same_bits(signs * size, values):
        return None
    return signs.to(torch.int8), size


def _broadcast(scale: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """`scale` viewed so that it broadcasts over a weight of `shape`."""
    if scale.ndim == 1 and shape and scale.shape[0] == shape[0]:
        return scale.reshape(-1, *([1] * (len(shape) - 1)))
    fits = scale.ndim == len(shape) and all(s in (1, n) for s, n in zip(scale.shape, shape, strict=True))
    if scale.ndim and not fits:
        raise TicketError(
            f"scale of {show(name)} has shape {tuple(scale.shape)}, which does not fit the weight {shape}; "
            "give one number, one per output, or a tensor that broadcasts"
        )
    return scale
