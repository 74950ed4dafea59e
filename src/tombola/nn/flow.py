"""A network's graph by torch.fx, for rewriting it, and the role of each node."""

from __future__ import annotations

import copy
import dis
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn.modules import activation, batchnorm, conv, dropout, instancenorm, pooling, rnn
from torch.nn.parameter import is_lazy

from tombola.nn.binary import BinaryActivation, BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLinear
from tombola.nn.tracer import Tracer

Role = Literal["activation", "nonlinear", "weight", "norm", "max pool", "average pool", "dropout", "same", "other"]
"""activation: ReLU-like, or binary already; nonlinear: any other; same: rearranges values, or passes them on."""

RELU_LIKE = (nn.ReLU, nn.ReLU6, nn.Hardtanh)

_BINARY = (BinaryActivation, BinaryLinear, BinaryConv1d, BinaryConv2d, BinaryConv3d)
_OTHER_ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__)

# The first class that fits decides.
_MODULES: tuple[tuple[tuple[type[nn.Module], ...], Role], ...] = (
    ((*RELU_LIKE, BinaryActivation), "activation"),
    ((*_OTHER_ACTIVATIONS, rnn.RNNBase, rnn.RNNCellBase), "nonlinear"),
    ((nn.Linear, nn.Bilinear, conv._ConvNd), "weight"),
    ((batchnorm._NormBase, instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), "norm"),
    ((pooling._MaxPoolNd, pooling._AdaptiveMaxPoolNd), "max pool"),
    ((pooling._AvgPoolNd, pooling._AdaptiveAvgPoolNd), "average pool"),
    ((dropout._DropoutNd,), "dropout"),
    ((nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), "same"),
)

# Functions and tensor methods by name, without the underscores of private and in-place ones and the "2d" of pools.
_NAMES: Mapping[Role, str] = MappingProxyType(
    {
        "activation": "relu relu6 hardtanh binary_sign",
        "nonlinear": "sigmoid tanh softmax log_softmax softmin gumbel_softmax gelu silu elu selu celu leaky_relu prelu "
        "rrelu mish hardswish hardsigmoid softplus softsign glu logsigmoid log_sigmoid hardshrink softshrink "
        "tanhshrink threshold clamp clamp_min clamp_max clip expit scaled_dot_product_attention "
        "multi_head_attention_forward",
        "weight": "linear bilinear conv conv_transpose matmul mm bmm addmm baddbmm einsum",
        "norm": "batch_norm instance_norm layer_norm group_norm rms_norm normalize",
        "max pool": "max_pool adaptive_max_pool",
        "average pool": "avg_pool adaptive_avg_pool mean",
        "dropout": "dropout feature_dropout alpha_dropout feature_alpha_dropout",
        "same": "flatten unflatten view reshape permute transpose movedim squeeze unsqueeze contiguous clone getitem "
        "chunk split narrow channel_shuffle pixel_shuffle pixel_unshuffle to float",
    }
)
_ROLE_OF = {name: role for role, names in _NAMES.items() for name in names.split()}
_RELU_NAMES = ("relu", "relu6", "hardtanh")


class Untraceable(Exception):
    """torch.fx cannot follow a forward method, or would follow it wrongly; the message is the reason."""


@dataclass(frozen=True)
class Graph:
    """A traced module: the nodes, the modules they call, and the path of the traced one in the model."""

    raw: fx.Graph
    modules: Mapping[str, nn.Module]
    path: str = ""

    def __iter__(self) -> Iterator[fx.Node]:
        return iter(self.raw.nodes)

    def role(self, node: fx.Node) -> Role:
        """The role of the node."""
        if node.op == "call_module":
            return role_of(self.modules[str(node.target)])
        if is_call(node):
            return _ROLE_OF.get(_bare(_target_name(node)), "other")
        return "other"

    def location(self, node: fx.Node) -> str:
        """The node's location: the path of a module, or a function and the module that calls it."""
        if node.op == "call_module":
            return repr(self._full(str(node.target)))
        owner = next(reversed(node.meta.get("nn_module_stack") or {"": None}))
        return f"{called(node)} in {where(self._full(owner))}"

    def _full(self, path: str) -> str:
        return ".".join(part for part in (self.path, path) if part)

    def in_place(self, node: fx.Node) -> bool:
        """Whether an activation overwrites its input."""
        if node.op == "call_module":
            return bool(getattr(self.modules[str(node.target)], "inplace", False))
        flag = node.kwargs.get("inplace", node.args[-1] if len(node.args) > 1 else False)
        return _target_name(node).endswith("_") or flag is True


def role_of(module: nn.Module) -> Role:
    """The role of a module as a whole."""
    return next((role for kinds, role in _MODULES if isinstance(module, kinds)), "other")


def is_call(node: fx.Node) -> bool:
    """Whether the node calls a function or a tensor method, not a module."""
    return node.op in ("call_function", "call_method")


def is_relu_call(node: fx.Node) -> bool:
    """Whether the node calls a ReLU-like function."""
    return is_call(node) and _bare(_target_name(node)) in _RELU_NAMES


def called(node: fx.Node) -> str:
    """A function or tensor method as one writes it: F.relu, torch.relu, Tensor.relu."""
    name = _target_name(node)
    if node.op == "call_method":
        return f"Tensor.{name}"
    home = str(getattr(node.target, "__module__", ""))
    return f"F.{name}" if "functional" in home or home.endswith("_nn") else f"torch.{name}"


def where(path: str) -> str:
    """A module's path for a message."""
    return repr(path) if path else "the model's own forward"


