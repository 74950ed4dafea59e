"""Which channels of a traced network are coupled: kept or removed only together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from tombola.graph.node import shape_of
from tombola.graph.ops import (
    Boundary,
    ChannelOp,
    Concat,
    Elementwise,
    Join,
    Norm,
    OpaqueOp,
    PerChannel,
    Reshape,
    WeightLayer,
)


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a value: `labels[i]` is the set of coupled channels that index i of the channel axis is in.

    int64, (size of the axis,). A set is kept or removed as one, over all values.
    """

    axis: int
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Coupling:
    """`values`: of every node whose channels are known. `into`: what enters each layer and norm, by its node.

    `pinned`: bool, (sets,): what must be kept, since the network's input, its output or an opaque operation reads it.
    """

    values: Mapping[fx.Node, Channels]
    into: Mapping[fx.Node, Channels]
    pinned: Tensor


def coupled_channels(ops: Mapping[fx.Node, ChannelOp]) -> Coupling:
    """Follow the channels through the network.

    Additions tie the channels of both sides, grouped convolutions and group norms all channels of a group, shared
    modules those of all their calls.
    """
    draft = _Draft()
    for node, op in ops.items():
        draft.add(node, op)
    return draft.done()


@dataclass
class _Draft:
    """A coupling in the making: labels are running numbers, ties are pairs of them."""

    values: dict[fx.Node, Channels] = field(default_factory=dict)
    into: dict[fx.Node, Channels] = field(default_factory=dict)
    first: dict[str, fx.Node] = field(default_factory=dict)
    ties: list[Tensor] = field(default_factory=list)
    pins: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, node: fx.Node, op: ChannelOp) -> None:
        """The channels of a node, whose sources were added before."""
        match op:
            case WeightLayer():
                self._layer(node, op)
            case Norm():
                channels = self._on(op.source, 1)
                self._tie_groups(op.groups, channels.labels)
                self._call(op.name, node, channels, channels)
            case Elementwise():
                if op.source in self.values:
                    self.values[node] = self.values[op.source]
            case PerChannel():
                self._pass(node, op)
            case Reshape():
                self._reshape(node, op)
            case Join():
                self._join(node, op)
            case Concat():
                values = [self._on(source, op.axis) for source in op.sources]
                self.values[node] = Channels(op.axis, torch.cat([channels.labels for channels in values]))
            case OpaqueOp():
                self._pin(node)
            case Boundary():
                if node.op in ("output", "call_module"):  # containers of the output
                    self._pin(node)

    def done(self) -> Coupling:
        """Sets of coupled channels in place of running numbers."""
        ties = torch.cat([torch.zeros(2, 0, dtype=torch.int64, device="cpu"), *self.ties], 1).numpy()
        pairs = coo_array(([True] * ties.shape[1], (ties[0], ties[1])), shape=(self.count, self.count))
        sets, numbers = connected_components(pairs, directed=False)
        set_of = torch.from_numpy(numbers).long()
        pinned = torch.zeros(sets, dtype=torch.bool, device="cpu")
        for labels in self.pins:
            pinned[set_of[labels]] = True
        return Coupling(_relabelled(self.values, set_of), _relabelled(self.into, set_of), pinned)

    def _layer(self, node: fx.Node, layer: WeightLayer) -> None:
        channels, out = self._on(layer.source, layer.axis), Channels(layer.axis, self._fresh(layer.weight.shape[0]))
        if layer.groups > 1:
            self._tie_groups(layer.groups, channels.labels, out.labels)
        self._call(layer.name, node, channels, out)

    def _tie_groups(self, groups: int, first: Tensor, *others: Tensor) -> None:
        """All channels of a group, over values that each consist of as many groups."""
        heads = first[torch.arange(groups, device="cpu") * (len(first) // groups)]
        for labels in (first, *others):
            self._tie(labels, heads.repeat_interleave(len(labels) // groups))

    def _call(self, name: str, node: fx.Node, into: Channels, out: Channels) -> None:
        self.into[node], self.values[node] = into, out
        other = self.first.setdefault(name, node)
        self._tie(into.labels, self.into[other].labels)
        self._tie(out.labels, self.values[other].labels)

    def _pass(self, node: fx.Node, op: PerChannel) -> None:
        channels = self.values.get(op.source)
        if channels is None:
            return
        if channels.axis in op.axes:
            self.values[node] = Channels(op.axes.index(channels.axis), channels.labels)
        else:
            self.pins.append(channels.labels)

    def _reshape(self, node: fx.Node, op: Reshape) -> None:
        channels = self.values.get(op.source)
        if channels is None:
            return
        moved = op.regrouped.channels(channels.axis, channels.labels)
        if moved is None:
            self.pins.append(channels.labels)
        else:
            self.values[node] = Channels(*moved)

    def _join(self, node: fx.Node, op: Join) -> None:
        one, other = op.sources
        axis = next((self.values[source].axis for source in op.sources if source in self.values), None)
        sizes = {shape[axis] for source in op.sources if (shape := shape_of(source)) and axis is not None}
        if axis is None or len(sizes) != 1:
            self._pin(node)
            return
        values = [self._on(source, axis) for source in (one, other)]
        self._tie(values[0].labels, values[1].labels)
        self.values[node] = values[0]

    def _on(self, node: fx.Node, axis: int) -> Channels:
        """The channels of a value along an axis; a value whose channels are not known there stays whole."""
        channels = self.values.get(node)
        if channels is not None and channels.axis == axis:
            return channels
        shape = shape_of(node)
        assert shape is not None
        whole = Channels(axis, self._fresh(shape[axis]))
        self.pins.append(whole.labels)
        if channels is not None:
            self.pins.append(channels.labels)
        return whole

    def _pin(self, node: fx.Node) -> None:
        self.pins.extend(self.values[source].labels for source in node.all_input_nodes if source in self.values)

    def _fresh(self, size: int) -> Tensor:
        self.count += size
        return torch.arange(self.count - size, self.count, device="cpu")

    def _tie(self, one: Tensor, other: Tensor) -> None:
        self.ties.append(torch.stack([one, other]))


def _relabelled(values: Mapping[fx.Node, Channels], set_of: Tensor) -> dict[fx.Node, Channels]:
    return {node: Channels(channels.axis, set_of[channels.labels]) for node, channels in values.items()}
