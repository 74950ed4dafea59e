"""Binary layers of a traced network → packed layers, and what lies between two of them → thresholds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tombola.bench.engines import Run
from tombola.bench.timing import WALL, Clock
from tombola.deploy.kernels.binary.kernel import PACKED, packed_layer, takes
from tombola.deploy.kernels.binary.layer import ConvWindow, Maps
from tombola.deploy.kernels.binary.modules import BitThreshold, PackSigns
from tombola.deploy.node import Recognised, Unsupported, pair
from tombola.deploy.ops import Conv, Linear, Region
from tombola.deploy.recognise import recognise
from tombola.graph.custom import binary_layer
from tombola.graph.edit import tensor
from tombola.graph.node import arguments, operation, shape_of
from tombola.names import check_known
from tombola.nn.binary import binary_sign, signs_and_scale

PackedChoice = Literal["packed", "dense"]
"""How a binary layer on binary activations can run."""
Apply = Callable[[Tensor], Tensor]
_ROUNDS = 3
_SIGNS = "signs"
_NEVER, _ALWAYS = 2**31 - 1, -(2**31)


@dataclass(frozen=True)
class Packed:
    """A binary layer: its choice, and measured seconds of both kinds (none: as planned)."""

    name: str
    shape: tuple[int, ...]
    density: float
    choice: PackedChoice
    seconds: Mapping[PackedChoice, float]


@dataclass(frozen=True, eq=False)
class _Layer:
    """A binary layer in the graph: its node, the signs that it reads, and what it computes of them."""

    node: fx.Node
    signs: fx.Node
    op: Conv | Linear

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def padding(self) -> tuple[int, int]:
        return self.op.padding if isinstance(self.op, Conv) else (0, 0)


def pack_binary(
    network: fx.GraphModule,
    threads: int,
    choices: Mapping[str, PackedChoice] | None = None,
    clock: Clock = WALL,
) -> tuple[Packed, ...]:
    """Replace binary layers on binary activations by packed layers, where that is faster.

    The traced network (`tombola.graph.trace`) is changed. `choices`: layer name -> a PackedChoice; None: measured on
    this machine. Pooling, norm and signs between two packed layers become thresholds on integer sums, computed by
    running the network's own operations on every possible sum, so that the results are equal to the bit.
    """
    layers = [layer for node in network.graph.nodes if (layer := _read(node, network)) is not None]
    wanted = {} if choices is None else choices
    packed = tuple(_chosen(layer, threads, clock, wanted.get(layer.name)) for layer in layers)
    chosen = [layer for layer, one in zip(layers, packed, strict=True) if one.choice == "packed"]
    _Rewriting(network, chosen, threads).run()
    return packed


# ---- reading the graph -----------------------------------------------------------------------------------------------


def _read(node: fx.Node, network: fx.GraphModule) -> _Layer | None:
    """The layer that a node is; None for every other node."""
    try:
        found = recognise(node, network) if operation(node) == "binary_layer" else None
    except Unsupported:
        return None
    if not isinstance(found, Recognised) or not isinstance(found.op, Conv | Linear) or takes(found.op) is not None:
        return None
    source, op = found.reads[0], replace(found.op, source=_SIGNS)
    signs = source if _is_signs(source) else _flattened(source)
    if signs is None or not _is_signs(signs):
        return None
    fits = len(_shape(source)) == 2 if isinstance(op, Linear) else signs is source and len(_shape(signs)) == 4
    return _Layer(node, signs, op) if fits else None


def _is_signs(node: fx.Node) -> bool:
    return operation(node) == "binary_sign"


def _flattened(node: fx.Node) -> fx.Node | None:
    """What is flattened from dimension 1 on by this node; None if it does anything else."""
    if operation(node) not in ("flatten", "view", "reshape") or not isinstance(node.args[0], fx.Node):
        return None
    before, after = _shape(node.args[0]), _shape(node)
    return node.args[0] if len(after) == 2 and len(before) == 4 and before[0] == after[0] else None


def _shape(node: fx.Node) -> tuple[int, ...]:
    return shape_of(node) or ()


def _maps(shape: Sequence[int], border: tuple[int, int] = (0, 0)) -> Maps:
    """Of a value (N, C, H, W) or (N, F)."""
    high, wide = shape[2:] or (1, 1)
    return Maps(shape[1], high, wide, border)


# ---- packing one layer -----------------------------------------------------------------------------------------------


def _chosen(layer: _Layer, threads: int, clock: Clock, choice: PackedChoice | None) -> Packed:
    """Packed or dense: as chosen, or whichever is faster alone on signs of the example's shape."""
    if choice is not None:
        check_known(f"choice for the packed layer {layer.name!r}", choice, get_args(PackedChoice))
    seconds = _measured(layer, threads, clock) if choice is None else {}
    fastest = choice if choice is not None else min(seconds, key=seconds.__getitem__)
    return Packed(layer.name, tuple(layer.op.weight.shape), layer.op.nonzeros.density, fastest, seconds)


