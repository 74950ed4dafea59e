"""Tombola's binary layers and activations as one operation each, which torch.export would dissolve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tombola.nn.binary import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryLinear,
    binary_sign,
    scaled,
    signs_and_scale,
)

_LAYERS = (BinaryLinear, BinaryConv1d, BinaryConv2d, BinaryConv3d)
_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


def binary_layer(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """alpha·(sign(weight) ⋆ input) + bias, as the Binary* layers of `tombola.nn.binary` compute it.

    Args:
        weight: (out, in) of a linear layer, (out, in // groups, *kernel) of a convolution.
        stride: of a convolution, as padding and dilation; empty for a linear layer.
    """
    signs, alpha = signs_and_scale(weight)
    rows = (-1, *[1] * (weight.dim() - 2))
    sums = _sums(input, signs, stride, padding, dilation, groups)
    return scaled(sums, alpha.reshape(rows), None if bias is None else bias.reshape(rows))


def _sums(input: Tensor, weight: Tensor, *moves: Any) -> Tensor:
    """weight ⋆ input."""
    return F.linear(input, weight) if weight.dim() == 2 else _CONVOLUTIONS[weight.dim()](input, weight, None, *moves)


_operation = torch.library.custom_op("tombola::binary_layer", binary_layer, mutates_args=())
_operation.register_fake(lambda input, weight, bias, *moves: _sums(input, weight, *moves))


def keep_whole(model: nn.Module) -> None:
    """Let the binary layers of a copy that is exported be called as one operation."""
    for module in model.modules():
        if type(module) in _LAYERS and "forward" not in vars(module) and _plain(module):
            module.forward = _Call(module)


def _plain(module: Any) -> bool:
    return isinstance(module, nn.Linear) or (module.padding_mode == "zeros" and not isinstance(module.padding, str))


class _Call:
    """The layer's forward, as one operation."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, input: Tensor) -> Any:
        layer = self.module
        moves: tuple[Any, ...] = ([], [], [], 1)
        if not isinstance(layer, nn.Linear):
            moves = (*(list(layer.__dict__[name]) for name in ("stride", "padding", "dilation")), layer.groups)
        return _operation(input, layer.weight, layer.bias, *moves)


def put_back(network: fx.GraphModule) -> None:
    """Plain functions in place of the operation, whose call would cost more, and of the steps of `binary_sign`."""
    for node in list(network.graph.nodes):
        if node.target is torch.ops.tombola.binary_layer.default:
            node.target = binary_layer
        elif (source := _of_signs(node)) is not None:
            node.target, node.args, node.kwargs = binary_sign, (source,), {}


def _of_signs(node: fx.Node) -> fx.Node | None:
    """What sign(sign(x) + 0.5) is of."""
    aten, source = torch.ops.aten, node
    for target, more in ((aten.sign.default, ()), (aten.add.Tensor, (0.5,)), (aten.sign.default, ())):
        if not isinstance(source, fx.Node) or source.target is not target or source.args[1:] != more:
            return None
        source = source.args[0]  # type: ignore[assignment]
    return source
