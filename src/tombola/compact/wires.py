"""Which channels of a traced network stand or fall together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from tombola.compact.parts import Concat, Ends, Flatten, Join, Layer, Local, Norm, Part, Pointwise, Wall
from tombola.compact.trace import shape_of


@dataclass(frozen=True, eq=False)
class Wire:
    """The channels of a value: `labels[i]` names the bundle that index i of the channel axis belongs to.

    int64, (size of the axis,). A bundle is what must be kept or removed as one, over all values.
    """

    axis: int
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Wiring:
    """`values`: of every node whose channels are known. `into`: what enters each layer and norm, by its node.

    `pinned`: bool, (bundles,): what must be kept, since the network's output, input or a wall holds it.
    """

    values: Mapping[fx.Node, Wire]
    into: Mapping[fx.Node, Wire]
    pinned: Tensor


def wiring(parts: Mapping[fx.Node, Part]) -> Wiring:
    """Follow the channels through the network.

    Additions tie the channels of both sides, grouped convolutions all channels of a group, shared modules those of
    all their calls.
    """
    draft = _Draft()
    for node, part in parts.items():
        draft.add(node, part)
    return draft.done()


@dataclass
class _Draft:
    """Wires in the making: labels are running numbers, ties are pairs of them."""

    values: dict[fx.Node, Wire] = field(default_factory=dict)
    into: dict[fx.Node, Wire] = field(default_factory=dict)
    first: dict[str, fx.Node] = field(default_factory=dict)
    ties: list[Tensor] = field(default_factory=list)
    pins: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, node: fx.Node, part: Part) -> None:
        """The wire of a node, whose sources were added before."""
        match part:
            case Layer():
                self._layer(node, part)
            case Norm():
                wire = self._on(part.source, 1)
                self._call(part.name, node, wire, wire)
            case Pointwise():
                self._pass(node, part.source, None)
            case Local():
                self._pass(node, part.source, part.first)
            case Flatten():
                self._flatten(node, part.source)
            case Join():
                self._join(node, part)
            case Concat():
                wires = [self._on(source, part.axis) for source in part.sources]
                self.values[node] = Wire(part.axis, torch.cat([wire.labels for wire in wires]))
            case Wall():
                self._pin(node)
            case Ends():
                if node.op == "output":
                    self._pin(node)

    def done(self) -> Wiring:
        """Bundles in place of running numbers."""
        ties = torch.cat([torch.zeros(2, 0, dtype=torch.int64, device="cpu"), *self.ties], 1).numpy()
        pairs = coo_array(([True] * ties.shape[1], (ties[0], ties[1])), shape=(self.count, self.count))
        bundles, found = connected_components(pairs, directed=False)
        bundle = torch.from_numpy(found).long()
        pinned = torch.zeros(bundles, dtype=torch.bool, device="cpu")
        for labels in self.pins:
            pinned[bundle[labels]] = True
        return Wiring(_relabelled(self.values, bundle), _relabelled(self.into, bundle), pinned)

    def _layer(self, node: fx.Node, layer: Layer) -> None:
        shape = shape_of(node)
        assert shape is not None
        axis = len(shape) - 1 if layer.linear else 1
        wire, out = self._on(layer.source, axis), Wire(axis, self._fresh(layer.weight.shape[0]))
        if layer.groups > 1:
            group = torch.arange(layer.groups, device="cpu")
            heads = wire.labels[group * (len(wire.labels) // layer.groups)]
            for labels in (wire.labels, out.labels):
                self._tie(labels, heads.repeat_interleave(len(labels) // layer.groups))
        self._call(layer.name, node, wire, out)

    def _call(self, name: str, node: fx.Node, into: Wire, out: Wire) -> None:
        self.into[node], self.values[node] = into, out
        other = self.first.setdefault(name, node)
        self._tie(into.labels, self.into[other].labels)
        self._tie(out.labels, self.values[other].labels)

    def _pass(self, node: fx.Node, source: fx.Node, first: int | None) -> None:
        wire = self.values.get(source)
        if wire is not None and (first is None or wire.axis < first):
            self.values[node] = wire
        elif wire is not None:
            self.pins.append(wire.labels)

    def _flatten(self, node: fx.Node, source: fx.Node) -> None:
        before, after, wire = shape_of(source), shape_of(node), self.values.get(source)
        assert before is not None
        assert after is not None
        if wire is not None and wire.axis == 1:
            self.values[node] = Wire(1, wire.labels.repeat_interleave(after[1] // before[1]))
        elif wire is not None:
            self.pins.append(wire.labels)

    def _join(self, node: fx.Node, part: Join) -> None:
        one, other = part.sources
        axis = next((self.values[source].axis for source in part.sources if source in self.values), None)
        sizes = {shape[axis] for source in part.sources if (shape := shape_of(source)) and axis is not None}
        if axis is None or len(sizes) != 1:
            self._pin(node)
            return
        wires = [self._on(source, axis) for source in (one, other)]
        self._tie(wires[0].labels, wires[1].labels)
        self.values[node] = wires[0]

    def _on(self, node: fx.Node, axis: int) -> Wire:
        """The wire of a value along an axis; a value whose channels are not known there stays whole."""
        wire = self.values.get(node)
        if wire is not None and wire.axis == axis:
            return wire
        shape = shape_of(node)
        assert shape is not None
        whole = Wire(axis, self._fresh(shape[axis]))
        self.pins.append(whole.labels)
        if wire is not None:
            self.pins.append(wire.labels)
        return whole

    def _pin(self, node: fx.Node) -> None:
        self.pins.extend(self.values[source].labels for source in node.all_input_nodes if source in self.values)

    def _fresh(self, size: int) -> Tensor:
        self.count += size
        return torch.arange(self.count - size, self.count, device="cpu")

    def _tie(self, one: Tensor, other: Tensor) -> None:
        self.ties.append(torch.stack([one, other]))


def _relabelled(wires: Mapping[fx.Node, Wire], bundle: Tensor) -> dict[fx.Node, Wire]:
    return {node: Wire(wire.axis, bundle[wire.labels]) for node, wire in wires.items()}
