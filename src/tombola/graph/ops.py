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
    """A batch norm or group norm over axis 1, or one of each position's channels, such as a layer norm.

    `tensors`: state_dict names of weight, bias, running_mean and running_var, where it has them. `fixed`: it uses
    running statistics, and will. `groups`: how many sets of channels are normalised together. `module`: whether a norm
    of torch's computes it. `axis`: of the channels. `across`: its statistics are of all channels, so that none can go
    without a change of the others.
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
    axis: int = 1
    across: bool = False


@dataclass(frozen=True)
class Elementwise:
    """The same function of every number, continuous or not."""

    source: fx.Node
    discontinuous: bool = False


@dataclass(frozen=True)
class PerChannel:
    """Each channel on its own, 0 mapped to 0: pools, means over other axes, transposes, dropout.

    `axes`: of each axis of the result, which axis of the source it is; None: another. `keeps`: every constant comes out
    as it went in. `varies`: none does, nor 0, as in a softmax along another axis.
    """

    source: fx.Node
    axes: tuple[int | None, ...]
    keeps: bool = True
    varies: bool = False

    def moved(self, axes: tuple[int, ...], labels: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
        """Where the channels of some axes are afterwards, and their labels there; None where an axis is lost.

        >>> PerChannel(None, (2, 0, 1)).moved((1, 2), torch.tensor([[1, 2, 3], [4, 5, 6]]))
        ((0, 2), tensor([[1, 4],
                [2, 5],
                [3, 6]]))
        """
        if not set(axes) <= set(self.axes):
            return None
        found = [i for i, axis in enumerate(self.axes) if axis in axes]
        return tuple(found), labels.permute([axes.index(self.axes[i] or 0) for i in found])


@dataclass(frozen=True)
class Pick:
    """One index of an axis, which is then gone, or a range of them."""

    source: fx.Node
    axis: int
    chosen: int | slice

    def moved(self, axes: tuple[int, ...], labels: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
        """As `PerChannel.moved`; None where no axis is left.

        >>> Pick(None, 0, 1).moved((0, 2), torch.tensor([[1, 2, 3], [4, 5, 6]]))
        ((1,), tensor([4, 5, 6]))
        """
        one = isinstance(self.chosen, int)
        index = tuple(self.chosen if axis == self.axis else slice(None) for axis in axes)
        left = tuple(axis - (one and axis > self.axis) for axis in axes if not (one and axis == self.axis))
        return (left, labels[index]) if left else None


@dataclass(frozen=True)
class Reshape:
    """The same numbers in the same order under other axes."""

    source: fx.Node
    regrouped: Regrouped


@dataclass(frozen=True)
class Join:
    """Sum, difference or product of two values, channel by channel; axes of size 1 count as often as needed."""

    sources: tuple[fx.Node, fx.Node]
    product: bool


@dataclass(frozen=True)
class Concat:
    """Values side by side along `axis`."""

    sources: tuple[fx.Node, ...]
    axis: int


@dataclass(frozen=True, eq=False)
class Own:
    """A parameter that is read as a value, such as an embedding of positions or a scale of a branch."""

    name: str
    value: Tensor


@dataclass(frozen=True)
class Attention:
    """Scaled dot-product attention of queries, keys and values, (batch, heads, positions, width): each head alone."""

    sources: tuple[fx.Node, fx.Node, fx.Node]


@dataclass(frozen=True)
class Matmul:
    """A product of two values, a matrix for each index of their first axes, such as heads."""

    sources: tuple[fx.Node, fx.Node]


@dataclass(frozen=True)
class Boundary:
    """An input or output of the network, a tensor of its own, or arithmetic of sizes: no channels pass."""


@dataclass(frozen=True)
class OpaqueOp:
    """An operation that is not understood: its inputs and its output stay whole."""

    reason: str
    discontinuous: bool = False


ChannelOp = (
    WeightLayer | Norm | Elementwise | PerChannel | Pick | Reshape | Join | Concat | Own | Attention | Matmul
    | Boundary | OpaqueOp
)  # fmt: skip


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


def opaque_places(ops: Mapping[fx.Node, ChannelOp], *, across_norms: bool = False) -> dict[str, str]:
    """What keeps its inputs and outputs whole: module and line -> why.

    `across_norms`: norms of all channels do not.
    """
    return {
        place(node): op.reason if isinstance(op, OpaqueOp) else "its statistics are of all channels"
        for node, op in ops.items()
        if isinstance(op, OpaqueOp) or (isinstance(op, Norm) and op.across and not across_norms)
    }
