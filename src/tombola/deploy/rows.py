"""Linear layers over more than (N, F), such as sequences, as layers over rows: (N, T, F) is (N · T, F) in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from tombola.deploy.jit.activations import EMITTED
from tombola.graph.edit import set_argument, tensor
from tombola.graph.node import Value, arguments, is_batched, operation, place, value_of

SHAPED = "shaped for rows"
"""What the reshapes put in here have in their notes."""
_RESHAPE = torch.ops.aten.reshape.default


def over_rows(network: fx.GraphModule) -> fx.GraphModule:
    """The traced network with every linear layer that has zeros, and what follows it number by number, over rows.

    Values are shaped back where something else reads them. The graph is changed; what it computes is not.
    """
    draft = _Draft(network, {})
    for node in list(network.graph.nodes):
        if _has_rows(node) and (_is_layer(network, node) or draft.follows(node)):
            draft.move(node)
    if draft.rows:
        network.graph.eliminate_dead_code()
        network.recompile()
    return network


@dataclass(frozen=True)
class _Draft:
    """`rows`: a value (N, ..., F) -> the same as (N · ..., F), where that is computed."""

    network: fx.GraphModule
    rows: dict[fx.Node, fx.Node]

    def follows(self, node: fx.Node) -> bool:
        """Whether a node is an activation, or an addition of values of one shape, of what is computed over rows."""
        given, name = arguments(node) if node.op == "call_function" else {}, operation(node)
        read = [value for value in given.values() if isinstance(value, fx.Node)]
        known = any(one in self.rows for one in read)
        if name == "add":
            shapes = {getattr(value_of(one), "shape", None) for one in (given.get("self"), given.get("other"))}
            return known and len(read) == 2 and len(shapes) == 1 and given["alpha"] == 1 and all(map(_has_rows, read))
        return known and len(read) == 1 and (name in EMITTED or (name == "dropout" and not given["train"]))

    def move(self, node: fx.Node) -> None:
        """Compute a node over rows, and shape its value back for whoever reads it."""
        graph, value = self.network.graph, _known(node)
        for name, source in arguments(node).items():
            if isinstance(source, fx.Node) and source.op != "get_attr":
                set_argument(node, name, self._rows_of(source))
        with graph.inserting_after(node):
            back = graph.call_function(_RESHAPE, (node, [-1, *value.shape[1:]]))
        back.meta = node.meta | {SHAPED: True}
        node.meta = {"place": place(node), "value": _as_rows(value)}
        node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
        self.rows[back] = node

    def _rows_of(self, source: fx.Node) -> fx.Node:
        if source not in self.rows:
            value, graph = _known(source), self.network.graph
            # right behind the source, where it parts no layer from what follows it
            given = [node for node in graph.nodes if node.op == "placeholder"]
            with graph.inserting_after(given[-1] if source.op == "placeholder" else source):
                made = graph.call_function(_RESHAPE, (source, [-1, value.shape[-1]]))
            made.meta = {"place": place(source), "value": _as_rows(value), SHAPED: True}
            self.rows[source] = made
        return self.rows[source]


def _is_layer(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a linear layer with zeros, of weights of the network's own, over values with rows."""
    if operation(node) != "linear":
        return False
    given: dict[str, Any] = arguments(node)
    weight, source = given["weight"], given["input"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr" or not _has_rows(source):
        return False
    held = tensor(network, str(weight.target))
    return held.dtype == torch.float32 and held.device.type == "cpu" and bool((held == 0).any())


def _has_rows(node: Any) -> bool:
    """Whether its value is float32 (N, ..., F), and the batch is the first axis, or fixed."""
    value = value_of(node)
    if value is None or value.dtype != "float32" or len(value.shape) < 3 or 0 in value.shape:
        return False
    return is_batched(node) or not any(value.symbols)


def _known(node: fx.Node) -> Value:
    value = value_of(node)
    assert value is not None
    return value


def _as_rows(value: Value) -> Value:
    """Its number of rows is a symbol of its own: a region takes no rows beside images."""
    between = math.prod(value.shape[1:-1])
    symbol = f"{value.symbols[0]}x{between}" if value.symbols[0] else ""
    return replace(value, shape=(value.shape[0] * between, value.shape[-1]), symbols=(symbol, ""))
