"""What each channel of a traced network sends whatever the input: a constant, or something that varies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tombola.compact.parts import Concat, Flatten, Join, Layer, Local, Norm, Part, Pointwise, evaluate
from tombola.compact.trace import shape_of
from tombola.compact.wires import Wire, Wiring

Signals = Mapping[fx.Node, Tensor]
"""node -> float64, one number per channel of its wire: the constant that it sends in eval mode, NaN if it varies.

With norms that compute statistics a constant is one in train mode too.
"""

# Around 0 the rounding of the network's own arithmetic decides which side of a jump a constant lies on.
_NEAR_JUMP = 1e-5


def signals(parts: Mapping[fx.Node, Part], wiring: Wiring, modules: Mapping[str, nn.Module]) -> dict[fx.Node, Tensor]:
    """The constants of every node that has a wire."""
    found: dict[fx.Node, Tensor] = {}
    for node in wiring.values:
        value = _of(node, parts[node], wiring, found, modules)
        found[node] = torch.where(value.isfinite(), value, torch.nan)
    return found


def constants_into(layer: Layer, wire: Wire, wiring: Wiring, found: Signals) -> Tensor:
    """What enters a layer along its input wire: constants where every place of the map counts alike, NaN elsewhere."""
    constant = _along(layer.source, wire.axis, len(wire.labels), wiring, found)
    return constant if layer.steady else constant.where(constant == 0, torch.nan)


def sums(layer: Layer) -> Tensor:
    """The weight summed over the kernel, float64 on the CPU, (out, in // groups)."""
    weight = layer.weight.detach()
    return (weight if layer.linear else weight.flatten(2).sum(2, dtype=torch.float64)).double().cpu()


def reads(layer: Layer) -> Tensor:
    """Which inputs have a weight that is not 0, bool on the CPU, (out, in // groups)."""
    weight = layer.weight.detach() != 0
    return (weight if layer.linear else weight.flatten(2).any(2)).cpu()


def _along(source: fx.Node, axis: int, size: int, wiring: Wiring, found: Signals) -> Tensor:
    """What a value sends along an axis."""
    wire = wiring.values.get(source)
    return found[source] if wire is not None and wire.axis == axis else _varying(size)


def _varying(size: int) -> Tensor:
    return torch.full((size,), torch.nan, dtype=torch.float64, device="cpu")


def _of(node: fx.Node, part: Part, wiring: Wiring, found: Signals, modules: Mapping[str, nn.Module]) -> Tensor:
    wire = wiring.values[node]
    match part:
        case Layer():
            return _layer(part, constants_into(part, wiring.into[node], wiring, found))
        case Norm():
            return _norm(part, _along(part.source, 1, len(wire.labels), wiring, found))
        case Pointwise():
            return _pointwise(node, part, found[part.source], modules)
        case Local():
            constant = found[part.source]
            return constant if part.keeps else constant.where(constant == 0, torch.nan)
        case Flatten():
            constant = found[part.source]
            return constant.repeat_interleave(len(wire.labels) // len(constant))
        case Join():
            return _join(node, part, wire, wiring, found, modules)
        case Concat():
            sizes = [(source, (shape_of(source) or ())[part.axis]) for source in part.sources]
            return torch.cat([_along(source, part.axis, size, wiring, found) for source, size in sizes])
        case _:
            return _varying(len(wire.labels))


def _layer(layer: Layer, constant: Tensor) -> Tensor:
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
    module = norm.module
    value = torch.full_like(constant, torch.nan)
    if norm.fixed:
        one = constant.to(module.running_var.device, module.running_var.dtype)[None]
        statistics = module.running_mean, module.running_var, module.weight, module.bias
        with torch.no_grad():
            value = F.batch_norm(one, *statistics, eps=module.eps)[0].double().cpu()
    if module.weight is None:
        return value
    off = (module.weight.detach() == 0).cpu()
    shift = torch.zeros_like(value) if module.bias is None else module.bias.detach().double().cpu()
    return torch.where(off, shift, value)


def _pointwise(node: fx.Node, part: Pointwise, constant: Tensor, modules: Mapping[str, nn.Module]) -> Tensor:
    value = evaluate(node, modules, {part.source: constant}).double()
    known = ~constant.isnan()
    if part.jumps:
        known &= (constant == 0) | (constant.abs() > _NEAR_JUMP)
    return torch.where(known, value, torch.nan)


def _join(
    node: fx.Node, part: Join, wire: Wire, wiring: Wiring, found: Signals, modules: Mapping[str, nn.Module]
) -> Tensor:
    one, other = (_along(source, wire.axis, len(wire.labels), wiring, found) for source in part.sources)
    value = evaluate(node, modules, dict(zip(part.sources, (one, other), strict=True)))
    return torch.where((one == 0) | (other == 0), 0.0, value) if part.product else value


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """As the network's own arithmetic could hold it."""
    return value.to(dtype).double()
