"""Removing the channels that nobody reads, and those that send constants, from a traced network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.compact.parts import Layer, Norm, Part, meets_step, parts_of
from tombola.compact.signal import Signals, constants_into, reads, signals, sums
from tombola.compact.trace import write_shapes
from tombola.compact.wires import Wiring, wiring


def shrink(network: fx.GraphModule, example: tuple[Tensor, ...], *, training: bool) -> dict[str, int]:
    """Remove what can go until nothing more can: layer -> how many constant inputs went into its bias.

    The network's layers and norms are changed. At least one channel of every value stays.
    """
    folded: dict[str, int] = {}
    while True:
        parts = parts_of(network, training=training)
        wires = wiring(parts)
        found = signals(parts, wires, dict(network.named_modules()))
        gone = _removable(parts, wires, found)
        if not bool(gone.any()):
            return folded
        for name, count in _fold_constants(network, parts, wires, found, gone).items():
            folded[name] = folded.get(name, 0) + count
        _cut(network, parts_of(network, training=training), wires, gone)
        write_shapes(network, example)


def _removable(parts: Mapping[fx.Node, Part], wires: Wiring, found: Signals) -> Tensor:
    """bool, (bundles,): which can be removed now.

    Found from the end: what is pinned stays, and what a staying output of a layer needs. So circles go that only feed
    themselves, as they arise between the blocks of residual networks.
    """
    exact = meets_step(parts)
    needs = {
        node: _needs(part, constants_into(part, wires.into[node], wires, found), exact=node in exact)
        for node, part in parts.items()
        if isinstance(part, Layer)
    }
    stays = wires.pinned | _differing(parts, wires, found)
    _add_needed(stays, needs, wires)
    made = torch.zeros_like(stays)
    for node in needs:
        labels = wires.values[node].labels
        made[labels] = True
        if len(labels) and not bool(stays[labels].any()):  # a value without channels is none
            stays[labels[0]] = True
            _add_needed(stays, needs, wires)
    return made & ~stays


def _needs(layer: Layer, constant: Tensor, *, exact: bool) -> Tensor:
    """bool, (out, in): the inputs that an output reads and that cannot go into its bias.

    In groups an input goes with its group's outputs, so that these alone need nothing.
    """
    if layer.groups > 1:
        return torch.zeros(layer.weight.shape[0], len(constant), dtype=torch.bool, device=constant.device)
    frozen = layer.binary or exact or (not layer.module and layer.bias is None)
    foldable = constant == 0 if frozen else ~constant.isnan()
    return reads(layer) & ~foldable


def _add_needed(stays: Tensor, needs: dict[fx.Node, Tensor], wires: Wiring) -> None:
    """Let stay what that which stays needs, directly or not."""
    count = -1
    while count != (count := int(stays.sum())):
        for node in reversed(needs):
            needed = needs[node][stays[wires.values[node].labels]].any(0)
            stays[wires.into[node].labels[needed]] = True


def _differing(parts: Mapping[fx.Node, Part], wires: Wiring, found: Signals) -> Tensor:
    """bool, (bundles,): those that enter a shared layer's calls as different constants."""
    seen: dict[str, Tensor] = {}
    differs = torch.zeros_like(wires.pinned)
    for node, part in parts.items():
        if isinstance(part, Layer):
            constant = constants_into(part, wires.into[node], wires, found).nan_to_num(nan=torch.inf)
            other = seen.setdefault(part.name, constant)
            differs[wires.into[node].labels[constant != other]] = True
    return differs


def _fold_constants(
    network: fx.GraphModule, parts: Mapping[fx.Node, Part], wires: Wiring, found: Signals, gone: Tensor
) -> dict[str, int]:
    """Add what the removed constants send to the biases of the layers that read them."""
    done: dict[str, int] = {}
    for node, layer in parts.items():
        if not isinstance(layer, Layer) or layer.name in done or layer.groups > 1:
            continue
        wire = wires.into[node]
        constant = constants_into(layer, wire, wires, found)
        sent = torch.where(gone[wire.labels] & ~constant.isnan(), constant, 0.0)
        chosen = (sent != 0) & reads(layer)[~gone[wires.values[node].labels]].any(0)
        done[layer.name] = int(chosen.sum())
        if not done[layer.name]:
            continue
        added = sums(layer) @ sent
        before = torch.zeros_like(added) if layer.bias is None else layer.bias.detach().double().cpu()
        _set_bias(network, layer, (before + added).to(layer.weight.device, layer.weight.dtype))
    return {name: count for name, count in done.items() if count}


def _cut(network: fx.GraphModule, parts: Mapping[fx.Node, Part], wires: Wiring, gone: Tensor) -> None:
    """Take the removed channels out of every layer and norm, once each."""
    done: set[str] = set()
    for node, part in parts.items():
        if not isinstance(part, Layer | Norm) or part.name in done:
            continue
        done.add(part.name)
        into, out = (~gone[wire.labels] for wire in (wires.into[node], wires.values[node]))
        if isinstance(part, Norm):
            _cut_norm(part.module, out)
        elif not bool(into.all() and out.all()):
            _cut_layer(network, part, into, out)


def _cut_layer(network: fx.GraphModule, layer: Layer, into: Tensor, out: Tensor) -> None:
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


def _cut_norm(module: Any, keep: Tensor) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dim() != 1:
            continue
        value = tensor.detach()[keep.to(tensor.device)].clone()
        setattr(module, name, nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value)
    module.num_features = int(keep.sum())


def _set_bias(network: fx.GraphModule, layer: Layer, value: Tensor) -> None:
    parameter = nn.Parameter(value, requires_grad=layer.weight.requires_grad)
    if layer.module:
        layer.owner.bias = parameter
        return
    for module in network.modules():
        for name, held in module._parameters.items():
            if held is layer.bias:
                setattr(module, name, parameter)
