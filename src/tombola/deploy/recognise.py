"""Which nodes of a traced network a region can hold, and as what operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, fx

from tombola.deploy import maps
from tombola.deploy.jit.activations import EMITTED
from tombola.deploy.node import Call, PassThrough, Recognised, Unsupported, shape_of
from tombola.deploy.ops import Activation, Conv, Linear, Pointwise
from tombola.deploy.transposed import transposed
from tombola.graph.node import arguments, operation, value_of, words


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
    return read(Call(node, network, arguments(node)))


# ---- layers with weights ---------------------------------------------------------------------------------------------


def _layer(call: Call) -> Recognised:
    weight = call.own("weight")
    assert weight is not None
    return (_linear if weight.dim() == 2 else _conv)(call, weight)


def _linear(call: Call, weight: Tensor) -> Recognised:
    if len(shape_of(call.source)) != 2:
        raise Unsupported("a linear layer over more than (N, F)")
    op = Linear(call.name("weight"), call.source.name, call.node.name, weight, call.own("bias"))
    return Recognised(op, (call.source,))


def _addmm(call: Call) -> Recognised:
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
    return Recognised(Linear(name, source.name, call.node.name, weight.mT.contiguous(), bias), (source,))


def _conv(call: Call, weight: Tensor) -> Recognised:
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
    return Recognised(op, (source,), between)


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


def _activation(call: Call) -> Recognised:
    given = dict(call.given)
    if given.pop("approximate", "none") != "none":
        raise Unsupported("a GELU that is approximated")
    _, *numbers = given.values()
    if not all(isinstance(value, int | float) for value in numbers):
        raise Unsupported("its numbers are computed in the network")
    activation = Activation(operation(call.node), tuple(map(float, numbers)))
    name = call.node.name
    return Recognised(Pointwise(name, call.source.name, name, activation=activation), (call.source,))


def _norm(call: Call) -> Recognised:
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
    return Recognised(Pointwise(name, call.source.name, call.node.name, scale.float(), shift.float()), (call.source,))


def _dropout(call: Call) -> PassThrough:
    if call.given["train"]:
        raise Unsupported("dropout that is always on")
    return PassThrough(call.source)


def _flatten(call: Call) -> PassThrough:
    """(N, C, H, W) -> (N, C·H·W), by whatever call; and what changes nothing."""
    before, after = shape_of(call.source), shape_of(call.node)
    if after != before and (len(after) != 2 or after[0] != before[0]):
        raise Unsupported("it changes the shape")
    return PassThrough(call.source)


def _squeeze(call: Call) -> PassThrough:
    if "dim" not in call.given:
        raise Unsupported("squeezing of every dimension, the batch too")
    return _flatten(call)


_OPERATIONS: Mapping[str, Callable[[Call], PassThrough | Recognised]] = MappingProxyType(
    {
        **dict.fromkeys(words("linear conv1d conv2d binary_layer"), _layer),
        "addmm": _addmm,
        **dict.fromkeys(EMITTED, _activation),
        "batch_norm": _norm,
        **dict.fromkeys(words("add sub mul div"), maps.combined),
        **dict.fromkeys(maps.RESIZING, maps.resized),
        "pixel_shuffle": maps.shuffled,
        **dict.fromkeys(words("conv_transpose1d conv_transpose2d"), transposed),
        **dict.fromkeys(words("max_pool1d max_pool2d avg_pool1d avg_pool2d"), maps.pool),
        **dict.fromkeys(words("adaptive_avg_pool1d adaptive_avg_pool2d"), maps.adaptive),
        "mean": maps.mean,
        **dict.fromkeys(words("dropout feature_dropout alpha_dropout"), _dropout),
        **dict.fromkeys(words("flatten view reshape contiguous clone detach alias"), _flatten),
        "squeeze": _squeeze,
        "cat": maps.concat,
        **dict.fromkeys(words("slice narrow"), maps.cut),
    }
)
"""Operation -> how a region holds it."""
