"""How each operation of a traced network is read: one table, one name per operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx, nn

from tombola.graph.edit import tensor
from tombola.graph.node import arguments, computes, operation, shape_of, words
from tombola.graph.ops import (
    Attention,
    Boundary,
    ChannelOp,
    Concat,
    Elementwise,
    Join,
    Matmul,
    Norm,
    OpaqueOp,
    Own,
    PerChannel,
    Pick,
    Reshape,
    WeightLayer,
)
from tombola.graph.reshape import regrouped
from tombola.nn.binary import BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLinear


def channel_ops(network: fx.GraphModule, model: nn.Module, *, training: bool) -> dict[fx.Node, ChannelOp]:
    """The operation of every node, in order.

    Args:
        network: as `tombola.graph.trace.traced` gives it.
        model: which it was traced from: it tells which weights are those of layers.
        training: norms will compute statistics, and dropouts drop.
    """
    readers: dict[str, set[Any]] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), set()).update(map(_call_with_tensors, node.users))
    reader = _Reader(network, model, {name: len(calls) > 1 for name, calls in readers.items()}, training)
    ops = {node: reader.read(node) for node in network.graph.nodes}
    return ops | {node: own for node in ops if (own := _own(reader, node, ops)) is not None}


def _own(reader: _Reader, node: fx.Node, ops: Mapping[fx.Node, ChannelOp]) -> Own | None:
    """A parameter that nothing but understood operations on values reads."""
    value = reader.tensor(node)
    if not isinstance(value, nn.Parameter) or not all(isinstance(ops[user], _OF_VALUES) for user in node.users):
        return None
    return Own(str(node.target), value)


_OF_VALUES = (Join, Concat, PerChannel, Reshape, Elementwise)


def _call_with_tensors(node: fx.Node) -> tuple[str, ...]:
    """The operation and the tensors of the network that it reads: the same for all calls of one layer."""
    return operation(node), *(str(one.target) for one in node.all_input_nodes if one.op == "get_attr")


@dataclass(frozen=True)
class _Reader:
    """`shared`: of each tensor, whether calls of several kinds or with other tensors read it."""

    network: fx.GraphModule
    model: nn.Module
    shared: Mapping[str, bool]
    training: bool

    def read(self, node: fx.Node) -> ChannelOp:
        """What a node does."""
        if node.op != "call_function" or not computes(node):
            return Boundary()
        name = operation(node)
        read = OPERATIONS.get(name)
        if read is None or shape_of(node) is None:
            return OpaqueOp(f"{name} is not known", discontinuous=name in _STEPS)
        return read(self, node, arguments(node))

    def tensor(self, node: Any) -> Tensor | None:
        """The network's own tensor that a node names."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        value = tensor(self.network, str(node.target))
        return value if isinstance(value, Tensor) else None

    def owner(self, name: str) -> nn.Module | None:
        """The module that has the tensor of that name."""
        try:
            return self.model.get_submodule(name.rpartition(".")[0])
        except AttributeError:
            return None


_Read = Callable[[_Reader, fx.Node, Mapping[str, Any]], ChannelOp]

# ---- layers with weights ---------------------------------------------------------------------------------------------

_BINARY = (BinaryLinear, BinaryConv1d, BinaryConv2d, BinaryConv3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_BINARY)


def _layer(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """linear, conv1d, conv2d, conv3d and Tombola's binary layers."""
    source, named = given["input"], (given["weight"], given["bias"])
    weight, bias = map(reader.tensor, named)
    names = [str(one.target) for one in named if isinstance(one, fx.Node)]
    if not isinstance(weight, nn.Parameter) or (bias is None) != (given["bias"] is None):
        return OpaqueOp("its weights are computed in the network, or no parameters")
    if any(reader.shared[name] for name in names):
        return OpaqueOp("its weights are used in another place too")
    shape, owner = shape_of(source), reader.owner(names[0])
    if shape is None or (weight.dim() > 2 and len(shape) != weight.dim()):
        return OpaqueOp("a convolution without a batch")
    path, _, local = names[0].rpartition(".")
    module = type(owner) in _LAYERS and local == "weight"
    return WeightLayer(
        path if module else names[0],
        source,
        names[0],
        names[1] if len(names) > 1 else None,
        weight,
        bias,
        axis=len(shape) - 1 if weight.dim() == 2 else 1,
        groups=int(given.get("groups", 1)),
        unpadded=not _pads(given.get("padding", 0)),
        binary=operation(node) == "binary_layer",
        module=module,
    )


def _pads(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple | list) else padding != 0


# ---- norms -----------------------------------------------------------------------------------------------------------

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)


