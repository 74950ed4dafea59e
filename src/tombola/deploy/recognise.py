"""Which nodes of a traced network a region can hold, and as what operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx

from tombola.deploy.jit.activations import EMITTED
from tombola.deploy.ops import Activation, Conv, Linear, Op, Pointwise, Pool
from tombola.graph.edit import tensor
from tombola.graph.node import arguments, operation, value_of, words


class Unsupported(Exception):
    """A node that no kernel supports; the message is the reason, in a few words."""


@dataclass(frozen=True)
class PassThrough:
    """The node passes its source on, unchanged or flattened."""

    source: fx.Node


@dataclass(frozen=True)
class Recognised:
    """A node as an operation on named values, with the nodes of its source and residual.

    `between`: nodes after the source whose work is the operation's too, such as padding.
    """

    op: Op
    source: fx.Node
    residual: fx.Node | None = None
    between: tuple[fx.Node, ...] = ()


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the node's value: (N, C, H, W), (N, C, L) or (N, F), float32, on the CPU.

    Raises:
        Unsupported: any other.
    """
    value = value_of(node)
    if value is None:
        raise Unsupported("its value is not one tensor")
    if (value.dtype, value.device) != ("float32", "cpu"):
        raise Unsupported(f"its value is {value.dtype} on {value.device}")
    if len(value.shape) not in (2, 3, 4):
        raise Unsupported(f"its value has {len(value.shape)} dimensions")
    return value.shape


def recognise(node: fx.Node, network: fx.GraphModule) -> PassThrough | Recognised:
    """What a node of a traced network computes.

    Raises:
        Unsupported: a region cannot hold it.
    """
    shape_of(node)
    if node.op != "call_function":
        raise Unsupported("it is not a call")
    read = _OPERATIONS.get(operation(node))
    if read is None:
        raise Unsupported(f"{operation(node)} has no kernel of its own")
    return read(_Call(node, network, arguments(node)))


@dataclass(frozen=True)
class _Call:
    """A node with its arguments by name."""

    node: fx.Node
    network: fx.GraphModule
    given: Mapping[str, Any]

    @property
    def source(self) -> fx.Node:
        """What it is applied to."""
        first = self.given["input" if "input" in self.given else "self"]
        if not isinstance(first, fx.Node):
            raise Unsupported("its input is not one value")
        return first

    def own(self, name: str) -> Tensor | None:
        """The network's own tensor of that argument; None for None."""
        node = self.given.get(name)
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise Unsupported("its weights are computed in the network")
        value = tensor(self.network, str(node.target))
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise Unsupported(f"its weights are {value.dtype} on {value.device.type}")
        return value.detach().contiguous()

    def window(self, name: str, fill: int) -> tuple[int, int]:
        """The argument's numbers for rows and columns: one for all axes, alone or in a list, or one for each.

        `fill`: for columns, where the input has none.
        """
        return pair(self.given[name], len(shape_of(self.source)) - 2, fill)

    def name(self, local: str) -> str:
        """The layer's name: that of its weight without the last part, where this is the usual one."""
        return str(self.given[local].target).removesuffix(f".{local}")


# ---- layers with weights ---------------------------------------------------------------------------------------------


def _layer(call: _Call) -> Recognised:
    weight = call.own("weight")
    assert weight is not None
    return (_linear if weight.dim() == 2 else _conv)(call, weight)


def _linear(call: _Call, weight: Tensor) -> Recognised:
    if len(shape_of(call.source)) != 2:
        raise Unsupported("a linear layer over more than (N, F)")
    op = Linear(call.name("weight"), call.source.name, call.node.name, weight, call.own("bias"))
    return Recognised(op, call.source)


