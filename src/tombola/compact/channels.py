"""Sets of coupled channels that norms scale: what is kept or removed as one when channels are pruned by their norms.

Liu et al. 2017 (Network Slimming) rank channels by the scale of the batch norm after them. Here the units come from the
traced network, never from names: a channel of a residual stream is one unit, whatever layers write it, whatever norms
it passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from tombola.compact.checks import plain_tensors
from tombola.errors import TombolaError
from tombola.graph.copies import copied
from tombola.graph.coupling import Coupling, coupled_channels
from tombola.graph.ops import ChannelOp, Join, Norm, WeightLayer, opaque_places
from tombola.graph.read import channel_ops
from tombola.graph.trace import Untraceable, same_in_training, traced
from tombola.mask import Mask
from tombola.parameters import prunable


@dataclass(frozen=True, eq=False)
class ChannelGroups:
    """Units of channels, numbered from 0 in the order in which the network makes them; -1: in no unit, always kept.

    Args:
        count: how many units there are.
        scales: name of a norm's scale -> int64 (channels,), the unit of each channel.
        outputs: name of a layer's weight -> int64 (outputs,), the unit of each output row.
        inputs: the same for its input columns; of convolutions in groups, whose columns go with their rows, none.
        shape_of: name of a prunable weight -> its shape, in the network's order: what `mask` is over.
        opaque: what is not understood, so that its channels are in no unit: place -> why.
    """

    count: int
    scales: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    shape_of: Mapping[str, torch.Size]
    opaque: Mapping[str, str]

    def scores(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Mean of |scale| over the norms that a unit passes, float64 (count,) on the CPU.

        `parameters`: the norms' scales by name, and whatever else.
        """
        total = torch.zeros(self.count, dtype=torch.float64, device="cpu")
        seen = torch.zeros_like(total)
        for name, units in self.scales.items():
            sizes, own = parameters[name].detach().abs().to("cpu", torch.float64), units >= 0
            total.index_add_(0, units[own], sizes[own])
            seen.index_add_(0, units[own], torch.ones_like(sizes[own]))
        return total / seen

    def mask(self, kept: Tensor) -> Mask:
        """The mask over the prunable weights that removes whole units: rows that make them, columns that read them.

        `kept`: bool (count,). The masked network gives the same outputs without those channels, also in train mode.
        """
        masks = {name: torch.ones(shape, dtype=torch.bool, device="cpu") for name, shape in self.shape_of.items()}
        for name, mask in masks.items():
            if name in self.outputs:
                mask[~_kept(self.outputs[name], kept)] = False
            if name in self.inputs:
                mask[:, ~_kept(self.inputs[name], kept)] = False
        return Mask(masks)

    def lost(self, kept: Tensor) -> list[str]:
        """Layers of which no output stays, in the network's order."""
        return [name for name, units in self.outputs.items() if not bool(_kept(units, kept).any())]


def channel_groups(model: nn.Module, *example: Tensor, residual: bool = True) -> ChannelGroups:
    """The units of a network; it is neither changed nor called.

    A unit is a set of coupled channels that passes at least one norm with a scale, and that no input, output or
    operation that is not understood touches.

    Args:
        model: with plain weights.
        example: inputs as the network takes them, the batch first.
        residual: whether channels of residual streams, those that layers add to, are in units too.

    Raises:
        TombolaError: the network cannot be traced, or has no unit.
    """
    with plain_tensors():
        plain = copied(model)
        inputs = tuple(x.detach().clone() for x in example)
        try:
            network = traced(plain, inputs, [bool(x.dim()) and len(x) == len(inputs[0]) for x in inputs])
            same_in_training(plain, network, inputs)
        except Untraceable as error:
            raise TombolaError(
                f"the network's channels cannot be followed: {error}; rewrite its forward, or prune weights (imp)"
            ) from error
    return _groups(channel_ops(network, plain, training=True), model, residual)


def _groups(ops: Mapping[fx.Node, ChannelOp], model: nn.Module, residual: bool) -> ChannelGroups:
    coupling = coupled_channels(ops)
    norms = {
        op.tensors["weight"]: coupling.into[node].labels
        for node, op in ops.items()
        if isinstance(op, Norm) and not op.across and "weight" in op.values and op.values["weight"].requires_grad
    }
    scaled = torch.zeros_like(coupling.pinned)
    for labels in norms.values():
        scaled[labels] = True
    free = scaled & ~coupling.pinned
    if not residual:
        added = _added(ops, coupling)
        if bool(free.any()) and not bool((free & ~added).any()):
            raise TombolaError(
                "all channels that the norms scale belong to residual streams, which are not pruned; set residual to "
                "prune them too"
            )
        free &= ~added
    opaque = opaque_places(ops)
    if not bool(free.any()):
        raise TombolaError(_without_units(norms, list(opaque.values())))
    unit_of = torch.where(free, free.cumsum(0) - 1, -1)
    layers = {op.weight_name: (node, op) for node, op in ops.items() if isinstance(op, WeightLayer)}
    return ChannelGroups(
        count=int(free.sum()),
        scales={name: unit_of[labels] for name, labels in norms.items()},
        outputs={name: unit_of[coupling.values[node].labels] for name, (node, _) in layers.items()},
        inputs={name: unit_of[coupling.into[node].labels] for name, (node, op) in layers.items() if op.groups == 1},
        shape_of={name: weight.shape for name, weight in prunable(model).items()},
        opaque=opaque,
    )


def _added(ops: Mapping[fx.Node, ChannelOp], coupling: Coupling) -> Tensor:
    """bool, (sets,): those that are added up from several values."""
    added = torch.zeros_like(coupling.pinned)
    for node, op in ops.items():
        if isinstance(op, Join) and not op.product and node in coupling.values:
            added[coupling.values[node].labels] = True
    return added


def _without_units(norms: Mapping[str, Tensor], reasons: Sequence[str]) -> str:
    found = "no norm has a trained scale" if not norms else "none of its norms' channels can be removed"
    why = f" ({reasons[0]})" if norms and reasons else ""
    return (
        f"the network's channels cannot be ranked: {found}{why}; choose a network with affine batch norms between its "
        "layers, or prune weights (imp)"
    )


def _kept(units: Tensor, kept: Tensor) -> Tensor:
    """bool, as `units`: whether each index stays."""
    return kept[units.clamp(min=0)] | (units < 0)