def _measured(layer: _Layer, threads: int, clock: Clock) -> dict[PackedChoice, float]:
    batch, *shape = _shape(layer.signs)
    draw = torch.Generator("cpu").manual_seed(0)
    x = torch.randn(batch, *shape, generator=draw, dtype=torch.float32, device="cpu").sign_()
    packed = PACKED.build(Region({_SIGNS: tuple(shape)}, (layer.op,), (layer.op.target,)), batch, threads, "packed")
    dense = x.flatten(1) if isinstance(layer.op, Linear) else x
    given = {**arguments(layer.node), "input": dense, "weight": layer.op.weight, "bias": layer.op.bias}
    runs: dict[PackedChoice, Run] = {"packed": partial(packed, x), "dense": partial(binary_layer, **given)}
    times = clock.measure(runs, rounds=_ROUNDS, threads=threads)
    return {name: statistics.median(rounds) for name, rounds in times.items()}


# ---- folding what follows --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Tail:
    """What lies between a layer and the next signs: an optional pooling, an optional norm."""

    signs: fx.Node
    pool: ConvWindow | None
    norm: Apply | None


def _tail(node: fx.Node, network: fx.GraphModule) -> _Tail | None:
    """The tail of a layer's node; None where something else follows, or more than one thing."""
    pool: ConvWindow | None = None
    norm: Apply | None = None
    while len(node.users) == 1:
        (node,) = node.users
        name = operation(node)
        if name == "binary_sign":
            return _Tail(node, pool, norm)
        if name == "max_pool2d" and pool is None and norm is None:
            pool = _pooling(arguments(node))
            if pool is None:
                return None
        elif name == "batch_norm" and norm is None:
            norm = _norm(node, network)
            if norm is None:
                return None
        else:
            return None
    return None


def _norm(node: fx.Node, network: fx.GraphModule) -> Apply | None:
    """The norm as a function of values (N, C) or (N, C, H, W); None where it computes statistics."""
    given = arguments(node)
    nodes = {name: given[name] for name in ("weight", "bias", "running_mean", "running_var")}
    if given["training"] or nodes["running_mean"] is None:
        return None
    if any(isinstance(one, fx.Node) and one.op != "get_attr" for one in nodes.values()):
        return None
    own = {name: tensor(network, str(one.target)) for name, one in nodes.items() if one is not None}
    return partial(F.batch_norm, eps=given["eps"], **own)  # type: ignore[arg-type]


def _pooling(given: Mapping[str, Any]) -> ConvWindow | None:
    """The window of a pooling; None where it has a border."""
    if given["ceil_mode"] or any(given["padding"]):
        return None
    kernel = given["kernel_size"]
    return ConvWindow(pair(kernel), pair(given["stride"] or kernel), (0, 0), pair(given["dilation"]))


