"""The fields of a ticket and the weights they stand for; checks, coding and tables need no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.ticket import format as container
from tombola.ticket.frozen import FrozenPart
from tombola.ticket.origin import Origin
from tombola.ticket.quantised import dequantised
from tombola.ticket.representation import Representation
from tombola.ticket.tensors import check_name, own_all

PrunedRule = Literal["zero", "origin", "train"]


def picks(values: Tensor, origin: Tensor) -> bool:
    """Whether pruned values say which weights stay at the origin's value, and are not values themselves."""
    return values.dtype == torch.int8 and origin.dtype != torch.int8


@dataclass(frozen=True, eq=False)
class TicketData:
    """The fields of a ticket. All tensors become private CPU copies.

    `origin`: the dense weights before training. `mask`: True = kept.
    `representation`: what weights stand for. `multiplier`: per layer int8, in the weight's shape, whose
    nonzero pattern is the mask (signed and multicoat masks); the represented weight is multiplied by it.
    `begin`: per layer, 1-D in flat order of the kept positions, what kept weights begin training with where that is
    not the origin's value (a kept action); int8 signs where the representation of the origin keeps no more.
    `pruned_rule`: value of pruned weights: "zero", "origin" (they stay at the origin's value), or "train" (they begin
    at 0 and are trained too);
    `pruned_values`: layers with values of their own: 0-d, or 1-D in flat order of the pruned positions; int8 of a layer
    that is not: 1 the origin's value, 0 zero. Under "train" they are those of the trained network.
    `rewrites`: JSON objects with a "kind". `state`: every parameter or buffer outside the mask that differs
    from the origin, in full. `trained`: per layer, 1-D in flat order of the kept positions, the latent
    trained weights (int8 signs where only the sign counts; or rounded to a narrower float, see `rounding`);
    layers still equal to the origin are left out.
    `steps`: per layer whose trained values are int8 numbers of steps, the step of each row, float32; see `quantised`.
    `tied`: alias -> masked name, for names that share a masked tensor.
    `provenance`: JSON-able: method, recipe, data fingerprint, versions, seeds; never times, hosts or paths.
    `frozen`: per layer, the part of the mask that is drawn from a key, of which files hold the key alone.
    """

    origin: Origin
    mask: Mask
    representation: Representation = field(default_factory=Representation)
    multiplier: Mapping[str, Tensor] | None = None
    pruned_rule: PrunedRule = "zero"
    pruned_values: Mapping[str, Tensor] | None = None
    begin: Mapping[str, Tensor] | None = None
    rewrites: tuple[Mapping[str, Any], ...] = ()
    state: Mapping[str, Tensor] = field(default_factory=dict)
    trained: Mapping[str, Tensor] | None = None
    steps: Mapping[str, Tensor] | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, FrozenPart] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("mask", Mask({check_name(name): tensor.to("cpu") for name, tensor in self.mask.items()}))
        for name in ("begin", "multiplier", "pruned_values", "trained", "steps"):
            put(name, own_all(getattr(self, name)) or None)
        put("state", own_all(self.state))
        put("tied", {check_name(alias): check_name(owner) for alias, owner in self.tied.items()})
        put("frozen", dict(self.frozen))
        put("provenance", container.plain_json(self.provenance, "provenance"))
        put("rewrites", tuple(container.plain_json(list(self.rewrites), "rewrites")))

    @property
    def prunes_to_zero(self) -> bool:
        """Whether all pruned weights are held at 0."""
        return self.pruned_rule == "zero" and self.pruned_values is None

    def latent(self, name: str, trained: Tensor | None = None) -> Tensor | None:
        """Trained kept values of a layer, 1-D, None where it has none; `trained`: those held instead of its own."""
        held = (self.trained or {}).get(name) if trained is None else trained
        steps = (self.steps or {}).get(name)
        return held if held is None or steps is None else dequantised(held, steps, self.mask[name])

    def effective(self, name: str, origin: Tensor, trained: Tensor | None, *, final: bool = True) -> Tensor:
        """The dense effective weight of layer `name` on CPU, from origin and 1-D trained kept values.

        `final`: of the trained network, where that differs from the origin in pruned weights.
        """
        keep = self.mask[name]
        origin = origin.detach().to("cpu")
        latent = origin.clone()
        kept = (self.begin or {}).get(name) if trained is None else self.latent(name, trained)
        if kept is not None:
            latent[keep] = kept.to(latent.dtype)
        value = latent
        if trained is None or self.representation.on == "both":
            value = self.representation.apply(name, latent)
            if self.multiplier is not None and name in self.multiplier:
                value = value * self.multiplier[name].to(value.dtype)
        pruned = origin if self.pruned_rule == "origin" else torch.zeros_like(origin)
        own_values = final or self.pruned_rule != "train"
        if own_values and self.pruned_values is not None and name in self.pruned_values:
            pruned = torch.zeros_like(origin)
            values = self.pruned_values[name]
            if picks(values, origin):
                values = torch.where(values.bool(), origin[~keep], torch.zeros_like(origin[~keep]))
            pruned[~keep] = values
        return torch.where(keep, value, pruned)
