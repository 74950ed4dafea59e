"""Compact: the same network without the units and channels that cannot matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from tombola.compact.compare import largest_error, outputs, same_calls
from tombola.compact.effective import plain_copy
from tombola.compact.fold import fold_norms as fold
from tombola.compact.parts import Layer, Wall, parts_of
from tombola.compact.shrink import shrink
from tombola.compact.trace import traced
from tombola.compact.wires import wiring
from tombola.errors import TombolaError
from tombola.nn import flow
from tombola.nn.forward import leaves

Pair = tuple[int, int]

EQUAL = 1e-4
"""The largest max|a - b| / max|a| at which outputs count as equal."""

_MISREAD = (
    "traced by torch.fx it gives other outputs: it draws random numbers in eval mode, or changes values in place "
    "(write x = x + y, not x += y)"
)


@dataclass(frozen=True)
class LayerReport:
    """A layer before and after: output units, weights, and weights that are not 0."""

    name: str
    kind: str
    units: Pair
    weights: Pair
    nonzeros: Pair

    @property
    def density(self) -> tuple[float, float]:
        """Of the nonzeros, before and after."""
        return (self.nonzeros[0] / max(1, self.weights[0]), self.nonzeros[1] / max(1, self.weights[1]))


@dataclass(frozen=True)
class Report:
    """What compaction did.

    `reason`: why the model is as it was; None if it was compacted. `folded`: norms that became part of a layer.
    `constants`: layer -> how many constant inputs went into its bias. `walls`: place -> why its inputs and outputs stay
    whole. `flops`: of the example, before and after. `error`: max|a - b| / max|a| of the outputs on the example.
    """

    reason: str | None = None
    layers: tuple[LayerReport, ...] = ()
    folded: tuple[str, ...] = ()
    constants: Mapping[str, int] = field(default_factory=dict)
    walls: Mapping[str, str] = field(default_factory=dict)
    flops: Pair = (0, 0)
    error: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        if self.reason is not None:
            return f"not compacted: {self.reason}"
        shrunk = [layer for layer in self.layers if layer.weights[0] != layer.weights[1]]
        width = max((len(layer.name) for layer in shrunk), default=0)
        lines = [
            f"compacted: {self.flops[0]:,} -> {self.flops[1]:,} FLOPs, "
            f"{sum(x.weights[0] for x in self.layers):,} -> {sum(x.weights[1] for x in self.layers):,} weights, "
            f"{len(self.folded)} norms folded, {sum(self.constants.values())} constants folded"
        ]
        lines += [
            f"  {x.name:{width}}  units {x.units[0]} -> {x.units[1]}, weights {x.weights[0]:,} -> {x.weights[1]:,}, "
            f"density {x.density[0]:.1%} -> {x.density[1]:.1%}"
            for x in shrunk
        ]
        lines += [f"  {place} stays whole: {why}" for place, why in self.walls.items()]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Compacted:
    """`module`: in eval mode, an fx.GraphModule with the model's own names, or a plain copy if it cannot be traced."""

    module: nn.Module
    report: Report


def compact(model: nn.Module, *example: Tensor, fold_norms: bool = True) -> Compacted:
    """Remove the units and channels that a network's zeros leave without input or output, and keep its outputs.

    What nobody reads goes; what sends a constant goes once that constant is in the biases of its readers (of padded
    convolutions only 0 can be). Until nothing changes. The model itself is copied.

    Args:
        model: whatever computes its weights: the effective ones count, and are plain afterwards. Layers with other
            hooks stay whole.
        example: inputs, the batch first; other batch sizes work afterwards.
        fold_norms: make eval batch norms part of the layer before them. False: keep them, and remove only what may go
            in train mode too, where norms compute statistics and dropouts drop.

    Raises:
        TombolaError: no example, or one that the model cannot run on; a model that cannot be copied, or whose
            effective weights change from call to call.
    """
    if not example:
        raise TombolaError("there is no example input; give one as the model takes it")
    plain = plain_copy(model, example)
    want = outputs(plain, example)
    try:
        network = traced(plain, example, training=not fold_norms)
    except flow.Untraceable as error:
        return Compacted(plain, Report(reason=str(error)))
    network.eval()
    if not same_calls(plain, network, example) or not largest_error(want, outputs(network, example)) <= EQUAL:
        return Compacted(plain, Report(reason=_MISREAD))
    before, flops = _layers(network), _flops(network, example)
    parts = parts_of(network, training=not fold_norms)
    folded = fold(network, parts, wiring(parts)) if fold_norms else ()
    constants = shrink(network, example, training=not fold_norms)
    network.recompile()
    after = _layers(network)
    rows = tuple(
        LayerReport(name, kind, (a[0], b[0]), (a[1], b[1]), (a[2], b[2]))
        for name, (kind, *a) in before.items()
        for _, *b in (after[name],)
    )
    parts = parts_of(network, training=not fold_norms)
    walls = {_place(node): part.reason for node, part in parts.items() if isinstance(part, Wall)}
    off = largest_error(want, outputs(network, example))
    if not off <= EQUAL and not _coarse(want):
        reason = f"the outputs would change by {off:.1e} of the largest one"
        return Compacted(plain_copy(model, example), Report(reason=reason))
    report = Report(None, rows, folded, constants, walls, (flops, _flops(network, example)), off)
    return Compacted(network, report)


def _coarse(want: Any) -> bool:
    """Whether the outputs are of a type whose own rounding is larger than EQUAL."""
    dtypes = {x.dtype for x in leaves(want) if x.is_floating_point()}
    return any(torch.finfo(dtype).eps > EQUAL for dtype in dtypes)


def _place(node: fx.Node) -> str:
    """What a node is called in a report."""
    return str(node.target) if node.op == "call_module" else node.name


def _layers(network: fx.GraphModule) -> dict[str, tuple[str, int, int, int]]:
    """name -> (kind, units, weights, nonzeros)."""
    parts = parts_of(network, training=False)
    return {
        part.name: (
            type(part.owner).__name__ if part.module else "functional",
            part.weight.shape[0],
            part.weight.numel(),
            int(part.weight.count_nonzero()),
        )
        for part in parts.values()
        if isinstance(part, Layer)
    }


def _flops(network: nn.Module, example: tuple[Tensor, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*(x.clone() for x in example))
    return int(counter.get_total_flops())
