"""What a node of a traced network does to the channels that pass it, as far as compaction knows it.

A channel is one index along a value's channel axis: axis 1, or the last one before and after a Linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A Linear layer or convolution: out = weight ⋆ source + bias. The tensors are the model's own.

    `weight`: (out, in // groups, *kernel). `unpadded`: no zeros are padded, so that a channel that is constant over the
    map adds the same at every position. `binary`: sums of signs, to which nothing may be added. `owner` and `local`:
    the module that holds the weight, and the weight's name there; `module`: whether the owner is called as the layer.
    """

    name: str
    source: fx.Node
    weight: Tensor
    bias: Tensor | None
    owner: nn.Module
    local: str
    groups: int = 1
    unpadded: bool = True
    binary: bool = False
    module: bool = True

    @property
    def linear(self) -> bool:
        """Whether it is a Linear layer."""
        return self.weight.dim() == 2


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm or group norm over axis 1.

    `fixed`: it uses running statistics, and will. `groups`: how many sets of channels are normalised together.
    """

    name: str
    source: fx.Node
    module: Any
    fixed: bool
    channels: int
    groups: int


@dataclass(frozen=True)
class Elementwise:
    """The same function of every number, continuous or not."""

    source: fx.Node
    discontinuous: bool = False


@dataclass(frozen=True)
class PerChannel:
    """Each channel on its own, 0 mapped to 0. `keeps`: every constant comes out as it went in.

    `first`: the first of the axes that are pooled or dropped; the channel axis lies before it.
    """

    source: fx.Node
    keeps: bool
    first: int | None = None


@dataclass(frozen=True)
class Flatten:
    """(N, C, ...) to (N, C·...): a channel becomes a run of features."""

    source: fx.Node


@dataclass(frozen=True)
class Join:
    """Sum, difference or product of two values, channel by channel."""

    sources: tuple[fx.Node, fx.Node]
    product: bool


@dataclass(frozen=True)
class Concat:
    """Values side by side along `axis`."""

    sources: tuple[fx.Node, ...]
    axis: int


@dataclass(frozen=True)
class Boundary:
    """An input or output of the network, a weight, or a query of the batch size: no channels pass."""


@dataclass(frozen=True)
class OpaqueOp:
    """An operation that is not understood: its inputs and its output stay whole."""

    reason: str
    discontinuous: bool = False


ChannelOp = WeightLayer | Norm | Elementwise | PerChannel | Flatten | Join | Concat | Boundary | OpaqueOp


def evaluate(node: fx.Node, modules: Mapping[str, nn.Module], values: Mapping[fx.Node, Tensor]) -> Tensor:
    """Call what a node calls, on other values for the nodes that it reads."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n].clone())
    with torch.no_grad():
        if node.op == "call_module":
            return modules[str(node.target)](*args, **kwargs)  # type: ignore[no-any-return]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)  # type: ignore[no-any-return]
        assert callable(node.target)
        return node.target(*args, **kwargs)  # type: ignore[no-any-return]


def exact_nodes(ops: Mapping[fx.Node, ChannelOp]) -> set[fx.Node]:
    """The nodes whose value reaches a discontinuous function before it reaches a layer: there every bit counts."""
    exact: set[fx.Node] = set()
    for node in reversed(list(ops)):
        for user in node.users:
            op = ops[user]
            steps = isinstance(op, Elementwise | OpaqueOp) and op.discontinuous
            if steps or (user in exact and not isinstance(op, WeightLayer)):
                exact.add(node)
    return exact
