"""Changes of a traced network: its tensors, and the arguments of its calls."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn

from tombola.graph.node import Value, arguments, overload


def tensor(network: fx.GraphModule, name: str) -> Tensor:
    """The network's tensor of that state_dict name."""
    path, _, local = name.rpartition(".")
    value: Tensor = getattr(network.get_submodule(path), local)
    return value


def set_tensor(network: fx.GraphModule, name: str, value: Tensor, like: Tensor | None = None) -> None:
    """Put a tensor in place of that of the same name, as a parameter where that, or `like`, is one."""
    path, _, local = name.rpartition(".")
    owner = network.get_submodule(path)
    before = getattr(owner, local, like)
    if isinstance(before, nn.Parameter):
        setattr(owner, local, nn.Parameter(value, requires_grad=before.requires_grad))
    elif local in owner._buffers:
        owner._buffers[local] = value
    else:
        owner.register_buffer(local, value)


def hold(root: nn.Module, name: str, value: Any) -> None:
    """The tensor under its name, in plain modules within each other."""
    *path, local = name.split(".")
    at = root
    for part in path:
        if part not in at._modules:
            at.add_module(part, nn.Module())
        at = at.get_submodule(part)
    if isinstance(value, nn.Parameter):
        at.register_parameter(local, value)
    elif isinstance(value, Tensor):
        at.register_buffer(local, value)
    else:
        setattr(at, local, value)


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Give a call another argument of that name."""
    given = {**arguments(node), name: value}
    called = overload(node)
    if called is None:
        node.args, node.kwargs = tuple(given.values()), {}
        return
    wanted = called._schema.arguments
    node.args = tuple(given[one.name] for one in wanted if not one.kwarg_only)
    node.kwargs = {one.name: given[one.name] for one in wanted if one.kwarg_only}


def add_bias(network: fx.GraphModule, node: fx.Node, name: str, value: Tensor, like: Tensor) -> None:
    """Give a layer's call, which has none, a bias of that name; trained if `like` is."""
    path, _, local = name.rpartition(".")
    network.get_submodule(path).register_parameter(local, nn.Parameter(value, requires_grad=like.requires_grad))
    with network.graph.inserting_before(node):
        bias = network.graph.get_attr(name)
    bias.meta = {"value": Value.of(value)}
    set_argument(node, "bias", bias)