def threshold(
    op: Conv | Linear, maps: Maps, pool: ConvWindow | None = None, norm: Apply | None = None
) -> BitThreshold | None:
    """What follows a layer as a threshold on its integer sums; None unless the bit of each channel is monotone in them.

    Scale, bias, norm and sign are themselves run on every sum that can occur. `maps`: of the result.
    """
    weight = op.weight.detach()
    signs, scale = signs_and_scale(weight)
    max_sum = int(signs.abs().flatten(1).sum(1).max())
    sums = torch.arange(-max_sum, max_sum + 1, dtype=torch.float32, device="cpu")
    spread = sums.expand(len(weight), -1) * scale[:, None]
    if op.bias is not None:
        spread = spread + op.bias.detach()[:, None]
    if norm is not None and isinstance(op, Conv):
        spread = norm(spread[None, :, :, None])[0, :, :, 0]
    elif norm is not None:
        spread = norm(spread.T.contiguous()).T  # other strides round otherwise
    bits = binary_sign(spread) > 0
    rising = (bits[:, 1:] >= bits[:, :-1]).all(1)
    falling = (bits[:, 1:] <= bits[:, :-1]).all(1)
    if not bool((rising | falling).all()):
        return None
    ones = bits.sum(1)
    turn = torch.where(rising, bits.shape[1] - ones, ones) - max_sum  # the first sum after the change
    turn = torch.where(ones == 0, _NEVER, torch.where(ones == bits.shape[1], _ALWAYS, turn))
    rows = -(-len(weight) // 8) * 8
    thresholds = np.full(rows, _NEVER, np.int32)
    thresholds[: len(weight)] = turn.to(torch.int64).clamp(_ALWAYS, _NEVER).numpy().astype(np.int32)
    flips = np.zeros(rows, np.bool_)
    flips[: len(weight)] = (~rising).numpy()
    return BitThreshold(pool, thresholds, np.packbits(flips, bitorder="little"), maps)


# ---- rewriting -------------------------------------------------------------------------------------------------------


class _Rewriting:
    """Packed layers into the graph, from first to last."""

    def __init__(self, network: fx.GraphModule, layers: Sequence[_Layer], threads: int) -> None:
        self._network, self._threads = network, threads
        self._layers = layers
        self._bits: dict[fx.Node, tuple[fx.Node, Maps]] = {}

    def run(self) -> None:
        for number, layer in enumerate(self._layers):
            bits, maps = self._bits_of(layer.signs)
            tail = _tail(layer.node, self._network)
            after = None if tail is None else self._fold(layer, tail)
            call = self._call(f"packed_{number}", packed_layer(layer.op, maps, after, self._threads), bits, layer.node)
            call.meta = dict(layer.node.meta)
            if after is None or tail is None:
                layer.node.replace_all_uses_with(call)
            else:
                self._bits[tail.signs] = (call, after.maps)
        self._network.graph.eliminate_dead_code()
        self._network.delete_all_unused_submodules()
        self._network.recompile()

    def _readers(self, signs: fx.Node) -> Iterator[_Layer]:
        return (layer for layer in self._layers if layer.signs is signs)

    def _border(self, signs: fx.Node) -> tuple[int, int]:
        paddings = [layer.padding for layer in self._readers(signs)]
        return max(p[0] for p in paddings), max(p[1] for p in paddings)

    def _bits_of(self, signs: fx.Node) -> tuple[fx.Node, Maps]:
        """The node that gives the packed signs."""
        if signs not in self._bits:
            maps = _maps(_shape(signs), self._border(signs))
            source = signs.args[0]
            assert isinstance(source, fx.Node)
            self._bits[signs] = (
                self._call(f"signs_{len(self._bits)}", PackSigns(maps, self._threads), source, signs),
                maps,
            )
        return self._bits[signs]

    def _fold(self, layer: _Layer, tail: _Tail) -> BitThreshold | None:
        """The tail as a threshold, if only packed layers read its signs and every channel has one."""
        readers = list(self._readers(tail.signs))
        direct = {layer.node for layer in readers} | {layer.node.args[0] for layer in readers}
        if not readers or any(user not in direct for user in tail.signs.users):
            return None
        maps = _maps(_shape(tail.signs), self._border(tail.signs))
        return threshold(layer.op, maps, tail.pool, tail.norm)

    def _call(self, name: str, module: nn.Module, source: fx.Node, before: fx.Node) -> fx.Node:
        while hasattr(self._network, name):
            name += "_"
        self._network.add_submodule(name, module)
        with self._network.graph.inserting_before(before):
            return self._network.graph.call_module(name, (source,))
