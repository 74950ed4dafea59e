"""Splits of a value into parts as slices of it, one for each part that is read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import torch
from torch import fx

from tombola.graph.node import arguments, operation, value_of, words

_SLICE = torch.ops.aten.slice.Tensor


def as_slices(network: fx.GraphModule) -> fx.GraphModule:
    """The traced network with slices for the parts of `chunk`, `split` and the like along axes of fixed size.

    The graph is changed; what it computes is not.
    """
    graph, changed = network.graph, False
    for node in list(graph.nodes):
        if operation(node) not in words("chunk split split_with_sizes tensor_split"):
            continue
        source, axis = arguments(node)["self"], arguments(node)["dim"]
        value = value_of(source)
        parts = [user for user in node.users if operation(user) == "getitem" and value_of(user) is not None]
        if value is None or len(parts) < len(node.users) or value.symbols[axis] or len(node.all_input_nodes) > 1:
            continue
        bounds = list(_bounds(node, value.shape[axis]))
        for part in parts:
            start, stop = bounds[part.args[1]]
            part.target, part.args = _SLICE, (source, axis % len(value.shape), start, stop)
        graph.erase_node(node)
        changed = True
    if changed:
        network.recompile()
    return network


def _bounds(node: fx.Node, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of each part of an axis of this size, as torch cuts it."""
    called = getattr(torch, operation(node))
    given = arguments(node)
    many = next(
        value for name, value in given.items() if name not in ("self", "dim")
    )  # their number, length or lengths
    lengths = [len(part) for part in called(torch.empty(size, dtype=torch.uint8, device="cpu"), many)]
    yield from pairwise(accumulate(lengths, initial=0))
