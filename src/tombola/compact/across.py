"""What a network computes whose norms take their statistics over some channels only: what a cut network is held to.

A layer norm takes mean and variance over all channels of a position. Without some of them it gives other numbers for
the rest, so that a network whose stream of channels is cut equals none with zeros in their place. It equals this one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from tombola.graph.node import arguments, operation
from tombola.graph.ops import Norm
from tombola.graph.read import channel_ops


def over_kept(network: fx.GraphModule, model: nn.Module, kept: Mapping[str, tuple[Tensor, ...]]) -> None:
    """Let the norms of a traced network take their statistics over the channels that are kept, in place.

    Args:
        model: which it was traced from.
        kept: as `Compacted.kept`.
    """
    for number, (node, norm) in enumerate(channel_ops(network, model, training=False).items()):
        if not isinstance(norm, Norm) or not norm.across:
            continue
        given, name = arguments(node), f"kept_{number}"
        network.register_buffer(name, kept[next(iter(norm.tensors.values()))][0])
        with network.graph.inserting_before(node):
            indices = network.graph.get_attr(name)
            call = _layer_norm if operation(node) == "layer_norm" else _rms_norm
            args = (given["input"], indices, given["weight"], given.get("bias"), given["eps"])
            made = network.graph.call_function(call, args)
        made.meta = dict(node.meta)
        node.replace_all_uses_with(made)
        network.graph.erase_node(node)
    network.recompile()


def _layer_norm(x: Tensor, kept: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    centred = x - x.index_select(-1, kept).mean(-1, keepdim=True)
    variance = centred.index_select(-1, kept).square().mean(-1, keepdim=True)
    return _scaled(centred * (variance + eps).rsqrt(), weight, bias)


def _rms_norm(x: Tensor, kept: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | None) -> Tensor:
    square = x.index_select(-1, kept).square().mean(-1, keepdim=True)
    return _scaled(x * (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt(), weight, bias)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
