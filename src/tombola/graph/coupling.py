"""Which channels of a traced network are coupled: kept or removed only together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx

from tombola.graph.node import shape_of
from tombola.graph.ops import (
    Attention,
    Boundary,
    ChannelOp,
    Concat,
    Elementwise,
    Join,
    Matmul,
    Norm,
    OpaqueOp,
    Own,
    PerChannel,
    Pick,
    Reshape,
    WeightLayer,
)
from tombola.graph.reshape import Regrouped


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a value: `labels[i, j, ...]` is the set of coupled channels that index i, j, ... of the axes is
    in.

    int64, of the axes' sizes. Most values have one such axis; between the views of an attention there are two, heads
    and their width. A set is kept or removed as one, over all values.
    """

    axes: tuple[int, ...]
    labels: Tensor

    def kept(self, gone: Tensor) -> dict[int, Tensor]:
        """Axis -> bool, (its size,): which of its indices stay when the sets of `gone` are removed."""
        stays = ~gone[self.labels]
        others = {axis: [i for i in range(len(self.axes)) if i != k] for k, axis in enumerate(self.axes)}
        return {axis: stays.any(dim=dims) if dims else stays for axis, dims in others.items()}


@dataclass(frozen=True, eq=False)
class Coupling:
    """`values`: of every node whose channels are known. `into`: what enters each layer and norm, by its node.

    `pinned`: bool, (sets,): what must be kept, since the network's input, its output or an opaque operation reads it.
    """

    values: Mapping[fx.Node, Channels]
    into: Mapping[fx.Node, Channels]
    pinned: Tensor


def coupled_channels(ops: Mapping[fx.Node, ChannelOp], *, across_norms: bool = False) -> Coupling:
    """Follow the channels through the network.

    Additions tie the channels of both sides, grouped convolutions and group norms all channels of a group, attention
    all of a head, shared modules those of all their calls.

    Args:
        across_norms: channels may go that a norm takes its statistics over, which changes what it gives for the others.
    """
    draft = _Draft(across_norms)
    for node, op in ops.items():
        draft.add(node, op)
    return draft.done()


