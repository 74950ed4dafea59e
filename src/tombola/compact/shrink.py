"""Removal of the channels that nothing reads, and of those that send constants, from a traced network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.compact.constants import Constants, constants_into, constants_of, reads, sums
from tombola.compact.fold import with_bias
from tombola.compact.positions import Positions
from tombola.graph.coupling import Channels, Coupling, coupled_channels
from tombola.graph.edit import set_argument, set_tensor
from tombola.graph.node import arguments, operation, set_shape, shape_of, value_of
from tombola.graph.ops import ChannelOp, Norm, Own, Pick, WeightLayer, exact_nodes
from tombola.graph.read import channel_ops


@dataclass(frozen=True, eq=False)
class Shrunk:
    """`folded`: layer -> how many constant inputs went into its bias. `kept`: as `Compacted.kept`."""

    folded: Mapping[str, int]
    kept: Mapping[str, tuple[Tensor, ...]]


def shrink(
    network: fx.GraphModule,
    model: nn.Module,
    *,
    training: bool,
    fold_constants: bool = True,
    across_norms: bool = False,
) -> Shrunk:
    """Remove what can go until nothing more can.

    The traced network's tensors and shapes are changed. At least one channel of every value stays.

    Args:
        model: which it was traced from.
        across_norms: as of `coupled_channels`.
    """
    folded: dict[str, int] = {}
    ops = channel_ops(network, model, training=training)
    positions = Positions.of(ops.values())
    while True:
        coupling = coupled_channels(ops, across_norms=across_norms)
        constants = constants_of(ops, coupling)
        if not fold_constants:
            constants = {node: torch.full_like(constant, torch.nan) for node, constant in constants.items()}
        gone = _removable(ops, coupling, constants)
        if not bool(gone.any()):
            return Shrunk(folded, positions.kept())
        for name, count in _fold_constants(network, ops, coupling, constants, gone).items():
            folded[name] = folded.get(name, 0) + count
        positions = _cut(network, channel_ops(network, model, training=training), coupling, gone, positions)
        ops = channel_ops(network, model, training=training)


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
        with_bias(network, node, layer, (before + added).to(layer.weight.device, layer.weight.dtype))
    return {name: count for name, count in done.items() if count}


def _cut(
    network: fx.GraphModule, ops: Mapping[fx.Node, ChannelOp], coupling: Coupling, gone: Tensor, positions: Positions
) -> Positions:
    """Take the removed channels out of every layer and norm, once each; where what is left then stood."""
    left: dict[str, tuple[Tensor, ...]] = {}
    for node, op in ops.items():
        if isinstance(op, Own) and op.name not in left:
            stays = coupling.values[node].kept(gone) if node in coupling.values else {}
            left[op.name] = positions.cut_axes(op, stays)
            _cut_own(network, op, stays)
        if not isinstance(op, WeightLayer | Norm) or op.name in left:
            continue
        into, out = (~gone[channels.labels] for channels in (coupling.into[node], coupling.values[node]))
        left[op.name] = positions.cut(op, into, out)
        if isinstance(op, Norm):
            _cut_norm(network, node, op, out)
        elif not bool(into.all() and out.all()):
            _cut_layer(network, op, into, out)
    for node, op in ops.items():
        if isinstance(op, WeightLayer) and op.groups > 1:
            out = ~gone[coupling.values[node].labels]
            set_argument(node, "groups", op.groups * int(out.sum()) // len(out))
        if isinstance(op, Pick) and op.source in coupling.values:
            _cut_range(node, op, coupling.values[op.source].kept(gone).get(op.axis))
    for node in coupling.values:
        _cut_value(node, coupling.values[node], gone)
    network.recompile()
    return Positions(positions.tensors, left)


def _cut_layer(network: fx.GraphModule, layer: WeightLayer, into: Tensor, out: Tensor) -> None:
    weight, device = layer.weight.detach(), layer.weight.device
    if layer.groups == 1:
        weight = weight[:, into.to(device)]
    set_tensor(network, layer.weight_name, weight[out.to(device)].clone())
    if layer.bias is not None and layer.bias_name is not None:
        set_tensor(network, layer.bias_name, layer.bias.detach()[out.to(device)].clone())


def _cut_norm(network: fx.GraphModule, node: fx.Node, norm: Norm, keep: Tensor) -> None:
    for local, name in norm.tensors.items():
        value = norm.values[local].detach()
        set_tensor(network, name, value[keep.to(value.device)].clone())
    if "num_groups" in arguments(node):
        set_argument(node, "num_groups", norm.groups * int(keep.sum()) // norm.channels)
    if norm.across:
        set_argument(node, "normalized_shape", [int(keep.sum())])


def _cut_own(network: fx.GraphModule, own: Own, stays: Mapping[int, Tensor]) -> None:
    value = own.value.detach()
    for axis, keep in stays.items():
        value = value.index_select(axis, keep.nonzero()[:, 0].to(value.device))
    if value.shape != own.value.shape:
        set_tensor(network, own.name, value.clone())


def _cut_range(node: fx.Node, op: Pick, keep: Tensor | None) -> None:
    """The bounds of a range of an axis, of which those indices stay."""
    if keep is None or isinstance(op.chosen, int) or bool(keep.all()):
        return
    start, end, _ = op.chosen.indices(len(keep))
    set_argument(node, "start", int(keep[:start].sum()))
    set_argument(node, "end", int(keep[:end].sum()))


def _cut_value(node: fx.Node, channels: Channels, gone: Tensor) -> None:
    """The new shape of what a node gives, and the sizes that a reshaping asks for."""
    before, stays = shape_of(node), channels.kept(gone)
    assert before is not None
    left = {axis: int(keep.sum()) for axis, keep in stays.items() if not bool(keep.all())}
    if not left:
        return
    set_shape(node, tuple(left.get(axis, n) for axis, n in enumerate(before)))
    if operation(node) not in ("view", "reshape", "unflatten", "expand"):
        return
    given = arguments(node)
    name = "sizes" if "sizes" in given else next(one for one in ("size", "shape") if one in given)
    first = given["dim"] % (len(before) - len(given[name]) + 1) if name == "sizes" else 0
    set_argument(node, name, _sizes(node, list(given[name]), {axis - first: n for axis, n in left.items()}, first))


def _sizes(node: fx.Node, sizes: list[Any], left: Mapping[int, int], first: int) -> list[Any]:
    """Sizes that are asked for, some of them smaller; one that is computed of the batch is left to the others: -1."""
    value = value_of(node)
    assert value is not None
    for axis, n in left.items():
        if not 0 <= axis < len(sizes) or sizes[axis] == -1:
            continue
        if isinstance(sizes[axis], fx.Node):
            known = [size if size != -1 else value.shape[i + first] for i, size in enumerate(sizes)]
            sizes = [-1 if i == axis else size for i, size in enumerate(known)]
        else:
            sizes[axis] = n
    return sizes
