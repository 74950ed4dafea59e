"""Compact: the same network without the units and channels that cannot matter."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from tombola.compact.across import over_kept
from tombola.compact.apply import put_into
from tombola.compact.checks import Checks, checks_of, plain_tensors
from tombola.compact.effective import plain_copy
from tombola.compact.fold import fold_norms as fold
from tombola.compact.shrink import shrink
from tombola.errors import TombolaError
from tombola.formats import density as percent
from tombola.graph.call import as_called, checked_call, taking_tensors
from tombola.graph.copies import copied
from tombola.graph.coupling import coupled_channels
from tombola.graph.ops import ChannelOp, Norm, WeightLayer, opaque_places
from tombola.graph.parts import Part, Reading, again, assembled, is_alone, split, whole
from tombola.graph.read import channel_ops
from tombola.graph.record import GraphRecord, recorded
from tombola.graph.trace import Untraceable
from tombola.nn.flops import flops as flops_of
from tombola.rng.guard import kept

Pair = tuple[int, int]


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
class CompactReport:
    """What compaction did.

    `reason`: why the model is as it was; None if it was compacted. `folded`: norms that became part of a layer.
    `constants`: layer -> how many constant inputs went into its bias. `opaque`: place -> why its inputs and outputs
    stay whole. `flops`: of the example, before and after. `error`: the largest max|a - b| / max|a| of the outputs, on
    the example and on inputs like it, drawn here.
    """

    reason: str | None = None
    layers: tuple[LayerReport, ...] = ()
    folded: tuple[str, ...] = ()
    constants: Mapping[str, int] = field(default_factory=dict)
    opaque: Mapping[str, str] = field(default_factory=dict)
    flops: Pair = (0, 0)
    error: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values = asdict(self)
        return {**values, "walls": values.pop("opaque")}

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
            f"density {percent(x.density[0])} -> {percent(x.density[1])}"
            for x in shrunk
        ]
        lines += [f"  {place} stays whole: {why}" for place, why in self.opaque.items()]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Compacted:
    """A smaller network.

    Args:
        module: in eval mode, a copy of the model with smaller tensors, which can train on; the graph where the model's
            own forward asks for sizes that are no longer there.
        parts: the same network as graphs: one of all of it, or of those of its children that can be traced.
        left: module and line -> why what stands there is in no part.
        record: the graph before anything was removed, where it is of all of the network and can be recorded.
        kept: name of a weight, bias, scale, shift or statistic -> which indices of the whole tensor it consists of,
            int64, along its outputs and, of a layer's weight, along its inputs too. Without folded norms and constants
            the small tensor is just that part of the whole one (`cut`, `scatter`).
    """

    module: nn.Module
    report: CompactReport
    kept: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    record: GraphRecord | None = None


def compact(
    model: nn.Module,
    *example: Any,
    named: Mapping[str, Any] | None = None,
    fold_norms: bool = True,
    fold_constants: bool = True,
    across_norms: bool = False,
) -> Compacted:
    """Remove the units and channels that a network's zeros leave without input or output, and keep its outputs.

    Channels that nothing reads are removed; channels that send a constant too, once that constant is in the biases of
    their readers (of padded convolutions only 0 can be); repeated until nothing changes. The model itself is copied,
    and not called; the global random state stays. A network whose outputs would change, on the example or on inputs
    like it, drawn here, is returned whole, with the reason.

    Args:
        model: whatever computes its weights: the effective ones count, and are plain afterwards. Layers with other
            hooks stay whole.
        example: inputs as the network will see them (a batch of the data), the batch first; other batch sizes work
            afterwards where the model takes them. Tensors, also in dicts, tuples and lists, and constants.
        named: those that are given by name.
        fold_norms: make eval batch norms part of the layer before them. False: keep them, and remove only what may go
            in train mode too, where norms compute statistics and dropouts drop.
        fold_constants: False: remove only channels that nothing reads, and leave biases as they are.
        across_norms: remove such channels also where layer norms take their statistics over them, as in the stream of a
            transformer. The network then gives other outputs, for these norms see fewer channels, and is meant to be
            trained on; it is held equal to the network whose norms take statistics over the channels that are left.

    Raises:
        TombolaError: no example, or one that the model cannot run on; a model that cannot be copied, or whose
            effective weights change from call to call.
    """
    call = checked_call(example, named or {})
    inputs = example if call is None else call.inputs
    if not inputs:
        raise TombolaError("there is no example input; give one as the model takes it")
    with plain_tensors(), kept(cuda=True):
        plain = plain_copy(model if call is None else taking_tensors(copied(model), call), inputs)
        checks = checks_of(plain, inputs)
        made = compact_checked(
            plain, checks, fold_norms=fold_norms, fold_constants=fold_constants, across_norms=across_norms
        )
    return made if call is None else replace(made, module=as_called(made.module, call))


def compact_checked(
    model: nn.Module,
    checks: Checks,
    *,
    fold_norms: bool = True,
    fold_constants: bool = True,
    across_norms: bool = False,
    known: GraphRecord | None = None,
) -> Compacted:
    """As `compact`, of a model with plain weights and the checks that were made of it; not in inference mode.

    `known`: the graph, if it was recorded earlier.
    """
    how = _How(fold_norms, fold_constants, across_norms)
    made = partial(_compacted, model, checks, how)
    carries = checks.batch.carries if checks.batch.only is None else None
    try:
        if not checks.same_attributes:
            raise Untraceable("its forward changes the network's own attributes")
        if known is not None:
            with contextlib.suppress(Untraceable), _of_this_network():
                return made(lambda plain: _recorded(plain, checks, known))
        return made(lambda plain: whole(plain, checks.example, carries))
    except Untraceable as error:
        reason = error
        if across_norms:
            return Compacted(copied(model), CompactReport(reason=str(reason)))
    try:
        found = made(lambda plain: split(plain, checks.example, checks.other, reason))
    except Untraceable:
        return Compacted(copied(model), CompactReport(reason=str(reason)))
    lines = [f"{place}: {why}" for place, why in found.left.items()]
    warnings.warn(f"read in parts, for what stays as it is: {'; '.join(lines)}", UnreadWarning, stacklevel=4)
    return found


def _recorded(plain: nn.Module, checks: Checks, known: GraphRecord) -> Reading:
    """The model by its recorded graph. Raises Untraceable where that answers otherwise: it is of another network."""
    reading = again(plain, checks.example, known)
    if not checks.error(reading.parts[0].network).size <= checks.allowed:
        raise Untraceable("its graph is recorded of another network")
    return reading


class UnreadWarning(UserWarning):
    """A network is read in parts, since something of it cannot be traced."""


@contextlib.contextmanager
def _of_this_network() -> Iterator[None]:
    """One line of what a graph does whose record says wrong things of its values."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        if isinstance(error, TombolaError):
            raise
        raise TombolaError("the plan is of another network: its graph does not fit; deploy without it") from error