@dataclass
class _Draft:
    """A coupling in the making: labels are running numbers, ties are pairs of them."""

    across_norms: bool
    values: dict[fx.Node, Channels] = field(default_factory=dict)
    into: dict[fx.Node, Channels] = field(default_factory=dict)
    first: dict[str, fx.Node] = field(default_factory=dict)
    ties: list[Tensor] = field(default_factory=list)
    pins: list[Tensor] = field(default_factory=list)
    picked: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, node: fx.Node, op: ChannelOp) -> None:
        """The channels of a node, whose sources were added before."""
        match op:
            case WeightLayer():
                self._layer(node, op)
            case Norm():
                self._norm(node, op)
            case Own():
                self._own(node, op)
            case Elementwise():
                if op.source in self.values:
                    self.values[node] = self.values[op.source]
            case PerChannel():
                self._move(node, op.source, op)
            case Pick():
                self._pick(node, op)
            case Reshape():
                self._move(node, op.source, op.regrouped)
            case Join():
                self._join(node, op)
            case Concat():
                self._concat(node, op)
            case Attention():
                self._attention(node, op)
            case Matmul():
                self._matmul(node, op)
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
        values, into = _relabelled(self.values, set_of), _relabelled(self.into, set_of)
        whole = [channels.labels for channels in values.values() if len(_varying(channels.labels)) > 1]
        fixed = [labels for labels in (set_of[one] for one in self.picked) if 0 in _varying(labels)]
        for labels in (*whole, *fixed, *(set_of[one] for one in self.pins)):
            pinned[labels] = True
        return Coupling(values, into, pinned)

    # ---- layers, norms, parameters -----------------------------------------------------------------------------------

    def _layer(self, node: fx.Node, layer: WeightLayer) -> None:
        channels = self._on(layer.source, (layer.axis,))
        out = Channels((layer.axis,), self._fresh(layer.weight.shape[0]))
        if layer.groups > 1:
            self._tie_groups(layer.groups, channels.labels, out.labels)
        self._call(layer.name, node, channels, out)

    def _norm(self, node: fx.Node, norm: Norm) -> None:
        channels = self._on(norm.source, (norm.axis,))
        if norm.across:
            if not self.across_norms:
                self.pins.append(channels.labels)
        else:
            self._tie_groups(norm.groups, channels.labels)
        self._call(norm.name, node, channels, channels)

    def _own(self, node: fx.Node, own: Own) -> None:
        """All axes longer than 1: which of them is one of channels is told by what it is joined with."""
        axes = tuple(i for i, n in enumerate(own.value.shape) if n > 1)
        if not axes or own.value.numel() > _LARGE:
            return
        labels = self._fresh(own.value.numel()).reshape([own.value.shape[i] for i in axes])
        self.values[node] = Channels(axes, labels)
        other = self.first.setdefault(own.name, node)
        self._tie(labels, self.values[other].labels)

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

    # ---- one value to one value --------------------------------------------------------------------------------------

    def _move(self, node: fx.Node, source: fx.Node, op: PerChannel | Pick | Regrouped) -> None:
        channels = self.values.get(source)
        if channels is None:
            return
        moved = op.moved(channels.axes, channels.labels)
        if moved is None:
            self.pins.append(channels.labels)
        else:
            self.values[node] = _without_repeats(*moved)

    def _pick(self, node: fx.Node, op: Pick) -> None:
        """An index that is picked of an axis stays what it is only if none of that axis is removed."""
        channels = self.values.get(op.source)
        if channels is not None and op.axis in channels.axes and (isinstance(op.chosen, int) or _steps(op.chosen)):
            self.picked.append(channels.labels.movedim(channels.axes.index(op.axis), 0))
        self._move(node, op.source, op)

    # ---- several values ----------------------------------------------------------------------------------------------

    def _join(self, node: fx.Node, op: Join) -> None:
        shape = shape_of(node) or ()
        full = [one for one in map(lambda source: self._within(source, shape), op.sources) if one is not None]
        if not full:
            self._pin(node)
            return
        main = min(full, key=lambda channels: len(channels.axes))
        self.values[node] = main
        for source in op.sources:
            self._tie_to(main, source, shape)

    def _within(self, source: fx.Node, shape: Sequence[int]) -> Channels | None:
        """A value's channels along axes of a result of that shape, if they are as long there."""
        channels, own = self.values.get(source), shape_of(source) or ()
        if channels is None:
            return None
        axes = tuple(axis + len(shape) - len(own) for axis in channels.axes)
        return Channels(axes, channels.labels) if [shape[i] for i in axes] == [*channels.labels.shape] else None

    def _tie_to(self, main: Channels, source: fx.Node, shape: Sequence[int]) -> None:
        """What is joined with a value of these channels is theirs; what has others, or none that are known, stays."""
        own = shape_of(source) or ()
        sizes = [own[axis - len(shape) + len(own)] if axis >= len(shape) - len(own) else 1 for axis in main.axes]
        channels = self._within(source, shape)
        if channels is not None and set(main.axes) <= set(channels.axes):
            self._tie(channels.labels, _spread(main, channels))
            return
        if source in self.values:
            self.pins.append(self.values[source].labels)
        if any(n != 1 for n in sizes):
            self.pins.append(main.labels)

    def _concat(self, node: fx.Node, op: Concat) -> None:
        known = [self.values[source] for source in op.sources if source in self.values]
        first = min(known, key=lambda channels: len(channels.axes), default=None)
        axes = (op.axis,) if first is None or op.axis in first.axes else first.axes
        parts = [self._on(source, axes) for source in op.sources]
        if axes == (op.axis,):
            self.values[node] = Channels(axes, torch.cat([channels.labels for channels in parts]))
            return
        for channels in parts[1:]:
            self._tie(channels.labels, parts[0].labels)
        self.values[node] = parts[0]

    def _attention(self, node: fx.Node, op: Attention) -> None:
        """All of a head: queries, keys and values."""
        heads = [self._on(source, (1, 3)) for source in op.sources]
        for channels in heads:
            self._tie(channels.labels, heads[0].labels[:, :1].expand_as(channels.labels))
        self.values[node] = heads[-1]

    def _matmul(self, node: fx.Node, op: Matmul) -> None:
        """All of a matrix, if there are several side by side."""
        last = len(shape_of(node) or ()) - 1
        known = [self.values[source] for source in op.sources if source in self.values]
        heads = _of_matrices(known[0], last - 1) if len(known) == 2 else None
        if heads is None or not all(set(heads.axes) <= set(channels.axes) for channels in known):
            self._pin(node)
            return
        for channels in known:
            self._tie(channels.labels, _spread(heads, channels))
        self.values[node] = known[1] if known[1].axes == (*heads.axes, last) else heads

    def _on(self, node: fx.Node, axes: tuple[int, ...]) -> Channels:
        """The channels of a value along these axes; a value whose channels are not known there stays whole."""
        channels, shape = self.values.get(node), shape_of(node)
        assert shape is not None
        if channels is not None and channels.axes == axes:
            return channels
        if channels is not None and set(axes) < set(channels.axes):
            first = channels.labels[tuple(slice(None) if axis in axes else 0 for axis in channels.axes)]
            self._tie(channels.labels, _spread(Channels(axes, first), channels))
            return Channels(axes, first)
        sizes = [shape[axis] for axis in axes]
        whole = Channels(axes, self._fresh(prod(sizes)).reshape(sizes))
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
        self.ties.append(torch.stack([one.reshape(-1), other.reshape(-1)]))


_LARGE = 1 << 22
"""Numbers of a parameter whose channels are followed."""


def _relabelled(values: Mapping[fx.Node, Channels], set_of: Tensor) -> dict[fx.Node, Channels]:
    return {node: Channels(channels.axes, set_of[channels.labels]) for node, channels in values.items()}


def _spread(few: Channels, over: Channels) -> Tensor:
    """Labels of some of the axes of a value, as often as its other axes are long."""
    sizes = [n if axis in few.axes else 1 for axis, n in zip(over.axes, over.labels.shape, strict=True)]
    return few.labels.reshape(sizes).expand_as(over.labels)


def _of_matrices(channels: Channels, first: int) -> Channels | None:
    """The labels along the axes before `first`, at the first index of the others."""
    axes = tuple(axis for axis in channels.axes if axis < first)
    whole = tuple(slice(None) if axis < first else 0 for axis in channels.axes)
    return Channels(axes, channels.labels[whole]) if axes else None


def _varying(labels: Tensor) -> list[int]:
    """The axes along which labels differ."""
    return [axis for axis, n in enumerate(labels.shape) if n and not bool((labels == labels.narrow(axis, 0, 1)).all())]


def _without_repeats(axes: tuple[int, ...], labels: Tensor) -> Channels:
    """The channels without the axes that only repeat them."""
    varying = _varying(labels) or [0]
    return Channels(
        tuple(axes[i] for i in varying), labels[tuple(slice(None) if i in varying else 0 for i in range(len(axes)))]
    )


def _steps(chosen: slice) -> bool:
    return chosen.step not in (None, 1)
