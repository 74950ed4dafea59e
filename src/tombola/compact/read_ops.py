"""The channel operation of every node of a traced network, read from its modules, functions and methods."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules import dropout, pooling

from tombola.compact.channel_ops import (
    Boundary,
    ChannelOp,
    Concat,
    Elementwise,
    Flatten,
    Join,
    Norm,
    OpaqueOp,
    PerChannel,
    WeightLayer,
)
from tombola.compact.trace import argument, shape_of, words
from tombola.nn import flow
from tombola.nn.binary import BinaryActivation, BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLinear

# ---- what is known -----------------------------------------------------------------------------------------

_LINEAR = (nn.Linear, BinaryLinear)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, BinaryConv1d, BinaryConv2d, BinaryConv3d)
_BINARY = (BinaryLinear, BinaryConv1d, BinaryConv2d, BinaryConv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)
_POINTWISE = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU,
    nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.Softshrink, nn.Tanhshrink,
)  # fmt: skip
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)

# Functions and tensor methods by name, without the underscore of in-place ones.
_POINTWISE_NAMES = words(
    "relu relu6 hardtanh sigmoid tanh gelu silu elu selu celu leaky_relu mish hardswish hardsigmoid softplus "
    "softsign logsigmoid softshrink tanhshrink expit neg abs square clamp clamp_min clamp_max clip"
)
_JOIN_NAMES = {
    "add": False, "iadd": False, "sub": False, "isub": False, "mul": True, "imul": True, "multiply": True,
    "truediv": False, "itruediv": False, "div": False,
}  # fmt: skip
_DIVISIONS = ("truediv", "itruediv", "div")
_STEPS = words(
    "sign sgn round floor ceil trunc frac heaviside gt lt ge le eq ne argmax argmin bernoulli fake_quantize "
    "quantize_per_tensor"
)
_SAME_NAMES = frozenset(("contiguous", "clone", "detach"))
_FUNCTION_LAYERS: dict[Any, tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    **dict.fromkeys(
        (F.conv1d, F.conv2d, F.conv3d), ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    ),
}


def channel_ops(network: fx.GraphModule, *, training: bool) -> dict[fx.Node, ChannelOp]:
    """The part of every node, in order. `training`: norms will compute statistics, and dropouts drop."""
    modules = dict(network.named_modules())
    reader = _Reader(modules, _uses(network, modules), training)
    return {node: reader.part(node) for node in network.graph.nodes}


# ---- reading the nodes -------------------------------------------------------------------------------------


def _uses(network: fx.GraphModule, modules: Mapping[str, nn.Module]) -> Counter[int]:
    """How often each parameter is held by a called module, or read by name."""
    called = {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    uses = Counter(id(p) for target in sorted(called) for p in modules[target].parameters())
    uses.update(id(_held(node, modules)[2]) for node in network.graph.nodes if node.op == "get_attr")
    return uses


def _held(node: fx.Node, modules: Mapping[str, nn.Module]) -> tuple[nn.Module, str, Any]:
    path, _, local = str(node.target).rpartition(".")
    return modules[path], local, getattr(modules[path], local)


@dataclass(frozen=True)
class _Reader:
    modules: Mapping[str, nn.Module]
    uses: Mapping[int, int]
    training: bool

    def part(self, node: fx.Node) -> ChannelOp:
        if node.op in ("placeholder", "get_attr", "output"):
            return Boundary()
        if node.op == "call_module":
            return self._module(node, self.modules[str(node.target)])
        return self._call(node)

    # modules

    def _module(self, node: fx.Node, module: Any) -> ChannelOp:
        source, kind, name = flow.input_of(node), type(module), f"nn.{type(module).__name__}"
        if source is None or len(node.all_input_nodes) != 1 or None in (shape_of(source), shape_of(node)):
            return OpaqueOp(f"{name}: its input and output are not one tensor each")
        if (why := flow.altered(module)) is not None:
            return OpaqueOp(f"{name}: {why}")
        if kind in _LINEAR or kind in _CONVS:
            return self._layer_module(node, source, module)
        if kind in _NORMS:
            return self._norm(node, source, module)
        if kind in _POINTWISE or kind is BinaryActivation:
            return Elementwise(source, discontinuous=kind is BinaryActivation)
        if kind is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            return Flatten(source)
        return (
            _pool_module(node, source, module) or self._same_module(source, module) or OpaqueOp(f"{name} is not known")
        )

    def _same_module(self, source: fx.Node, module: nn.Module) -> ChannelOp | None:
        if type(module) in _DROPOUTS:
            return PerChannel(source, keeps=not self.training)
        if type(module) is nn.Identity or (isinstance(module, dropout._DropoutNd) and not self.training):
            return PerChannel(source, keeps=True)
        return None

    def _layer_module(self, node: fx.Node, source: fx.Node, module: Any) -> ChannelOp:
        path, kind = str(node.target), type(module)
        if any(self.uses[id(p)] > 1 for p in module.parameters()):
            return OpaqueOp("its weights are used in another place too")
        if not isinstance(module.weight, nn.Parameter):
            return OpaqueOp("its weight is no parameter")
        binary = kind in _BINARY
        if kind in _LINEAR:
            return WeightLayer(path, source, module.weight, module.bias, module, "weight", binary=binary)
        if len(shape_of(source) or ()) != module.weight.dim():
            return OpaqueOp("a convolution without a batch")
        unpadded = module.padding_mode != "zeros" or not _pads(module.padding)
        return WeightLayer(
            path, source, module.weight, module.bias, module, "weight", module.groups, unpadded=unpadded, binary=binary
        )

    def _norm(self, node: fx.Node, source: fx.Node, module: Any) -> ChannelOp:
        if len(shape_of(source) or ()) < 2:
            return OpaqueOp("a norm without a batch")
        if any(self.uses[id(p)] > 1 for p in module.parameters()):
            return OpaqueOp("its scale is used in another place too")
        if isinstance(module, nn.GroupNorm):
            return Norm(str(node.target), source, module, False, module.num_channels, module.num_groups)
        fixed = module.running_mean is not None and not self.training
        return Norm(str(node.target), source, module, fixed, module.num_features, module.num_features)

    # functions and tensor methods

    def _call(self, node: fx.Node) -> ChannelOp:
        name = str(getattr(node.target, "__name__", node.target))
        bare = name.rstrip("_")
        if node.target in _FUNCTION_LAYERS:
            return self._layer_call(node)
        if _asks_for_batch(node, bare):
            return Boundary()
        if bare in ("cat", "concat", "concatenate"):
            return _concat(node)
        if bare in _JOIN_NAMES and len(node.all_input_nodes) == 2:
            return _join(node, bare)
        if all(shape_of(one) is None for one in (node, *node.all_input_nodes)):
            return Boundary()  # arithmetic of sizes
        unknown = OpaqueOp(f"{flow.called(node)} is not known", discontinuous=bare in _STEPS)
        if len(node.all_input_nodes) != 1 or shape_of(node.all_input_nodes[0]) is None or shape_of(node) is None:
            return unknown
        source = node.all_input_nodes[0]
        if bare == "binary_sign" or bare == "sign":
            return Elementwise(source, discontinuous=True)
        if bare in _POINTWISE_NAMES or _with_number(node, source, bare):
            return Elementwise(source)
        if bare in _SAME_NAMES or (node.target is F.dropout and argument(node, "training") is False):
            return PerChannel(source, keeps=True)
        if node.target is torch.flatten and node.args[1:] == (1,) and not node.kwargs:
            return Flatten(source)
        return _pool_call(node, source, bare) or unknown

    def _layer_call(self, node: fx.Node) -> ChannelOp:
        names = _FUNCTION_LAYERS[node.target]
        given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        source, weight, bias = given.get("input"), given.get("weight"), given.get("bias")
        held = [one for one in (weight, bias) if one is not None]
        if not isinstance(source, fx.Node) or any(not isinstance(n, fx.Node) or n.op != "get_attr" for n in held):
            return OpaqueOp("its weights are computed in the network")
        assert isinstance(weight, fx.Node)
        owner, local, value = _held(weight, self.modules)
        shift = None if bias is None else _held(bias, self.modules)[2]
        if any(not isinstance(p, nn.Parameter) or self.uses[id(p)] > 1 for p in (value, shift) if p is not None):
            return OpaqueOp("its weights are no parameters, or used in another place too")
        if value.dim() > 2 and len(shape_of(source) or ()) != value.dim():
            return OpaqueOp("a convolution without a batch")
        groups = int(given.get("groups", 1))
        if groups != 1:
            return OpaqueOp("a functional convolution in groups")
        unpadded = not _pads(given.get("padding", 0))
        return WeightLayer(str(weight.target), source, value, shift, owner, local, unpadded=unpadded, module=False)


def _pads(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, tuple | list) else padding != 0


def _with_number(node: fx.Node, source: fx.Node, name: str) -> bool:
    """Whether the node adds, multiplies or divides by a number, smoothly and without a pole."""
    divides = name in _DIVISIONS and (node.args[:1] != (source,) or "rounding_mode" in node.kwargs)
    return name in _JOIN_NAMES and not divides and shape_of(source) == shape_of(node)


def _asks_for_batch(node: fx.Node, name: str) -> bool:
    """Whether the node asks for nothing but a batch size."""
    if name == "size" and node.args[1:]:
        return bool(node.args[1] == 0)
    if name == "size" or (name == "getattr" and node.args[1] == "shape"):
        return all(user.target is operator.getitem and user.args[1] == 0 for user in node.users)
    source = flow.input_of(node)
    return (
        name == "getitem"
        and source is not None
        and shape_of(source) is None
        and _asks_for_batch(source, str(getattr(source.target, "__name__", source.target)))
    )


def _concat(node: fx.Node) -> ChannelOp:
    values = node.args[0] if node.args else node.kwargs.get("tensors")
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    shape = shape_of(node)
    if not isinstance(values, tuple | list) or not isinstance(axis, int) or shape is None:
        return OpaqueOp("a concatenation of other things than values")
    sources = tuple(value for value in values if isinstance(value, fx.Node))
    if len(sources) != len(values) or axis % len(shape) == 0:
        return OpaqueOp("a concatenation along the batch")
    return Concat(sources, axis % len(shape))


def _join(node: fx.Node, name: str) -> ChannelOp:
    one, other = node.all_input_nodes
    shapes = [shape_of(source) for source in (one, other)]
    if node.args[:2] != (one, other) or name in _DIVISIONS or None in shapes or shape_of(node) is None:
        return OpaqueOp(f"{name} of two values")
    if len({len(shape) for shape in shapes if shape is not None}) != 1:
        return OpaqueOp(f"{name} of values of unequal dimensions")
    return Join((one, other), _JOIN_NAMES[name])


# ---- pools -------------------------------------------------------------------------------------------------


def _pool_module(node: fx.Node, source: fx.Node, module: Any) -> ChannelOp | None:
    axes = len(shape_of(source) or ())
    first = axes - int(type(module).__name__[-2:-1]) if type(module) in (*_MAX_POOLS, *_MEAN_POOLS, *_ADAPTIVE) else 0
    if first < 1:
        return None
    if isinstance(module, (pooling._MaxPoolNd, pooling._AdaptiveMaxPoolNd)) and module.return_indices:
        return None
    if type(module) in _MAX_POOLS or type(module) in _ADAPTIVE:
        return PerChannel(source, keeps=True, first=first)
    if type(module) in _MEAN_POOLS:
        bordered = _pads(module.padding) and module.count_include_pad
        keeps = not bordered and not getattr(module, "divisor_override", None)
        return PerChannel(source, keeps=keeps, first=first)
    return None


def _pool_call(node: fx.Node, source: fx.Node, name: str) -> ChannelOp | None:
    before, after = shape_of(source), shape_of(node)
    assert before is not None
    assert after is not None
    if len(before) < 3 or before[:2] != after[:2]:
        return None
    stem = name[:-2] if name[-2:] in ("1d", "2d", "3d") else name
    first = len(before) - int(name[-2]) if stem != name else 0
    if stem in ("max_pool", "adaptive_avg_pool") and first > 0:
        return PerChannel(source, keeps=True, first=first)
    if stem == "avg_pool" and first > 0:
        keeps = len(node.args) <= 3 and set(node.kwargs) <= {"input", "kernel_size", "stride"}
        return PerChannel(source, keeps=keeps, first=first)
    if name in ("mean", "amax"):
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        axes = [d % len(before) for d in (dims if isinstance(dims, tuple | list) else (dims,)) if isinstance(d, int)]
        return PerChannel(source, keeps=True, first=min(axes)) if axes and min(axes) > 1 else None
    if name == "squeeze" and len(node.args) == 2 and isinstance(node.args[1], int):
        axis = node.args[1] % len(before)
        return PerChannel(source, keeps=True, first=axis) if axis > 1 else None
    return None