@dataclass(frozen=True)
class _How:
    """As the arguments of `compact`."""

    fold_norms: bool
    fold_constants: bool
    across_norms: bool


def _compacted(model: nn.Module, checks: Checks, how: _How, read: Callable[[nn.Module], Reading]) -> Compacted:
    """The model without what cannot matter in the parts of it that are read. Raises Untraceable."""
    plain = copied(model)
    reading = read(plain)
    record = recorded(reading.parts[0].network, plain) if reading.parts[0].call is None else None
    before: dict[str, _Layer] = {}
    after: dict[str, _Layer] = {}
    folded: dict[str, Norm] = {}
    constants: dict[str, int] = {}
    kept: dict[str, tuple[Tensor, ...]] = {}
    opaque = dict(reading.left)
    flops = _flops(plain, checks)
    for part in reading.parts:
        network = part.network
        if not how.fold_norms:
            part.check_training(plain)
        ops = channel_ops(network, plain, training=not how.fold_norms)
        before |= _layers(ops.values(), plain)
        if not is_alone(plain, part):
            opaque[part.path] = "its weights are used in another place too"
            continue
        folded |= fold(network, ops, coupled_channels(ops)) if how.fold_norms else {}
        shrunk = shrink(
            network,
            plain,
            training=not how.fold_norms,
            fold_constants=how.fold_constants,
            across_norms=how.across_norms,
        )
        ops = channel_ops(network, plain, training=not how.fold_norms)
        after |= _layers(ops.values(), plain)
        opaque |= opaque_places(ops, across_norms=how.across_norms)
        constants |= shrunk.folded
        kept |= shrunk.kept
    held = _with_kept_statistics(model, checks, read, kept) if how.across_norms else checks
    rows = tuple(_row(name, layer, after.get(name, layer)) for name, layer in before.items())
    for part in reading.parts:
        put_into(plain, part.network, folded)
    cut: nn.Module = plain
    off = held.error(cut)
    if off.size > held.allowed:  # its own forward asks for sizes that are no longer there
        cut = assembled(plain, [(part, part.network) for part in reading.parts])
        off = held.error(cut)
    if off.size > held.allowed:
        raise Untraceable(f"the outputs would change by {off.size:.1e} of the largest one, on {off.what}")
    report = CompactReport(None, rows, tuple(folded), constants, opaque, (flops, _flops(cut, checks)), off.size)
    return Compacted(cut, report, kept, reading.parts, reading.left, record)


def _with_kept_statistics(
    model: nn.Module, checks: Checks, read: Callable[[nn.Module], Reading], kept: Mapping[str, tuple[Tensor, ...]]
) -> Checks:
    """What the network answers whose norms take statistics over the channels that are kept."""
    plain = copied(model)
    network = read(plain).parts[0].network
    over_kept(network, plain, kept)
    return checks_of(network, checks.example)


_Layer = tuple[str, int, int, int]
"""kind, units, weights, nonzeros."""


def _row(name: str, before: _Layer, after: _Layer) -> LayerReport:
    (kind, *old), (_, *new) = before, after
    return LayerReport(name, kind, *zip(old, new, strict=True))


def _layers(ops: Iterable[ChannelOp], model: nn.Module) -> dict[str, _Layer]:
    """By name."""
    return {
        op.name: (
            type(model.get_submodule(op.name)).__name__ if op.module else "functional",
            op.weight.shape[0],
            op.weight.numel(),
            int(op.weight.count_nonzero()),
        )
        for op in ops
        if isinstance(op, WeightLayer)
    }


def _flops(network: nn.Module, checks: Checks) -> int:
    called = network if checks.stateless else copy.deepcopy(network)
    return flops_of(called, list(checks.example)).get("", 0)
