"""Which nodes of a traced network a region can hold, and as what operation."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tombola.deploy.ops import Conv, Linear, Op, Pointwise, Pool
from tombola.nn import flow
from tombola.nn.binary import BinaryConv2d, BinaryLinear


class Unsupported(Exception):
    """A node that no kernel supports; the message is the reason, in a few words."""


@dataclass(frozen=True)
class PassThrough:
    """The node passes its source on, unchanged or flattened."""

    source: fx.Node


@dataclass(frozen=True)
class Recognised:
    """A node as an operation on named values, with the nodes of its source and residual."""

    op: Op
    source: fx.Node
    residual: fx.Node | None = None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the node's value: (N, C, H, W) or (N, F), float32, on the CPU. Raises Unsupported for any other."""
    meta = node.meta.get("tensor_meta")
    if meta is None or not hasattr(meta, "shape"):
        raise Unsupported("its value is not one tensor")
    value = node.meta["device"]
    if meta.dtype != torch.float32 or value != "cpu":
        raise Unsupported(f"its value is {meta.dtype} on {value}")
    if len(meta.shape) not in (2, 4):
        raise Unsupported(f"its value has {len(meta.shape)} dimensions")
    return tuple(meta.shape)


def recognise(node: fx.Node, modules: Mapping[str, nn.Module]) -> PassThrough | Recognised:
    """What a node of a network in eval mode computes.

    Raises:
        Unsupported: a region cannot hold it.
    """
    shape_of(node)
    if node.op == "call_module":
        module = modules[str(node.target)]
        if (why := flow.altered(module)) is not None:
            raise Unsupported(why)
        reader = next((read for kind, read in _MODULES.items() if type(module) is kind), None)
        if reader is None:
            raise Unsupported(f"nn.{type(module).__name__} has no kernel of its own")
        return reader(node, module)
    if node.op in ("call_function", "call_method"):
        read = _FUNCTIONS.get(node.target)
        if read is None:
            raise Unsupported(f"{getattr(node.target, '__name__', node.target)} has no kernel of its own")
        return read(node, modules)
    raise Unsupported("it is not a call")


# ---- layers with weights ---------------------------------------------------------------------------------------------


def _linear(node: fx.Node, layer: Any) -> Recognised:
    return _make_linear(node, str(node.target), layer.weight, layer.bias)