def _norm(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """batch_norm and group_norm."""
    source, shape = given["input"], shape_of(given["input"])
    wanted = ("weight", "bias", "running_mean", "running_var")
    nodes = {name: given[name] for name in wanted if given.get(name) is not None}
    values = {name: reader.tensor(one) for name, one in nodes.items()}
    if shape is None or len(shape) < 2 or any(value is None for value in values.values()):
        return OpaqueOp("a norm without a batch, or of tensors that are computed in the network")
    tensors = {name: str(one.target) for name, one in nodes.items()}
    if not tensors:
        return OpaqueOp("a norm without tensors of its own")
    if any(reader.shared[name] for name in tensors.values()):
        return OpaqueOp("its scale is used in another place too")
    first = next(iter(tensors.values()))
    path, owner = first.rpartition(".")[0], reader.owner(first)
    fixed = "running_mean" in tensors and not given.get("training", False) and not reader.training
    module = type(owner) in _NORMS and all(name == f"{path}.{local}" for local, name in tensors.items())
    groups = int(given.get("num_groups", shape[1]))
    known = {name: value for name, value in values.items() if value is not None}
    return Norm(path if module else first, source, tensors, known, float(given["eps"]), fixed, shape[1], groups, module)


def _across_norm(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """layer_norm and rms_norm over the last axis."""
    name, source = operation(node), given["input"]
    shape, sizes = shape_of(source), given["normalized_shape"]
    nodes = {kind: given[kind] for kind in ("weight", "bias") if given.get(kind) is not None}
    values = {kind: reader.tensor(one) for kind, one in nodes.items()}
    tensors = {kind: str(one.target) for kind, one in nodes.items() if isinstance(one, fx.Node)}
    known = {kind: value for kind, value in values.items() if value is not None}
    if shape is None or len(sizes) != 1 or not tensors or len(known) != len(nodes):
        return OpaqueOp(f"a {name} over several axes, or without a scale of its own")
    if any(reader.shared[one] for one in tensors.values()):
        return OpaqueOp("its scale is used in another place too")
    first = next(iter(tensors.values()))
    axis, eps = len(shape) - 1, float(given.get("eps") or 0.0)
    return Norm(first, source, tensors, known, eps, False, shape[-1], 1, module=False, axis=axis, across=True)


# ---- one value to one value ------------------------------------------------------------------------------------------


def _elementwise(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    return _unary(node, lambda source: Elementwise(source))


def _step(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    return _unary(node, lambda source: Elementwise(source, discontinuous=True))


def _same(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    if given.get("dtype") is not None:
        return OpaqueOp("it changes the dtype")
    return _unary(node, lambda source: PerChannel(source, tuple(range(len(shape_of(source) or ())))))


def _dropout(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    if given["train"] and not reader.training:
        return OpaqueOp("dropout that is always on")
    axes = tuple(range(len(shape_of(node) or ())))
    return PerChannel(given["input"], axes, keeps=not reader.training)


def _unary(node: fx.Node, made: Callable[[fx.Node], ChannelOp]) -> ChannelOp:
    sources = [one for one in node.all_input_nodes if shape_of(one) is not None]
    if len(sources) != 1 or shape_of(sources[0]) != shape_of(node):
        return OpaqueOp(f"{operation(node)} of several values")
    return made(sources[0])


def _pool(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """Pools over the last axes: as many as the name says."""
    source, name = given["self" if "self" in given else "input"], operation(node)
    shape, window = shape_of(source), int(name[-2])
    if shape is None:
        return OpaqueOp(f"{name} of several values")
    first = len(shape) - window
    if first < 1:
        return OpaqueOp("pooling without a batch")
    bordered = "avg" in name and _pads(given.get("padding", 0)) and given.get("count_include_pad", True)
    keeps = not bordered and not given.get("divisor_override")
    return PerChannel(source, (*range(first), *[None] * window), keeps)


def _reduced(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """mean and amax over some axes."""
    source = given["self"]
    shape, dims = shape_of(source), given.get("dim")
    if shape is None or not isinstance(dims, list | tuple | int) or dims == [] or given.get("dtype") is not None:
        return OpaqueOp(f"{operation(node)} over all axes")
    gone = {d % len(shape) for d in (dims if isinstance(dims, list | tuple) else [dims])}
    kept = [None if i in gone else i for i in range(len(shape))]
    return PerChannel(source, tuple(kept if given.get("keepdim") else [i for i in kept if i is not None]))


def _permuted(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """permute, transpose and t."""
    source = given["self"]
    n = len(shape_of(source) or ())
    axes = list(range(n))
    if "dims" in given:
        axes = [d % n for d in given["dims"]]
    elif n >= 2:
        one, other = given.get("dim0", 0) % n, given.get("dim1", 1) % n
        axes[one], axes[other] = other, one
    return PerChannel(source, tuple(axes))


def _picked(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """slice and select along one axis."""
    source = given["self"]
    shape = shape_of(source)
    if shape is None or shape_of(node) is None:
        return OpaqueOp(f"{operation(node)} of several values")
    axis = given["dim"] % len(shape)
    if operation(node) == "select":
        index = given["index"]
        return Pick(source, axis, index) if isinstance(index, int) else _without(axis, source, shape, drop=True)
    bounds = [given["start"], given["end"], given["step"]]
    known = not any(isinstance(bound, fx.Node) for bound in bounds)
    return Pick(source, axis, slice(*bounds)) if known else _without(axis, source, shape, drop=False)


def _without(axis: int, source: fx.Node, shape: tuple[int, ...], *, drop: bool) -> ChannelOp:
    """Whose axis is another one afterwards, or none."""
    axes = [None if i == axis else i for i in range(len(shape))]
    return PerChannel(source, tuple(i for i in axes if i is not None) if drop else tuple(axes))


def _softmax(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """softmax along the last of three or more axes: of attention."""
    source = given["self" if "self" in given else "input"]
    shape = shape_of(source) or ()
    if len(shape) < 3 or given["dim"] % len(shape) != len(shape) - 1 or given.get("dtype") is not None:
        return OpaqueOp(f"{operation(node)} is not known")
    return PerChannel(source, (*range(len(shape) - 1), None), keeps=False, varies=True)


def _expanded(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """expand: axes of size 1 become longer, and new ones come first."""
    source = given["self"]
    before, after = shape_of(source), shape_of(node)
    if before is None or after is None:
        return OpaqueOp(f"{operation(node)} of several values")
    new = len(after) - len(before)
    return PerChannel(
        source, tuple(i - new if i >= new and before[i - new] == n else None for i, n in enumerate(after))
    )


def _resized(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """upsampling, over all axes but the first two."""
    source = given["self" if "self" in given else "input"]
    return PerChannel(source, (0, 1, *[None] * (len(shape_of(source) or ()) - 2)))


def _padded(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    source = given["self"]
    n, reach = len(shape_of(source) or ()), len(given["pad"]) // 2
    plain = given.get("mode", "constant") == "constant"
    if plain and given.get("value") not in (None, 0, 0.0):
        return OpaqueOp("padding with another number than 0")
    return PerChannel(source, (*range(n - reach), *[None] * reach), keeps=not plain)


def _reshaped(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """view, reshape, flatten, unflatten, squeeze and unsqueeze."""
    source = given["self"]
    before, after = shape_of(source), shape_of(node)
    if before is None or after is None:
        return OpaqueOp(f"{operation(node)} of several values")
    return Reshape(source, regrouped(before, after))


# ---- several values --------------------------------------------------------------------------------------------------


def _join(product: bool) -> _Read:
    def read(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
        sources = [one for one in (given["self"], given["other"]) if isinstance(one, fx.Node)]
        if any(shape_of(one) is None for one in sources):
            return OpaqueOp(f"{operation(node)} with a size")
        one, other = sources[0], sources[-1]
        if one is other:  # with a number, or with itself
            return Elementwise(one)
        return Join((one, other), product)

    return read


def _with_number(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    if isinstance(given["other"], fx.Node) or not isinstance(given["self"], fx.Node) or given.get("rounding_mode"):
        return OpaqueOp(f"{operation(node)} of two values")
    return Elementwise(given["self"])


def _concat(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    shape = shape_of(node)
    sources = [one for one in given["tensors"] if shape_of(one) != (0,)]  # which torch leaves out, whatever the rest is
    if shape is None or not all(isinstance(one, fx.Node) and shape_of(one) is not None for one in sources):
        return OpaqueOp("a concatenation of other things than values")
    axis = given["dim"] % len(shape)
    if axis == 0:
        return OpaqueOp("a concatenation along the batch")
    return Concat(tuple(sources), axis)


def _attention(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    sources = (given["query"], given["key"], given["value"])
    mask = shape_of(given["attn_mask"])
    heads = {shape[1] for source in sources if (shape := shape_of(source)) and len(shape) == 4}
    if len(heads) != 1 or any(len(shape_of(source) or ()) != 4 for source in sources):
        return OpaqueOp("attention without heads, or of fewer keys than queries")
    if given["attn_mask"] is not None and (mask is None or (len(mask) > 2 and mask[-3] != 1)):
        return OpaqueOp("attention with a mask for each head")
    return Attention(sources)


def _matmul(reader: _Reader, node: fx.Node, given: Mapping[str, Any]) -> ChannelOp:
    """matmul and bmm of values with as many axes, of the same first ones."""
    one, other = given["self"], given["other" if "other" in given else "mat2"]
    first, second = shape_of(one), shape_of(other)
    if first is None or second is None or len(first) < 3 or first[:-2] != second[:-2]:
        return OpaqueOp(f"{operation(node)} is not known")
    return Matmul((one, other))


# ---- the table -------------------------------------------------------------------------------------------------------


def _names(read: _Read, text: str) -> dict[str, _Read]:
    return dict.fromkeys(words(text), read)


OPERATIONS: Mapping[str, _Read] = MappingProxyType(
    {
        **_names(_layer, "linear conv1d conv2d conv3d binary_layer"),
        **_names(_norm, "batch_norm group_norm"),
        **_names(_across_norm, "layer_norm rms_norm"),
        **_names(
            _elementwise,
            "relu relu6 hardtanh sigmoid tanh gelu silu elu selu celu leaky_relu mish hardswish hardsigmoid softplus "
            "log_sigmoid softshrink neg abs square clamp clamp_min clamp_max clip exp expm1 sin cos erf pow",
        ),
        **_names(_step, "sign binary_sign"),
        **_names(_same, "contiguous clone detach alias to lift_fresh_copy"),
        **_names(_dropout, "dropout feature_dropout"),
        **_names(
            _pool,
            "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
            "adaptive_avg_pool2d adaptive_avg_pool3d",
        ),
        **_names(_reduced, "mean amax"),
        **_names(_permuted, "permute transpose t"),
        **_names(_picked, "slice select"),
        **_names(_softmax, "softmax"),
        **_names(_expanded, "expand"),
        **_names(_resized, "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d"),
        **_names(_padded, "pad constant_pad_nd"),
        **_names(_reshaped, "view reshape flatten unflatten squeeze unsqueeze"),
        **_names(_join(product=False), "add sub"),
        **_names(_join(product=True), "mul"),
        **_names(_with_number, "div rsub"),
        **_names(_concat, "cat concat concatenate"),
        **_names(_attention, "scaled_dot_product_attention"),
        **_names(_matmul, "matmul bmm"),
    }
)
"""Operation -> how it is read."""

_STEPS = words("sgn round floor ceil trunc frac heaviside gt lt ge le eq ne argmax argmin bernoulli fake_quantize")
"""Operations that are not known, but known to jump."""
