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
    for node, wire in wiring.values.items():
        value = _of(node, parts[node], wiring, found, modules)
        found[node] = _varying(wire) if value is None else torch.where(value.isfinite(), value, torch.nan)
    return found


def constants_into(layer: Layer, wire: Wire, found: Signals) -> Tensor:
    """What enters a layer: constants where every place of the map counts alike, NaN elsewhere."""
    constant = found.get(layer.source)
    if constant is None or len(constant) != len(wire.labels):
        return _varying(wire)
    return constant if layer.steady else constant.where(constant == 0, torch.nan)


def sums(layer: Layer) -> Tensor:
    """The weight summed over the kernel, float64 on the CPU, (out, in // groups)."""
    weight = layer.weight.detach()
    return (weight if layer.linear else weight.flatten(2).sum(2, dtype=torch.float64)).double().cpu()


def reads(layer: Layer) -> Tensor:
    """Which inputs have a weight that is not 0, bool on the CPU, (out, in // groups)."""
    weight = layer.weight.detach() != 0
    return (weight if layer.linear else weight.flatten(2).any(2)).cpu()


def _unknown(node: fx.Node, axis: int) -> Tensor:
    shape = shape_of(node)
    assert shape is not None
    return torch.full((shape[axis],), torch.nan, dtype=torch.float64)


def _varying(wire: Wire) -> Tensor:
    return torch.full((len(wire.labels),), torch.nan, dtype=torch.float64)


def _of(node: fx.Node, part: Part, wiring: Wiring, found: Signals, modules: Mapping[str, nn.Module]) -> Tensor | None:
    match part:
        case Layer():
            return _layer(part, constants_into(part, wiring.into[node], found))
        case Norm():
            return _norm(part, found.get(part.source, _varying(wiring.into[node])))
        case Pointwise():
            return _pointwise(node, part, found[part.source], modules)
        case Local():
            constant = found[part.source]
            return constant if part.keeps else constant.where(constant == 0, torch.nan)
        case Flatten():
            constant = found[part.source]
            return constant.repeat_interleave(len(wiring.values[node].labels) // len(constant))
        case Join():
            return _join(node, part, found, modules)
        case Concat():
            return torch.cat(
                [found[source] if source in found else _unknown(source, part.axis) for source in part.sources]
            )
        case _:
            return None


def _layer(layer: Layer, constant: Tensor) -> Tensor:
    """bias + sum of weight times constant where every input that is read is one."""
    rows = layer.weight.shape[0]
    varies, value = constant.isnan().reshape(layer.groups, -1), constant.nan_to_num().reshape(layer.groups, -1)
    by_group = (layer.groups, rows // layer.groups, -1)
    live = (reads(layer).reshape(by_group) & varies[:, None]).any(2).reshape(rows)
    total = (sums(layer).reshape(by_group) @ value[..., None]).reshape(rows)
    if layer.bias is not None:
        total = total + layer.bias.detach().double().cpu()
    return torch.where(live, torch.nan, _rounded(total, layer.weight.dtype))


def _norm(norm: Norm, constant: Tensor) -> Tensor:
    module = norm.module
    dtype = module.running_var.dtype if module.running_var is not None else torch.float32
    value = constant
    if norm.fixed:
        one = constant.to(module.running_var.device, dtype)[None]
        with torch.no_grad():
            value = F.batch_norm(
                one, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps
            )
        value = value[0].double().cpu()
    else:
        value = torch.full_like(constant, torch.nan)
    if module.weight is None:
        return value
    off = (module.weight.detach() == 0).cpu()
    return torch.where(off, module.bias.detach().double().cpu(), value)


def _pointwise(node: fx.Node, part: Pointwise, constant: Tensor, modules: Mapping[str, nn.Module]) -> Tensor:
    value = evaluate(node, modules, {part.source: constant}).double()
    known = ~constant.isnan()
    if part.jumps:
        known &= (constant == 0) | (constant.abs() > _NEAR_JUMP)
    return torch.where(known, value, torch.nan)


def _join(node: fx.Node, part: Join, found: Signals, modules: Mapping[str, nn.Module]) -> Tensor | None:
    one, other = (found.get(source) for source in part.sources)
    if one is None or other is None:
        return None
    value = evaluate(node, modules, dict(zip(part.sources, (one, other), strict=True)))
    return torch.where((one == 0) | (other == 0), 0.0, value) if part.product else value


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """As the network's own arithmetic could hold it."""
    return value.to(dtype).double()
