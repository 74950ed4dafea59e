"""What each channel of a traced network sends whatever the input: a constant, or something that varies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from tombola.graph.coupling import Channels, Coupling
from tombola.graph.node import shape_of
from tombola.graph.ops import (
    ChannelOp,
    Concat,
    Elementwise,
    Join,
    Norm,
    PerChannel,
    Reshape,
    WeightLayer,
    evaluate,
)

Constants = Mapping[fx.Node, Tensor]
"""node -> float64, one number per channel: the constant that it sends in eval mode, NaN if it varies.

With norms that compute statistics a constant is one in train mode too.
"""

# Around 0 the rounding of the network's own arithmetic decides which side of a discontinuity a constant lies on.
_NEAR_STEP = 1e-5


def constants_of(ops: Mapping[fx.Node, ChannelOp], coupling: Coupling) -> dict[fx.Node, Tensor]:
    """The constants of every node whose channels are known."""
    constants: dict[fx.Node, Tensor] = {}
    for node in coupling.values:
        value = _of(node, ops[node], coupling, constants)
        constants[node] = torch.where(value.isfinite(), value, torch.nan)
    return constants


def constants_into(layer: WeightLayer, channels: Channels, coupling: Coupling, constants: Constants) -> Tensor:
    """What enters a layer: constants where every position of the map counts alike, NaN elsewhere."""
    constant = _along(layer.source, channels.axis, len(channels.labels), coupling, constants)
    return constant if layer.unpadded else constant.where(constant == 0, torch.nan)


def sums(layer: WeightLayer) -> Tensor:
    """The weight summed over the kernel, float64 on the CPU, (out, in // groups)."""
    weight = layer.weight.detach()
    return (weight if layer.linear else weight.flatten(2).sum(2, dtype=torch.float64)).double().cpu()


def reads(layer: WeightLayer) -> Tensor:
    """Which inputs have a weight that is not 0, bool on the CPU, (out, in // groups)."""
    weight = layer.weight.detach() != 0
    return (weight if layer.linear else weight.flatten(2).any(2)).cpu()


def _along(source: fx.Node, axis: int, size: int, coupling: Coupling, constants: Constants) -> Tensor:
    """What a value sends along an axis."""
    channels = coupling.values.get(source)
    return constants[source] if channels is not None and channels.axis == axis else _varying(size)


def _varying(size: int) -> Tensor:
    return torch.full((size,), torch.nan, dtype=torch.float64, device="cpu")


def _of(node: fx.Node, op: ChannelOp, coupling: Coupling, constants: Constants) -> Tensor:
    channels = coupling.values[node]
    match op:
        case WeightLayer():
            return _layer(op, constants_into(op, coupling.into[node], coupling, constants))
        case Norm():
            return _norm(op, _along(op.source, 1, len(channels.labels), coupling, constants))
        case Elementwise():
            return _pointwise(node, op, constants[op.source])
        case PerChannel():
            constant = constants[op.source]
            return constant if op.keeps else constant.where(constant == 0, torch.nan)
        case Reshape():
            moved = op.regrouped.channels(coupling.values[op.source].axis, constants[op.source])
            return _varying(len(channels.labels)) if moved is None else moved[1]
        case Join():
            return _join(node, op, channels, coupling, constants)
        case Concat():
            sizes = [(source, (shape_of(source) or ())[op.axis]) for source in op.sources]
            return torch.cat([_along(source, op.axis, size, coupling, constants) for source, size in sizes])
        case _:
            return _varying(len(channels.labels))


def _layer(layer: WeightLayer, constant: Tensor) -> Tensor:
    """bias + sum of weight times constant where every input that is read is one."""
    rows = layer.weight.shape[0]
    inputs = constant.numel() // layer.groups
    varies, value = constant.isnan().reshape(layer.groups, inputs), constant.nan_to_num().reshape(layer.groups, inputs)
    by_group = (layer.groups, rows // layer.groups, inputs)
    live = (reads(layer).reshape(by_group) & varies[:, None]).any(2).reshape(rows)
    total = (sums(layer).reshape(by_group) @ value[..., None]).reshape(rows)
    if layer.bias is not None:
        total = total + layer.bias.detach().double().cpu()
    return torch.where(live, torch.nan, _rounded(total, layer.weight.dtype))


def _norm(norm: Norm, constant: Tensor) -> Tensor:
    """A channel of scale 0 sends its shift; another one a constant only if the norm keeps its statistics."""
    own, value = norm.values, torch.full_like(constant, torch.nan)
    weight, bias = own.get("weight"), own.get("bias")
    if norm.fixed:
        mean, var = own["running_mean"], own["running_var"]
        with torch.no_grad():
            one = constant.to(var.device, var.dtype)[None]
            value = F.batch_norm(one, mean, var, weight, bias, eps=norm.eps)[0].double().cpu()
    if weight is None:
        return value
    off = (weight.detach() == 0).cpu()
    shift = torch.zeros_like(value) if bias is None else bias.detach().double().cpu()
    return torch.where(off, shift, value)


def _pointwise(node: fx.Node, op: Elementwise, constant: Tensor) -> Tensor:
    value = evaluate(node, {op.source: constant}).double()
    known = ~constant.isnan()
    if op.discontinuous:
        known &= (constant == 0) | (constant.abs() > _NEAR_STEP)
    return torch.where(known, value, torch.nan)


def _join(node: fx.Node, op: Join, channels: Channels, coupling: Coupling, constants: Constants) -> Tensor:
    one, other = (_along(source, channels.axis, len(channels.labels), coupling, constants) for source in op.sources)
    value = evaluate(node, dict(zip(op.sources, (one, other), strict=True)))
    return torch.where((one == 0) | (other == 0), 0.0, value) if op.product else value


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """As the network's own arithmetic could hold it."""
    return value.to(dtype).double()
