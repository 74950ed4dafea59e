"""Removal of the channels that nothing reads, and of those that send constants, from a traced network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.compact.channel_ops import ChannelOp, Norm, WeightLayer, exact_nodes
from tombola.compact.constants import Constants, constants_into, constants_of, reads, sums
from tombola.compact.coupling import Coupling, coupled_channels
from tombola.compact.positions import Positions
from tombola.compact.read_ops import channel_ops
from tombola.compact.trace import write_shapes


@dataclass(frozen=True, eq=False)
class Shrunk:
    """`folded`: layer -> how many constant inputs went into its bias. `kept`: as `Compacted.kept`."""

    folded: Mapping[str, int]
    kept: Mapping[str, tuple[Tensor, ...]]


def shrink(
    network: fx.GraphModule, example: tuple[Tensor, ...], *, training: bool, fold_constants: bool = True
) -> Shrunk:
    """Remove what can go until nothing more can.

    The network's layers and norms are changed. At least one channel of every value stays.
    """
    folded: dict[str, int] = {}
    ops = channel_ops(network, training=training)
    positions = Positions.of(network, ops)
    while True:
        coupling = coupled_channels(ops)
        constants = constants_of(ops, coupling, dict(network.named_modules()))
        if not fold_constants:
            constants = {node: torch.full_like(constant, torch.nan) for node, constant in constants.items()}
        gone = _removable(ops, coupling, constants)
        if not bool(gone.any()):
            return Shrunk(folded, positions.kept())
        for name, count in _fold_constants(network, ops, coupling, constants, gone).items():
            folded[name] = folded.get(name, 0) + count
        positions = _cut(network, channel_ops(network, training=training), coupling, gone, positions)
        write_shapes(network, example)
        ops = channel_ops(network, training=training)


def _removable(ops: Mapping[fx.Node, ChannelOp], coupling: Coupling, constants: Constants) -> Tensor:
    """bool, (sets,): which can be removed now.

    Computed from the end: what is pinned stays, and so does what a kept output of a layer needs. So cycles go that
    only feed themselves, as they arise between the blocks of residual networks.
    """
    exact = exact_nodes(ops)
    needs = {
        node: _needs(op, constants_into(op, coupling.into[node], coupling, constants), exact=node in exact)
        for node, op in ops.items()
        if isinstance(op, WeightLayer)
    }
    stays = coupling.pinned | _differing(ops, coupling, constants)
    _add_needed(stays, needs, coupling)
    made = torch.zeros_like(stays)
    for node in needs:
        labels = coupling.values[node].labels
        made[labels] = True
        if len(labels) and not bool(stays[labels].any()):  # a value needs at least one channel
            stays[labels[0]] = True
            _add_needed(stays, needs, coupling)
    return made & ~stays


def _needs(layer: WeightLayer, constant: Tensor, *, exact: bool) -> Tensor:
    """bool, (out, in): the inputs that an output reads and that cannot go into its bias.

    In groups an input goes with its group's outputs, so that these alone need nothing.
    """
    if layer.groups > 1:
        return torch.zeros(layer.weight.shape[0], len(constant), dtype=torch.bool, device=constant.device)
    frozen = layer.binary or exact or (not layer.module and layer.bias is None)
    foldable = constant == 0 if frozen else ~constant.isnan()
    return reads(layer) & ~foldable


def _add_needed(stays: Tensor, needs: dict[fx.Node, Tensor], coupling: Coupling) -> None:
    """Keep what the kept channels need, directly or not."""
    count = -1
    while count != (count := int(stays.sum())):
        for node in reversed(needs):
            needed = needs[node][stays[coupling.values[node].labels]].any(0)
            stays[coupling.into[node].labels[needed]] = True


def _differing(ops: Mapping[fx.Node, ChannelOp], coupling: Coupling, constants: Constants) -> Tensor:
    """bool, (sets,): those that enter a shared layer's calls as different constants."""
    seen: dict[str, Tensor] = {}
    differs = torch.zeros_like(coupling.pinned)
    for node, op in ops.items():
        if isinstance(op, WeightLayer):
            constant = constants_into(op, coupling.into[node], coupling, constants).nan_to_num(nan=torch.inf)
            other = seen.setdefault(op.name, constant)
            differs[coupling.into[node].labels[constant != other]] = True
    return differs


