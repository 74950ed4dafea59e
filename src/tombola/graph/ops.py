"""What an operation does to the channels that pass it, as far as it is known.

A channel is one index along a value's channel axis: that which a layer writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tombola.graph.node import place
from tombola.graph.reshape import Regrouped


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A linear layer or convolution: out = weight ⋆ source + bias. The tensors are the network's own.

    `name`: of the layer, or of its weight where it is no module's. `weight_name`, `bias_name`: in the state_dict.
    `weight`: (out, in // groups, *kernel). `axis`: of the channels, before and after. `unpadded`: no zeros are padded,
    so that a channel that is constant over the map adds the same at every position. `binary`: sums of signs, to which
    nothing may be added. `module`: whether it is a layer of torch's or Tombola's, to which a bias can be added.
    """

    name: str
    source: fx.Node
    weight_name: str
    bias_name: str | None
    weight: Tensor
    bias: Tensor | None
    axis: int
    groups: int = 1
    unpadded: bool = True
    binary: bool = False
    module: bool = True

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer."""
        return self.weight.dim() == 2


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm or group norm over axis 1.

    `tensors`: state_dict names of weight, bias, running_mean and running_var, where it has them. `fixed`: it uses
    running statistics, and will. `groups`: how many sets of channels are normalised together. `module`: whether a norm
    of torch's computes it.
    """

    name: str
    source: fx.Node
    tensors: Mapping[str, str]
    values: Mapping[str, Tensor]
    eps: float
    fixed: bool
    channels: int
    groups: int
    module: bool


@dataclass(frozen=True)
class Elementwise:
    """The same function of every number, continuous or not."""

    source: fx.Node
    discontinuous: bool = False


@dataclass(frozen=True)
class PerChannel:
    """Each channel on its own, 0 mapped to 0: pools, means over other axes, transposes, dropout.

    `axes`: of each axis of the result, which axis of the source it is; None: another. `keeps`: every constant comes out
    as it went in.
    """

    source: fx.Node
    axes: tuple[int | None, ...]
    keeps: bool = True


@dataclass(frozen=True)
class Reshape:
    """The same numbers in the same order under other axes."""

    source: fx.Node
    regrouped: Regrouped


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
    """An input or output of the network, a tensor of its own, or arithmetic of sizes: no channels pass."""


@dataclass(frozen=True)
class OpaqueOp:
    """An operation that is not understood: its inputs and its output stay whole."""

    reason: str
    discontinuous: bool = False


ChannelOp = WeightLayer | Norm | Elementwise | PerChannel | Reshape | Join | Concat | Boundary | OpaqueOp


def evaluate(node: fx.Node, values: Mapping[fx.Node, Tensor]) -> Tensor:
    """Call what a node calls, on other values for the nodes that it reads."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n].clone())
    assert callable(node.target)
    with torch.no_grad():
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


def opaque_places(ops: Mapping[fx.Node, ChannelOp]) -> dict[str, str]:
    """What is not understood: module and line -> why."""
    return {place(node): op.reason for node, op in ops.items() if isinstance(op, OpaqueOp)}
