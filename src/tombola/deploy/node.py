"""A node of a traced network as what is read of it: its call, and the operation that it turns out to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tombola.deploy.ops import Op
from tombola.graph.edit import tensor
from tombola.graph.functional import mutable
from tombola.graph.node import value_of


class Unsupported(Exception):
    """A node that no kernel supports; the message is the reason, in a few words."""


@dataclass(frozen=True)
class PassThrough:
    """The node passes its source on, unchanged or flattened."""

    source: fx.Node

    @property
    def reads(self) -> tuple[fx.Node, ...]:
        """Its source."""
        return (self.source,)


@dataclass(frozen=True)
class Recognised:
    """A node as an operation on named values, with the nodes of what it reads, in its order.

    `between`: nodes after those whose work is the operation's too, such as padding. `after`: what follows the
    operation within the node; it reads the operation's target.
    """

    op: Op
    reads: tuple[fx.Node, ...]
    between: tuple[fx.Node, ...] = ()
    after: Op | None = None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of the node's value: (N, C, H, W), (N, C, L) or (N, F), float32, on the CPU.

    Raises:
        Unsupported: any other.
    """
    value = value_of(node)
    if value is None:
        raise Unsupported("its value is not one tensor")
    if (value.dtype, value.device) != ("float32", "cpu"):
        raise Unsupported(f"its value is {value.dtype} on {value.device}")
    if len(value.shape) not in (2, 3, 4):
        raise Unsupported(f"its value has {len(value.shape)} dimensions")
    return value.shape


@dataclass(frozen=True)
class Call:
    """A node with its arguments by name."""

    node: fx.Node
    network: fx.GraphModule
    given: Mapping[str, Any]

    @property
    def source(self) -> fx.Node:
        """What it is applied to."""
        first = self.given["input" if "input" in self.given else "self"]
        if not isinstance(first, fx.Node):
            raise Unsupported("its input is not one value")
        return first

    def own(self, name: str) -> Tensor | None:
        """The network's own tensor of that argument; None for None."""
        node = self.given.get(name)
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise Unsupported("its weights are computed in the network")
        value = tensor(self.network, str(node.target))
        if value.dtype != torch.float32 or value.device.type != "cpu":
            raise Unsupported(f"its weights are {value.dtype} on {value.device.type}")
        return value.detach().contiguous()

    def constant(self, name: str) -> Tensor | float | None:
        """The argument's number, or the network's own tensor, which nothing writes to; None where it is neither."""
        value = self.given[name]
        if isinstance(value, int | float):
            return float(value)
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        same = [node for node in self.network.graph.nodes if node.op == "get_attr" and node.target == value.target]
        if any(mutable(user) for node in same for user in node.users):
            raise Unsupported("a tensor that the network changes")
        return self.own(name)

    def window(self, name: str, fill: int) -> tuple[int, int]:
        """The argument's numbers for rows and columns: one for all axes, alone or in a list, or one for each.

        `fill`: for columns, where the input has none.
        """
        return pair(self.given[name], len(shape_of(self.source)) - 2, fill)

    def name(self, local: str) -> str:
        """The layer's name: that of its weight without the last part, where this is the usual one."""
        return str(self.given[local].target).removesuffix(f".{local}")


def pair(value: Any, axes: int = 2, fill: int = 0) -> tuple[int, int]:
    """Of a number for all axes, alone or in a list, or of one for each, those of two: of one axis with `fill`."""
    numbers = [value] if isinstance(value, int) else list(value)
    first, second = (*(numbers * axes)[:axes], fill)[:2]
    return int(first), int(second)
