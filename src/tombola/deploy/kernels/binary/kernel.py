"""The packed kernel: a layer of weights 0 and ± one magnitude, on the signs of its input."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tombola.deploy.kernels.binary.layer import ConvWindow, Maps, pack_weights
from tombola.deploy.kernels.binary.modules import BitThreshold, PackedLayer, PackSigns
from tombola.deploy.kernels.kernel import Kernel, Run, reference
from tombola.deploy.ops import Conv, Linear, Op, Region
from tombola.nn.binary import binary_sign, signs_and_scale


def takes(op: Op) -> str | None:
    """Why the operation is not one for this kernel, in a few words; None where it is."""
    if not isinstance(op, Conv | Linear):
        return "no layer with weights"
    if op.weight.dtype != torch.float32 or 0 in op.weight.shape or op.nonzeros.constants is None:
        return "weights other than 0 and ± one number"
    if isinstance(op, Conv) and op.groups != 1:
        return "a convolution of groups"
    if isinstance(op, Conv) and op.after != op.padding:
        return "padding of unequal sides"
    fused = op.activation is not None or op.residual is not None
    return "an addition or an activation fused into it" if fused else None


def packed_layer(op: Conv | Linear, maps: Maps, after: BitThreshold | None, threads: int) -> PackedLayer:
    """The layer on packed maps; `after`: what follows it up to the next signs."""
    weight = op.weight.detach()
    _, scale = signs_and_scale(weight)
    if isinstance(op, Linear):
        window = ConvWindow((maps.height, maps.width))
        weight = weight.reshape(len(weight), maps.channels, *window.kernel)
    else:
        window = ConvWindow((weight.shape[2], weight.shape[3]), op.stride, op.padding, op.dilation)
    weights, flat = pack_weights(weight, scale, op.bias), isinstance(op, Linear)
    return PackedLayer(weights, window, maps, out=len(weight), flat=flat, after=after, threads=threads)


def build(region: Region, batch: int, threads: int, choice: Literal["packed"]) -> Run:
    """Packing and the layer."""
    (op,) = region.ops
    assert isinstance(op, Conv | Linear)
    channels, high, wide = (*region.inputs[op.source], 1, 1)[:3]
    maps = Maps(channels, high, wide, op.padding if isinstance(op, Conv) else (0, 0))
    pack, layer = PackSigns(maps, threads), packed_layer(op, maps, None, threads)
    return lambda x: (layer(pack(x)),)


def of_signs(region: Region, x: Tensor) -> tuple[Tensor, ...]:
    """The reference on the signs of the input."""
    return reference(region, binary_sign(x))


PACKED: Kernel[Literal["packed"]] = Kernel("packed", takes, lambda *_: ("packed",), build, of_signs)