def _addmm(call: _Call) -> Recognised:
    """bias + rows · weight, of a weight (in, out), as of GPT-2's layers."""
    weight, bias = call.own("mat2"), call.own("self")
    assert weight is not None
    if (call.given["alpha"], call.given["beta"]) != (1, 1) or bias is None or bias.shape != weight.shape[1:]:
        raise Unsupported("a product with another sum than of a bias")
    if not bool((weight == 0).any()):
        raise Unsupported("no weight of it is 0")
    source = call.given["mat1"]
    if not isinstance(source, fx.Node) or len(shape_of(source)) != 2:
        raise Unsupported("its input is not one value")
    name = str(call.given["mat2"].target).removesuffix(".weight")
    return Recognised(Linear(name, source.name, call.node.name, weight.mT.contiguous(), bias), source)


def _conv(call: _Call, weight: Tensor) -> Recognised:
    """Over maps, or over (N, C, L) as maps of one column; with the padding that comes before it."""
    given, source = call.given, call.source
    if len(shape_of(source)) != weight.dim():
        raise Unsupported("a convolution without a batch")
    weight = weight.unsqueeze(-1) if weight.dim() == 3 else weight
    spread, padding = call.window("dilation", 1), (0, 0)
    if given["padding"] == "same":
        reach = [d * (k - 1) for d, k in zip(spread, weight.shape[2:], strict=True)]
        padding, end = (reach[0] // 2, reach[1] // 2), (-(-reach[0] // 2), -(-reach[1] // 2))
    else:
        padding = end = (0, 0) if given["padding"] == "valid" else call.window("padding", 0)
    between = (source,) if is_padding_of_a_layer(source) else ()
    if between:
        (top, bottom), (left, right) = _pads(source)
        padding, end = (padding[0] + top, padding[1] + left), (end[0] + bottom, end[1] + right)
        source = source.all_input_nodes[0]
    op = Conv(
        call.name("weight"), source.name, call.node.name, weight, call.own("bias"),
        call.window("stride", 1), padding, spread, int(given["groups"]), end=None if end == padding else end,
    )  # fmt: skip
    return Recognised(op, source, between=between)


def is_padding_of_a_layer(node: fx.Node) -> bool:
    """Whether a node puts zeros around maps that one convolution alone reads, which then is its padding."""
    if operation(node) not in words("pad constant_pad_nd") or len(node.users) != 1:
        return False
    user, given = next(iter(node.users)), arguments(node)
    if operation(user) not in words("conv1d conv2d") or arguments(user)["input"] is not node:
        return False
    value = value_of(node)
    if value is None or given.get("mode", "constant") != "constant" or given.get("value") not in (None, 0):
        return False
    pad = given["pad"]
    return len(pad) <= 2 * (len(value.shape) - 2) and all(isinstance(n, int) and n >= 0 for n in pad)


def _pads(node: fx.Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows before and after, columns before and after): torch names the last axis first."""
    pad = arguments(node)["pad"]
    sides = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    value = value_of(node)
    assert value is not None
    axes = [*reversed([*sides, (0, 0), (0, 0)][: len(value.shape) - 2]), (0, 0)]
    return axes[0], axes[1]


# ---- the others ------------------------------------------------------------------------------------------------------


def _activation(call: _Call) -> Recognised:
    given = dict(call.given)
    if given.pop("approximate", "none") != "none":
        raise Unsupported("a GELU that is approximated")
    _, *numbers = given.values()
    if not all(isinstance(value, int | float) for value in numbers):
        raise Unsupported("its numbers are computed in the network")
    activation = Activation(operation(call.node), tuple(map(float, numbers)))
    name = call.node.name
    return Recognised(Pointwise(name, call.source.name, name, activation=activation), call.source)


def _norm(call: _Call) -> Recognised:
    mean, var = call.own("running_mean"), call.own("running_var")
    if mean is None or var is None or call.given["training"]:
        raise Unsupported("a norm that computes statistics")
    weight, bias = call.own("weight"), call.own("bias")
    scale = (var.double() + call.given["eps"]).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    name = call.name("running_mean")
    return Recognised(Pointwise(name, call.source.name, call.node.name, scale.float(), shift.float()), call.source)


def _add(call: _Call) -> Recognised:
    one, other = call.given["self"], call.given["other"]
    if call.given["alpha"] != 1 or not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        raise Unsupported("an addition of other things than two values")
    if shape_of(one) != shape_of(other) or "get_attr" in (one.op, other.op):
        raise Unsupported("an addition of values of unequal shapes")
    return Recognised(Pointwise(call.node.name, one.name, call.node.name, residual=other.name), one, other)


def _pool(call: _Call) -> Recognised:
    given, name = call.given, operation(call.node)
    kind = "max" if "max" in name else "mean"
    if len(shape_of(call.source)) != 2 + int(name[-2]):
        raise Unsupported("pooling without a batch")
    if given["ceil_mode"] or ("dilation" in given and call.window("dilation", 1) != (1, 1)):
        raise Unsupported("pooling with ceil_mode or dilation")
    if given.get("divisor_override"):
        raise Unsupported("pooling with another divisor")
    window, padding = call.window("kernel_size", 1), call.window("padding", 0)
    if kind == "mean" and padding != (0, 0):
        raise Unsupported("mean pooling with padding")
    return _pooled(call, kind, window, call.window("stride", 1) if given["stride"] else window, padding)


def _pooled(
    call: _Call, kind: str, window: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)
) -> Recognised:
    op = Pool(call.node.name, call.source.name, call.node.name, kind, window, stride, padding)
    return Recognised(op, call.source)


def _adaptive(call: _Call) -> Recognised:
    space, out = shape_of(call.source)[2:], shape_of(call.node)[2:]
    if not space or len(space) != int(operation(call.node)[-2]) or any(n % m for n, m in zip(space, out, strict=True)):
        raise Unsupported("adaptive pooling over windows of unequal sizes")
    window = pair([n // m for n, m in zip(space, out, strict=True)], len(space), 1)
    return _pooled(call, "mean", window, window)


def _mean(call: _Call) -> Recognised:
    shape, dims = shape_of(call.source), call.given.get("dim") or ()
    rank = len(shape)
    if rank < 3 or sorted(d % rank for d in dims) != list(range(2, rank)) or call.given.get("dtype"):
        raise Unsupported("a mean over other dimensions than height and width")
    window = pair(shape[2:], rank - 2, 1)
    return _pooled(call, "mean", window, window)


def _dropout(call: _Call) -> PassThrough:
    if call.given["train"]:
        raise Unsupported("dropout that is always on")
    return PassThrough(call.source)


def _flatten(call: _Call) -> PassThrough:
    """(N, C, H, W) -> (N, C·H·W), by whatever call; and what changes nothing."""
    before, after = shape_of(call.source), shape_of(call.node)
    if after != before and (len(after) != 2 or after[0] != before[0]):
        raise Unsupported("it changes the shape")
    return PassThrough(call.source)


def _squeeze(call: _Call) -> PassThrough:
    if "dim" not in call.given:
        raise Unsupported("squeezing of every dimension, the batch too")
    return _flatten(call)


def pair(value: Any, axes: int = 2, fill: int = 0) -> tuple[int, int]:
    """Of a number for all axes, alone or in a list, or of one for each, those of two: of one axis with `fill`."""
    numbers = [value] if isinstance(value, int) else list(value)
    first, second = (*(numbers * axes)[:axes], fill)[:2]
    return int(first), int(second)


_OPERATIONS: Mapping[str, Callable[[_Call], PassThrough | Recognised]] = MappingProxyType(
    {
        **dict.fromkeys(words("linear conv1d conv2d binary_layer"), _layer),
        "addmm": _addmm,
        **dict.fromkeys(EMITTED, _activation),
        "batch_norm": _norm,
        "add": _add,
        **dict.fromkeys(words("max_pool1d max_pool2d avg_pool1d avg_pool2d"), _pool),
        **dict.fromkeys(words("adaptive_avg_pool1d adaptive_avg_pool2d"), _adaptive),
        "mean": _mean,
        **dict.fromkeys(words("dropout feature_dropout alpha_dropout"), _dropout),
        **dict.fromkeys(words("flatten view reshape contiguous clone detach alias"), _flatten),
        "squeeze": _squeeze,
    }
)
"""Operation -> how a region holds it."""