def _conv(node: fx.Node, layer: Any) -> Recognised:
    if layer.padding_mode != "zeros":
        raise Unsupported(f"padding mode {layer.padding_mode}")
    return _make_conv(
        node, str(node.target), layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def _make_linear(node: fx.Node, name: str, weight: Tensor, bias: Tensor | None) -> Recognised:
    source = _input(node)
    if len(shape_of(source)) != 2:
        raise Unsupported("a linear layer over more than (N, F)")
    op = Linear(name, source.name, node.name, _own(weight), None if bias is None else _own(bias))
    return Recognised(op, source)


def _make_conv(
    node: fx.Node, name: str, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Recognised:
    source = _input(node)
    if len(shape_of(source)) != 4:
        raise Unsupported("a convolution without a batch")
    window = weight.shape[2:]
    spread = _pair(dilation)
    if padding == "valid":
        padding = 0
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(spread, window, strict=True)]
        if any(r % 2 for r in reach):
            raise Unsupported("uneven padding")
        padding = tuple(r // 2 for r in reach)
    op = Conv(
        name, source.name, node.name, _own(weight), None if bias is None else _own(bias),
        _pair(stride), _pair(padding), spread, groups,
    )  # fmt: skip
    return Recognised(op, source)


def _own(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise Unsupported(f"its weights are {tensor.dtype} on {tensor.device.type}")
    return tensor.detach().contiguous()


# ---- the others ------------------------------------------------------------------------------------------------------


def _relu(node: fx.Node, _: object) -> Recognised:
    source = _input(node)
    return Recognised(Pointwise(node.name, source.name, node.name, relu=True), source)


def _norm(node: fx.Node, layer: Any) -> Recognised:
    if layer.running_mean is None or layer.running_var is None:
        raise Unsupported("a norm that computes statistics")
    source = _input(node)
    scale = (layer.running_var.detach().double() + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight.detach().double()
    shift = -layer.running_mean.double() * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double()
    return Recognised(Pointwise(str(node.target), source.name, node.name, scale.float(), shift.float()), source)


def _add(node: fx.Node, _: object) -> Recognised:
    if len(node.args) != 2 or any(key != "alpha" for key in node.kwargs) or node.kwargs.get("alpha", 1) != 1:
        raise Unsupported("an addition of other things than two values")
    one, other = node.args
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node) or shape_of(one) != shape_of(other):
        raise Unsupported("an addition of values of unequal shapes")
    return Recognised(Pointwise(node.name, one.name, node.name, residual=other.name), one, other)


def _pool(
    node: fx.Node, kind: str, kernel: Any, stride: Any, padding: Any, *, ceil: bool = False, dilation: Any = 1
) -> Recognised:
    source = _input(node)
    if len(shape_of(source)) != 4 or ceil or _pair(dilation) != (1, 1):
        raise Unsupported("pooling with ceil_mode, dilation or without a batch")
    if kind == "mean" and _pair(padding) != (0, 0):
        raise Unsupported("mean pooling with padding")
    window = _pair(kernel)
    op = Pool(node.name, source.name, node.name, kind, window, _pair(stride or window), _pair(padding))
    return Recognised(op, source)


def _max_module(node: fx.Node, layer: Any) -> Recognised:
    if layer.return_indices:
        raise Unsupported("pooling that returns indices")
    return _pool(
        node, "max", layer.kernel_size, layer.stride, layer.padding, ceil=layer.ceil_mode, dilation=layer.dilation
    )


def _max_function(node: fx.Node, _: object) -> Recognised:
    a = _arguments(node, ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"))
    if a.get("return_indices"):
        raise Unsupported("pooling that returns indices")
    return _pool(
        node, "max", a["kernel_size"], a.get("stride"), a.get("padding", 0),
        ceil=a.get("ceil_mode", False), dilation=a.get("dilation", 1),
    )  # fmt: skip


def _mean_module(node: fx.Node, layer: Any) -> Recognised:
    if layer.divisor_override:
        raise Unsupported("pooling with another divisor")
    return _pool(node, "mean", layer.kernel_size, layer.stride, layer.padding, ceil=layer.ceil_mode)


def _mean_function(node: fx.Node, _: object) -> Recognised:
    names = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    a = _arguments(node, names)
    if a.get("divisor_override"):
        raise Unsupported("pooling with another divisor")
    return _pool(node, "mean", a["kernel_size"], a.get("stride"), a.get("padding", 0), ceil=a.get("ceil_mode", False))


def _adaptive(node: fx.Node, size: Any) -> Recognised:
    source = _input(node)
    space, out = shape_of(source)[2:], shape_of(node)[2:]
    if len(space) != 2 or any(n % m for n, m in zip(space, out, strict=True)):
        raise Unsupported("adaptive pooling over windows of unequal sizes")
    window = tuple(n // m for n, m in zip(space, out, strict=True))
    return _pool(node, "mean", window, window, 0)


def _mean(node: fx.Node, _: object) -> Recognised:
    a = _arguments(node, ("input", "dim", "keepdim", "dtype"))
    source = _input(node)
    dims = a.get("dim")
    dims = dims if isinstance(dims, tuple | list) else ()
    if len(shape_of(source)) != 4 or sorted(d % 4 for d in dims) != [2, 3] or a.get("dtype"):
        raise Unsupported("a mean over other dimensions than height and width")
    window = shape_of(source)[2:]
    return _pool(node, "mean", window, window, 0)


def _same(node: fx.Node, _: object) -> PassThrough:
    source = _input(node)
    if shape_of(source) != shape_of(node):
        raise Unsupported("it changes the shape")
    return PassThrough(source)


def _dropout(node: fx.Node, _: object) -> PassThrough:
    a = _arguments(node, ("input", "p", "training", "inplace"))
    if a.get("training", True):
        raise Unsupported("dropout that is always on")
    return PassThrough(_input(node))


def _flatten(node: fx.Node, _: object) -> PassThrough:
    """(N, C, H, W) -> (N, C·H·W), by whatever call; and what changes nothing."""
    source = _input(node)
    before, after = shape_of(source), shape_of(node)
    if after != before and (len(after) != 2 or after[0] != before[0]):
        raise Unsupported("it changes the shape")
    return PassThrough(source)


def _squeeze(node: fx.Node, modules: Mapping[str, nn.Module]) -> PassThrough:
    if len(node.args) + len(node.kwargs) < 2:
        raise Unsupported("squeezing of every dimension, the batch too")
    return _flatten(node, modules)


def _linear_function(node: fx.Node, modules: Mapping[str, nn.Module]) -> Recognised:
    a = _arguments(node, ("input", "weight", "bias"))
    weight, bias = _held(a["weight"], modules), _held(a.get("bias"), modules)
    assert weight is not None
    return _make_linear(node, str(a["weight"].target), weight, bias)


def _conv_function(node: fx.Node, modules: Mapping[str, nn.Module]) -> Recognised:
    a = _arguments(node, ("input", "weight", "bias", "stride", "padding", "dilation", "groups"))
    weight, bias = _held(a["weight"], modules), _held(a.get("bias"), modules)
    assert weight is not None
    return _make_conv(
        node, str(a["weight"].target), weight, bias,
        a.get("stride", 1), a.get("padding", 0), a.get("dilation", 1), a.get("groups", 1),
    )  # fmt: skip


def _held(node: object, modules: Mapping[str, nn.Module]) -> Tensor | None:
    """The tensor that a get_attr node reads; None for None."""
    if node is None:
        return None
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise Unsupported("its weights are computed in the network")
    path, _, name = str(node.target).rpartition(".")
    tensor: Tensor = getattr(modules[path], name)
    return tensor


def _input(node: fx.Node) -> fx.Node:
    first = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(first, fx.Node):
        raise Unsupported("its input is not one value")
    return first


def _arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """The call's arguments by name."""
    if len(node.args) > len(names) or any(key not in names for key in node.kwargs):
        raise Unsupported("arguments that are not known")
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    pair = tuple(int(n) for n in value)
    return (pair[0], pair[0]) if len(pair) == 1 else (pair[0], pair[1])


_MODULES: Mapping[type[nn.Module], Callable[[fx.Node, Any], PassThrough | Recognised]] = MappingProxyType(
    {
        nn.Linear: _linear,
        BinaryLinear: _linear,
        nn.Conv2d: _conv,
        BinaryConv2d: _conv,
        nn.ReLU: _relu,
        nn.BatchNorm1d: _norm,
        nn.BatchNorm2d: _norm,
        nn.MaxPool2d: _max_module,
        nn.AvgPool2d: _mean_module,
        nn.AdaptiveAvgPool2d: lambda node, layer: _adaptive(node, layer.output_size),
        nn.Identity: _same,
        nn.Flatten: _flatten,
        **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _same),
    }
)

_FUNCTIONS: Mapping[Any, Callable[[fx.Node, Mapping[str, nn.Module]], PassThrough | Recognised]] = MappingProxyType(
    {
        F.linear: _linear_function,
        **dict.fromkeys((F.conv2d, torch.conv2d), _conv_function),
        **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), _relu),
        **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _add),
        **dict.fromkeys((F.max_pool2d, torch.max_pool2d), _max_function),
        F.avg_pool2d: _mean_function,
        F.adaptive_avg_pool2d: lambda node, _: _adaptive(node, None),
        **dict.fromkeys((torch.mean, "mean"), _mean),
        **dict.fromkeys((torch.flatten, "flatten", "view", "reshape", torch.reshape), _flatten),
        **dict.fromkeys((torch.squeeze, "squeeze"), _squeeze),
        **dict.fromkeys((F.dropout, F.dropout2d), _dropout),
        "contiguous": _same,
    }
)
