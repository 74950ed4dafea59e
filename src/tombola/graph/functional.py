"""Operations that write into tensors, as operations that give new values."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from tombola.graph.node import arguments, operation, overload, words


class Aliased(Exception):
    """What is written to may be seen through another value."""


def mutable(node: fx.Node) -> bool:
    """Whether the node writes into a tensor that it is given."""
    called = overload(node)
    return called is not None and bool(called._schema.is_mutable)


def make_functional(network: fx.GraphModule) -> None:
    """Replace in-place operations on values that nothing else can see: what reads the value later reads the result.

    Raises:
        Aliased: there are others; the graph is as it was.
    """
    found = [node for node in network.graph.nodes if mutable(node)]
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    plain = {node: _plain(node, order) for node in found}
    for node in found:
        source = node.args[0]
        node.target = plain[node]
        later = {user for user in source.users if user is not node and order[user] > order[node]}
        source.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    if found:
        network.recompile()


def _plain(node: fx.Node, order: dict[fx.Node, int]) -> Any:
    """The operation that gives what this one writes. Raises Aliased."""
    source, called = node.args[0] if node.args else None, overload(node)
    assert called is not None
    packet = getattr(torch.ops.aten, str(called.overloadpacket.__name__).rstrip("_"), None)
    plain = getattr(packet, called._overloadname, None)
    if not isinstance(source, fx.Node) or plain is None:
        raise Aliased
    if "dropout" in operation(node) and arguments(node)["train"] is False:
        return plain  # writes nothing
    if not _fresh(source):
        raise Aliased
    if any(user is not node and order[user] < order[node] and _views(user) for user in source.users):
        raise Aliased
    own, other = ([(one.name, str(one.type)) for one in target._schema.arguments] for target in (called, plain))
    if own != other:
        raise Aliased
    return plain


def _fresh(node: fx.Node) -> bool:
    """Whether a node's value shares memory with no other."""
    return overload(node) is not None and not _views(node)


def _views(node: fx.Node) -> bool:
    """Whether what a node gives may share memory with what it is given: all that is not known not to."""
    called = overload(node)
    if called is None:
        return node.op != "output"
    if mutable(node):
        return False
    return operation(node) in _MAY_VIEW or any(one.alias_info is not None for one in called._schema.returns)


_MAY_VIEW = words(
    "flatten reshape contiguous to dropout feature_dropout alpha_dropout expand_as view_as reshape_as type_as squeeze "
    "ravel movedim swapaxes chunk tensor_split unflatten broadcast_to meshgrid"
)
"""Operations that return their input, or a view of it, where nothing is to be done, and say nothing of it."""


def one_name(network: fx.GraphModule) -> None:
    """`batch_norm` for what torch's own rewriting makes of it: an operation that gives three values, and the first."""
    aten = torch.ops.aten
    for node in list(network.graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        x, *tensors, momentum, eps = node.args
        for first in list(node.users):
            first.target, first.kwargs = aten.batch_norm.default, {}
            first.args = (x, *tensors, False, momentum, eps, False)
            first.meta = {**node.meta, "val": first.meta["val"]}
        network.graph.erase_node(node)
