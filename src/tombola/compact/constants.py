"""What each channel of a traced network sends whatever the input: a constant, or something that varies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from tombola.graph.coupling import Channels, Coupling
from tombola.graph.node import shape_of
from tombola.graph.ops import (
    Attention,
    ChannelOp,
    Concat,
    Elementwise,
    Join,
    Norm,
    Own,
    PerChannel,
    Pick,
    Reshape,
    WeightLayer,
    evaluate,
)
from tombola.graph.reshape import Regrouped

Constants = Mapping[fx.Node, Tensor]
"""node -> float64, one number per label of its channels: the constant that it sends in eval mode, NaN if it varies.

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
    constant = _along(layer.source, channels, coupling, constants)
    return constant if layer.unpadded else constant.where(constant == 0, torch.nan)


def sums(layer: WeightLayer) -> Tensor:
    """The weight summed over the kernel, float64 on the CPU, (out, in // groups)."""
    weight = layer.weight.detach()
    return (weight if layer.linear else weight.flatten(2).sum(2, dtype=torch.float64)).double().cpu()


def reads(layer: WeightLayer) -> Tensor:
    """Which inputs have a weight that is not 0, bool on the CPU, (out, in // groups)."""
    weight = layer.weight.detach() != 0
    return (weight if layer.linear else weight.flatten(2).any(2)).cpu()


def _along(source: fx.Node, channels: Channels, coupling: Coupling, constants: Constants) -> Tensor:
    """What a value sends along the axes of some channels."""
    own = coupling.values.get(source)
    if own is None or not set(channels.axes) <= set(own.axes):
        return _unknown(channels)
    others = [i for i, axis in enumerate(own.axes) if axis not in channels.axes]
    return _alike(constants[source], others)


def _alike(constant: Tensor, axes: list[int]) -> Tensor:
    """Constants without some axes: NaN where they differ along these."""
    if not axes:
        return constant
    low, high = constant.amin(axes), constant.amax(axes)  # NaN where one is
    return torch.where(low == high, low, torch.nan)


def _unknown(channels: Channels) -> Tensor:
    return torch.full(channels.labels.shape, torch.nan, dtype=torch.float64, device="cpu")


def _of(node: fx.Node, op: ChannelOp, coupling: Coupling, constants: Constants) -> Tensor:
    channels = coupling.values[node]
    match op:
        case WeightLayer():
            return _layer(op, constants_into(op, coupling.into[node], coupling, constants))
        case Norm():
            return _norm(op, _along(op.source, channels, coupling, constants))
        case Own():
            return op.value.detach().double().cpu().reshape(channels.labels.shape)
        case Elementwise():
            return _pointwise(node, op, constants[op.source])
        case PerChannel():
            constant = _moved(op, op.source, channels, coupling, constants)
            if op.varies:
                return _unknown(channels)
            return constant if op.keeps else constant.where(constant == 0, torch.nan)
        case Pick():
            return _moved(op, op.source, channels, coupling, constants)
        case Reshape():
            return _moved(op.regrouped, op.source, channels, coupling, constants)
        case Join():
            return _join(node, op, channels, coupling, constants)
        case Concat():
            return _concat(op, channels, coupling, constants)
        case Attention():
            value = _along(op.sources[2], channels, coupling, constants)
            return value.where(value == 0, torch.nan)
        case _:
            return _unknown(channels)


def _moved(
    op: PerChannel | Pick | Regrouped, source: fx.Node, channels: Channels, coupling: Coupling, constants: Constants
) -> Tensor:
    moved = op.moved(coupling.values[source].axes, constants[source])
    assert moved is not None  # labels went the same way
    axes, constant = moved
    return constant[tuple(slice(None) if axis in channels.axes else 0 for axis in axes)]


def _concat(op: Concat, channels: Channels, coupling: Coupling, constants: Constants) -> Tensor:
    if op.axis not in channels.axes:
        parts = [_along(source, channels, coupling, constants) for source in op.sources]
        return _alike(torch.stack(parts), [0])
    parts, start = [], 0
    for source in op.sources:
        size = (shape_of(source) or ())[op.axis]
        piece = Channels(channels.axes, channels.labels.narrow(0, start, size))
        parts.append(_along(source, piece, coupling, constants))
        start += size
    return torch.cat(parts)


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
    one, other = (_within(node, source, channels, coupling, constants) for source in op.sources)
    value = evaluate(node, dict(zip(op.sources, (one, other), strict=True)))
    return torch.where((one == 0) | (other == 0), 0.0, value) if op.product else value


def _within(node: fx.Node, source: fx.Node, channels: Channels, coupling: Coupling, constants: Constants) -> Tensor:
    """What one side of a join sends, by the axes of its result."""
    shift = len(shape_of(node) or ()) - len(shape_of(source) or ())
    constant = _along(
        source, Channels(tuple(axis - shift for axis in channels.axes), channels.labels), coupling, constants
    )
    return constant if constant.shape == channels.labels.shape else _unknown(channels)


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """As the network's own arithmetic could hold it."""
    return value.to(dtype).double()
