"""Batch norms in eval mode as part of the layer before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, fx

from tombola.graph.coupling import Coupling
from tombola.graph.edit import add_bias, set_tensor
from tombola.graph.ops import ChannelOp, Norm, WeightLayer, exact_nodes


def fold_norms(network: fx.GraphModule, ops: Mapping[fx.Node, ChannelOp], coupling: Coupling) -> dict[str, Norm]:
    """Fold each batch norm that alone reads a layer's output into the layer; those folded, by name.

    Norms stay if they or their layer are called elsewhere too, after binary layers, whose weights must stay 0 and ± one
    number, and before a discontinuous function, where the last bit counts. The graph and its tensors are changed.
    """
    calls = Counter(op.name for op in ops.values() if isinstance(op, WeightLayer | Norm))
    exact = exact_nodes(ops)
    folded: dict[str, Norm] = {}
    last: dict[fx.Node, WeightLayer] = {node: op for node, op in ops.items() if isinstance(op, WeightLayer)}
    for node, norm in ops.items():
        if not isinstance(norm, Norm) or not norm.fixed or calls[norm.name] > 1 or node in exact:
            continue
        source = node.args[0]  # after a norm that was folded: its layer
        assert isinstance(source, fx.Node)
        layer = last.get(source)
        if layer is None or layer.binary or not layer.module or len(source.users) > 1 or calls[layer.name] > 1:
            continue
        if coupling.values[source].axes != (1,):
            continue
        last[source] = _fold(network, source, layer, norm)
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
        folded[norm.name] = norm
    if folded:
        network.graph.eliminate_dead_code()
        network.recompile()
    return folded


def _fold(network: fx.GraphModule, node: fx.Node, layer: WeightLayer, norm: Norm) -> WeightLayer:
    """The layer with the norm in it, once it is in the network."""
    own = {name: value.detach().double() for name, value in norm.values.items()}
    scale = (own["running_var"] + norm.eps).rsqrt() * own.get("weight", 1.0)
    shift = own.get("bias", 0.0) - own["running_mean"] * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * scale
    dtype = layer.weight.dtype
    rows = (-1, *[1] * (layer.weight.dim() - 1))
    weight, bias = (layer.weight.detach().double() * scale.reshape(rows)).to(dtype), shift.to(dtype)
    set_tensor(network, layer.weight_name, weight)
    return with_bias(network, node, replace(layer, weight=weight), bias)


def with_bias(network: fx.GraphModule, node: fx.Node, layer: WeightLayer, bias: Tensor) -> WeightLayer:
    """The layer with that bias, once it is in the network."""
    name = layer.bias_name or f"{layer.name}.bias"
    if layer.bias_name is None:
        add_bias(network, node, name, bias, layer.weight)
    else:
        set_tensor(network, name, bias)
    return replace(layer, bias_name=name, bias=bias)