def _fold_constants(
    network: fx.GraphModule, ops: Mapping[fx.Node, ChannelOp], coupling: Coupling, constants: Constants, gone: Tensor
) -> dict[str, int]:
    """Add what the removed constants send to the biases of the layers that read them."""
    done: dict[str, int] = {}
    for node, layer in ops.items():
        if not isinstance(layer, WeightLayer) or layer.name in done or layer.groups > 1:
            continue
        channels = coupling.into[node]
        constant = constants_into(layer, channels, coupling, constants)
        sent = torch.where(gone[channels.labels] & ~constant.isnan(), constant, 0.0)
        chosen = (sent != 0) & reads(layer)[~gone[coupling.values[node].labels]].any(0)
        done[layer.name] = int(chosen.sum())
        if not done[layer.name]:
            continue
        added = sums(layer) @ sent
        before = torch.zeros_like(added) if layer.bias is None else layer.bias.detach().double().cpu()
        _set_bias(network, layer, (before + added).to(layer.weight.device, layer.weight.dtype))
    return {name: count for name, count in done.items() if count}


def _cut(
    network: fx.GraphModule, ops: Mapping[fx.Node, ChannelOp], coupling: Coupling, gone: Tensor, positions: Positions
) -> Positions:
    """Take the removed channels out of every layer and norm, once each; where what is left then stood."""
    left: dict[str, tuple[Tensor, Tensor]] = {}
    for node, op in ops.items():
        if not isinstance(op, WeightLayer | Norm) or op.name in left:
            continue
        into, out = (~gone[channels.labels] for channels in (coupling.into[node], coupling.values[node]))
        left[op.name] = positions.cut(op, into, out)
        if isinstance(op, Norm):
            _cut_norm(op, out)
        elif not bool(into.all() and out.all()):
            _cut_layer(network, op, into, out)
    return Positions(positions.tensors, left)


def _cut_layer(network: fx.GraphModule, layer: WeightLayer, into: Tensor, out: Tensor) -> None:
    weight, device = layer.weight.detach(), layer.weight.device
    if layer.groups == 1:
        weight = weight[:, into.to(device)]
    weight = weight[out.to(device)].clone()
    bias = None if layer.bias is None else layer.bias.detach()[out.to(device)].clone()
    setattr(layer.owner, layer.local, nn.Parameter(weight, requires_grad=layer.weight.requires_grad))
    if bias is not None:
        _set_bias(network, layer, bias)
    if not layer.module:
        return
    owner: Any = layer.owner
    if layer.linear:
        owner.out_features, owner.in_features = weight.shape
        return
    owner.out_channels = weight.shape[0]
    if layer.groups > 1:
        owner.groups = layer.groups * int(out.sum()) // len(out)
    owner.in_channels = weight.shape[1] * owner.groups


def _cut_norm(norm: Norm, keep: Tensor) -> None:
    module = norm.module
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dim() != 1:
            continue
        value = tensor.detach()[keep.to(tensor.device)].clone()
        setattr(module, name, nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value)
    if isinstance(module, nn.GroupNorm):
        module.num_channels, module.num_groups = int(keep.sum()), norm.groups * int(keep.sum()) // norm.channels
    else:
        module.num_features = int(keep.sum())


def _set_bias(network: fx.GraphModule, layer: WeightLayer, value: Tensor) -> None:
    parameter = nn.Parameter(value, requires_grad=layer.weight.requires_grad)
    if layer.module:
        layer.owner.bias = parameter
        return
    for module in network.modules():
        for name, held in module._parameters.items():
            if held is layer.bias:
                setattr(module, name, parameter)