def input_of(node: fx.Node) -> fx.Node | None:
    """The tensor that an activation, pool or layer is applied to."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def whole(model: nn.Module) -> Graph:
    """The graph of the whole model in train mode, down to the layers of torch and Tombola; optional inputs left out.

    For looking only. Raises Untraceable.
    """
    plain = fx.Tracer()

    def leaf(module: nn.Module) -> bool:
        return isinstance(module, (*RELU_LIKE, *_BINARY)) or plain.is_leaf_module(module, "")

    return trace(model, leaf, True, _optional(model))


def own_calls(module: nn.Module, path: str, inline: set[nn.Module], training: bool) -> Graph:
    """The graph of the own forward of the module at `path`: a submodule is one call, those in `inline` aside.

    Raises Untraceable; also for a forward with optional inputs, which torch.fx would take as given.
    """
    if _optional(module):
        raise Untraceable("its forward has optional inputs")
    return replace(trace(module, lambda m: m not in inline, training), path=path)


def trace(
    module: nn.Module, leaf: Callable[[nn.Module], bool], training: bool, fixed: dict[str, Any] | None = None
) -> Graph:
    """A module's graph in train or eval mode; the module is left as it was. Raises Untraceable."""
    if "forward" in vars(module):
        raise Untraceable("its forward was replaced on the instance")
    before = [_Held(part) for part in module.modules()]
    try:
        module.train(training)  # not by the attribute: a module may stay in one mode by a method of its own
        graph = Tracer(leaf).trace(module, fixed)
    except Exception as error:  # a user's forward may raise anything when its input is no tensor
        raise Untraceable(_line(error)) from error
    finally:
        changed = [held.restore() for held in before]
    if any(changed):
        raise Untraceable("its forward makes tensors or sets attributes of its own, which torch.fx would freeze")
    return Graph(graph, dict(module.named_modules()))


class _Held:
    """A module's attributes and buffers as they are, to be put back after its forward has run on proxies."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.attributes, self.buffers = module, dict(vars(module)), dict(module._buffers)
        self.contents = {
            name: copy.copy(value) for name, value in self.attributes.items() if _own_container(name, value)
        }
        self.values = {
            name: (buffer._version, buffer.clone())
            for name, buffer in self.buffers.items()
            if buffer is not None and not is_lazy(buffer)
        }

    @torch.no_grad()
    def restore(self) -> bool:
        """Put everything back; whether anything but the mode had changed."""
        now = {name: value for name, value in vars(self.module).items() if name != "training"}
        old = {name: value for name, value in self.attributes.items() if name != "training"}
        changed = not _same(now, old) or not _same(self.module._buffers, self.buffers)
        vars(self.module).clear()
        vars(self.module).update(self.attributes)
        for name, content in self.contents.items():
            held = self.attributes[name]
            if not _same_content(held, content):
                held.clear()
                (held.extend if isinstance(held, list) else held.update)(content)
                changed = True
        self.module._buffers.clear()
        self.module._buffers.update(self.buffers)
        for name, (version, value) in self.values.items():
            buffer = self.buffers[name]
            if buffer is not None and buffer._version != version:
                buffer.copy_(value)
                changed = True
        return changed


def _same(now: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    return now.keys() == old.keys() and all(now[name] is value for name, value in old.items())


def _own_container(name: str, value: Any) -> bool:
    """Whether an attribute is a list, dict or set that a user's forward may fill."""
    return type(value) in (list, dict, set) and name not in _OF_MODULES


def _same_content(now: Any, old: Any) -> bool:
    if isinstance(now, dict):
        return _same(now, old)
    if isinstance(now, list):
        return len(now) == len(old) and all(a is b for a, b in zip(now, old, strict=True))
    return bool(now == old)


_OF_MODULES = frozenset(vars(nn.Module()))


def mentioned(module: nn.Module) -> list[str]:
    """Nonlinear functions that the code of a module's forward names, with the methods and helpers that it calls.

    For a module that cannot be traced: read from the bytecode, submodules of such a name aside.
    """
    names: set[str] = set()
    _read(type(module).forward, module, names, set())
    return sorted(names)


def _read(value: Any, module: nn.Module, names: set[str], seen: set[Any]) -> None:
    if not isinstance(value, (FunctionType, BuiltinFunctionType)):
        return
    function = inspect.unwrap(value)
    if _is_nonlinear(function.__name__):
        names.add(function.__name__)
    if not isinstance(function, FunctionType) or function in seen or function.__module__.partition(".")[0] == "torch":
        return
    seen.add(function)
    codes: list[CodeType] = [function.__code__]
    for code in codes:  # grows by the functions within
        codes.extend(part for part in code.co_consts if isinstance(part, CodeType))
        before: Any = None
        for step in dis.get_instructions(code):
            name, receiver, before = step.argval, before, step.argval
            if not step.opname.startswith(("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD")) or not isinstance(name, str):
                continue
            of_self = receiver == "self" or (isinstance(receiver, tuple) and "self" in receiver)
            if step.opname == "LOAD_GLOBAL":
                _read(function.__globals__.get(name), module, names, seen)
            elif of_self:
                _read(vars(module).get(name, getattr(type(module), name, None)), module, names, seen)
            if _is_nonlinear(name) and not (of_self and name in module._modules):
                names.add(name)


def _is_nonlinear(name: str) -> bool:
    return _bare(name) in _RELU_NAMES or _ROLE_OF.get(_bare(name)) == "nonlinear" or name in activation.__all__


def _optional(module: nn.Module) -> dict[str, Any]:
    """The inputs of a module's forward that have a default, and the defaults."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _target_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _bare(name: str) -> str:
    stem = name.strip("_")
    return stem[:-2] if stem[-2:] in ("1d", "2d", "3d") else stem


def _line(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:120]}"
