"""Remarks about a network with binary activations: where values are not -1 and +1, and unusual orders of layers."""

from __future__ import annotations

from torch import fx

from tombola.nn import flow

_ORDER = "the published order is conv, pool, norm, activation"


def remarks(graph: flow.Graph) -> tuple[str, ...]:
    """One line each, in the graph's order, for the graph of a whole model whose activations are (to be) binary."""
    lines: list[str] = []
    origins: dict[fx.Node, fx.Node | None] = {}
    for node in graph:
        origins[node] = _origin(graph, node, origins)
        role, source = graph.role(node), flow.input_of(node)
        if source is None:
            continue
        if role == "weight":
            odd = origins[source]
            if odd is not None and odd.op != "placeholder":
                lines.append(f"{graph.location(node)} sees other values than -1 and +1, from {_what(graph, odd)}")
        elif role == "max pool" and origins[source] is None:
            lines.append(f"{graph.location(node)} takes the maximum of signs, nearly always +1; {_ORDER}")
        elif role == "activation":
            before = _before(graph, source)
            if graph.role(before) == "weight":
                lines.append(
                    f"{graph.location(before)} goes to the activation {graph.location(node)} with no norm between; "
                    f"{_ORDER}"
                )
    return tuple(dict.fromkeys(lines))


def _origin(graph: flow.Graph, node: fx.Node, origins: dict[fx.Node, fx.Node | None]) -> fx.Node | None:
    """None where the node's values are -1 and +1; else the node that makes them others."""
    role, inputs = graph.role(node), node.all_input_nodes
    if role == "activation":
        return None
    if role in ("same", "max pool") and inputs:
        return origins[inputs[0]]
    if flow.is_call(node) and flow.called(node) in ("torch.cat", "torch.concat", "torch.stack") and inputs:
        return next((odd for odd in (origins[source] for source in inputs) if odd is not None), None)
    return node


def _before(graph: flow.Graph, node: fx.Node) -> fx.Node:
    """The first node upstream that is more than a pool, dropout or change of shape."""
    while graph.role(node) in ("same", "max pool", "average pool", "dropout"):
        source = flow.input_of(node)
        if source is None:
            break
        node = source
    return node


def _what(graph: flow.Graph, node: fx.Node) -> str:
    role = graph.role(node)
    return graph.location(node) if role == "other" else f"the {role.replace('weight', 'layer')} {graph.location(node)}"
