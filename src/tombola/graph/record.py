"""A traced network as plain data, so that a plan can hold it and what was deployed once need not be traced again.

It is data from a file that somebody may have sent: it names operations of a fixed list, all of which compute new values
of given ones and nothing else, and what it computes is compared with the network's own outputs like any graph.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from keyword import iskeyword
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, fx, nn

from tombola.errors import TombolaError
from tombola.graph.custom import binary_layer
from tombola.graph.edit import hold
from tombola.graph.node import Value, operation, overload, place, value_of, words
from tombola.graph.read import OPERATIONS
from tombola.nn.binary import binary_sign

Name = Annotated[str, Meta(max_length=1000)]


class NodeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node. `target`: the name of a tensor of the network, or of an operation and its overload."""

    name: Name
    op: Literal["placeholder", "get_attr", "call_function", "output"]
    target: Name
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    value: Value | None = None
    place: Name = ""


GraphRecord = Annotated[tuple[NodeRecord, ...], Meta(max_length=100_000)]

_MORE = words(
    "layer_norm rms_norm instance_norm softmax log_softmax scaled_dot_product_attention embedding matmul bmm mm addmm "
    "baddbmm chunk split split_with_sizes unbind stack expand repeat masked_fill where cos rsqrt sqrt sum max_pool2d "
    "reshape_as view_as roll conv_transpose1d conv_transpose2d conv_transpose3d upsample_bicubic2d pixel_shuffle "
    "adaptive_max_pool2d sym_size"
)
_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "binary_layer": binary_layer,
        "binary_sign": binary_sign,
        **{name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv")},
    }
)
_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format)


class _Unrecorded(Exception):
    """Something that no record holds."""


def recorded(network: fx.GraphModule, model: nn.Module) -> tuple[NodeRecord, ...] | None:
    """The graph of a network as data; None where it has operations, constants or containers that no record holds.

    Args:
        network: as `tombola.graph.trace.traced` gives it, of all of the model.
    """
    own = {*dict(model.named_parameters()), *dict(model.named_buffers())}
    try:
        return tuple(_record(node, own) for node in network.graph.nodes)
    except _Unrecorded:
        return None


def _record(node: fx.Node, own: set[str]) -> NodeRecord:
    target = str(node.target)
    if node.op == "call_function":
        called = overload(node)
        target = operation(node) if called is None else f"{operation(node)}.{called._overloadname}"
        if _callable(target) is not node.target:
            raise _Unrecorded
    elif node.op == "call_module" or (node.op == "get_attr" and target not in own):
        raise _Unrecorded
    args, kwargs = tuple(map(_encoded, node.args)), {name: _encoded(value) for name, value in node.kwargs.items()}
    return NodeRecord(node.name, node.op, target, args, kwargs, value_of(node), place(node))  # type: ignore[arg-type]


def _callable(target: str) -> Any:
    """The function of that name; None if it is none of those that a record may call."""
    name, _, kind = target.partition(".")
    if not kind:
        return _FUNCTIONS.get(name)
    if name not in OPERATIONS and name not in _MORE:
        return None
    found = getattr(getattr(torch.ops.aten, name, None), kind, None)
    return None if found is None or found._schema.is_mutable else found


def rebuilt(record: tuple[NodeRecord, ...], model: nn.Module) -> fx.GraphModule:
    """The graph over a model's own tensors, as it was recorded.

    Raises:
        TombolaError: it is of another network, or damaged.
    """
    graph, root = fx.Graph(), nn.Module()
    own: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    nodes: dict[str, fx.Node] = {}
    try:
        for one in record:
            if one.name in nodes or not all(map(_is_name, (one.name, *one.kwargs))):
                raise _Unrecorded
            nodes[one.name] = node = _node(graph, one, nodes)
            if one.op == "get_attr":
                value = own[one.target]
                if one.value is None or tuple(value.shape) != one.value.shape:
                    raise _Unrecorded
                hold(root, one.target, value)
            node.meta = {"place": one.place} | ({} if one.value is None else {"value": one.value})
        graph.lint()
        return fx.GraphModule(root, graph)
    except (_Unrecorded, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise TombolaError("the plan is of another network: its graph does not fit; deploy without it") from error


def _is_name(text: str) -> bool:
    """Whether a text can stand in the code that torch.fx writes of a graph, and be a name only."""
    return text.isidentifier() and not iskeyword(text)


def _node(graph: fx.Graph, one: NodeRecord, nodes: Mapping[str, fx.Node]) -> fx.Node:
    args, kwargs = _decoded(list(one.args), nodes), {name: _decoded(value, nodes) for name, value in one.kwargs.items()}
    target: Any = one.target
    if one.op == "call_function":
        target = _callable(one.target)
        if target is None:
            raise _Unrecorded
    elif one.op == "placeholder" and not _is_name(one.target):
        raise _Unrecorded
    if one.op == "output":
        args = [tuple(args[0]) if isinstance(args[0], list) else args[0]]
    return graph.create_node(one.op, target, tuple(args), kwargs, one.name)


# ---- arguments -------------------------------------------------------------------------------------------------------


def _encoded(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple | list):
        return [_encoded(one) for one in value]
    if isinstance(value, _CONSTANTS):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise _Unrecorded


def _decoded(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decoded(one, nodes) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, text),) = value.items()
    if kind == "node":
        return nodes[text]
    if kind == "float":
        return float(text)
    if kind == "device":
        return torch.device(text)
    found = getattr(torch, text) if kind == "torch" else None
    if not isinstance(found, _CONSTANTS):
        raise _Unrecorded
    return found
