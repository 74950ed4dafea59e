"""Batch norms in eval mode as part of the layer before them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from tombola.compact.channel_ops import ChannelOp, Norm, WeightLayer, exact_nodes
from tombola.compact.coupling import Coupling


def fold_norms(network: fx.GraphModule, ops: dict[fx.Node, ChannelOp], coupling: Coupling) -> tuple[str, ...]:
    """Fold each batch norm that alone reads a layer's output into the layer; the names of those folded.

    Norms stay if they or their layer are called elsewhere too, after binary layers, whose weights must stay 0 and ± one
    number, and before a discontinuous function, where the last bit counts. The graph and the layers' parameters are
    changed.
    """
    calls = Counter(op.name for op in ops.values() if isinstance(op, WeightLayer | Norm))
    exact = exact_nodes(ops)
    folded = []
    for node, norm in ops.items():
        if not isinstance(norm, Norm) or not norm.fixed or calls[norm.name] > 1 or node in exact:
            continue
        source = node.all_input_nodes[0]  # after a norm that was folded: its layer
        layer = ops[source]
        if not isinstance(layer, WeightLayer) or layer.binary or not layer.module:
            continue
        if len(source.users) > 1 or calls[layer.name] > 1 or coupling.values[source].axis != 1:
            continue
        _fold(layer.owner, norm.module)
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
        folded.append(norm.name)
    if folded:
        network.delete_all_unused_submodules()
        network.recompile()
    return tuple(folded)


def _fold(layer: Any, norm: Any) -> None:
    weight = layer.weight.detach()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * scale
    rows = (-1, *[1] * (weight.dim() - 1))
    shift, weight = _parameter(shift, layer.weight), _parameter(weight.double() * scale.reshape(rows), layer.weight)
    layer.weight, layer.bias = weight, shift


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    with torch.no_grad():
        return nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad)
