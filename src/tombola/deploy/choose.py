"""Which engine runs each region of a network: measured on this machine, or taken from a plan."""

from __future__ import annotations

import copy
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from tombola.bench.timing import Clock
from tombola.deploy.budget import NO_LIMIT, Budget
from tombola.deploy.kernels import sparse
from tombola.deploy.kernels.int8 import Int8Region
from tombola.deploy.kernels.sparse import Choices
from tombola.deploy.lower import Lowered, LoweredRegion, alone, lower, put_in
from tombola.deploy.node import shape_of
from tombola.deploy.ops import Conv, Linear, padded
from tombola.deploy.plan import RegionPlan
from tombola.deploy.regions import ENGINES, INT8, NativeModule, region_module
from tombola.errors import TombolaError
from tombola.names import check_known

_ROUNDS = 5
_ROUND = 0.02  # seconds that a region is timed in one round
_LAYER_SECONDS, _LAYER_ROUNDS = 0.001, 12
_SLOWER, _WORTH = 1.1, 0.05  # a layer leaves its region if dense is that much faster, and the region gains that share


@dataclass(frozen=True)
class Times:
    """Measured seconds per call: of a region in each engine; of its layers by target, native and in torch, each alone.

    Empty where nothing was measured.
    """

    engines: Mapping[str, float] = field(default_factory=dict)
    native: Mapping[str, float] = field(default_factory=dict)
    dense: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    """Why native kernels were not tried."""
    cut: tuple[str, ...] = ()
    """Targets of the layers of which not all kernels were tried."""
    choices: Choices | None = None
    """Of the native kernels, where there are some, also if another engine is faster."""


@dataclass(frozen=True, eq=False)
class Draft:
    """A network with its regions in engines. `isolated`: the layers that share no region with others."""

    network: fx.GraphModule
    lowered: Lowered
    parts: tuple[RegionPlan, ...]
    times: tuple[Times, ...]
    isolated: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Known:
    """What was measured of layers, natively and in torch; layers like those are not measured again."""

    native: sparse.Known = field(default_factory=dict)
    dense: dict[object, float] = field(default_factory=dict)


def search(
    network: fx.GraphModule,
    example: Sequence[Tensor],
    threads: int,
    budget: Budget = NO_LIMIT,
    *,
    kernels_only: bool = False,
) -> Draft:
    """The fastest draft: each region in its fastest engine, with or without the layers that are faster dense.

    Within the budget; what it leaves untried runs in the first kernel that is tried. Regions that are each faster than
    torch can be slower together; then all stay dense. The network is not changed.

    Args:
        kernels_only: whether native kernels are taken wherever there are some, however fast torch is.
    """
    known = _Known()
    first = _measured(network, example, threads, (), budget, known)
    if kernels_only:
        return _all_native(network, threads, first)
    drafts = [first]
    slow = _slow_layers(first)
    if slow and not budget.spent:
        drafts.append(_measured(network, example, threads, slow, budget, known))
    if any(len(draft.parts) > 1 for draft in drafts):
        drafts.append(all_dense(network, threads, first))
    if len(drafts) == 1:
        return first
    runs = {str(i): partial(draft.network, *example) for i, draft in enumerate(drafts)}
    rounds = budget.clock.measure(runs, rounds=_ROUNDS, threads=threads)
    seconds = {name: statistics.median(times) for name, times in rounds.items()}
    return drafts[int(min(seconds, key=seconds.__getitem__))]


def planned(
    networks: Sequence[fx.GraphModule],
    threads: int,
    plans: Sequence[RegionPlan],
    isolated: Collection[str] = (),
) -> list[Draft]:
    """Copies of networks, the parts of one, as a plan has them: with its regions in their order.

    Raises:
        TombolaError: the plan is of another network, or its choices do not fit.
    """
    works = [twin(network) for network in networks]
    lowered = [lower(work, isolated) for work in works]
    _check_layers([part.layers for one in lowered for part in one.parts], [plan.layers for plan in plans], isolated)
    left = iter(plans)
    return [
        _planned(work, one, threads, tuple(islice(left, len(one.parts))), isolated)
        for work, one in zip(works, lowered, strict=True)
    ]


def _planned(
    work: fx.GraphModule, lowered: Lowered, threads: int, plans: tuple[RegionPlan, ...], isolated: Collection[str]
) -> Draft:
    made: list[tuple[LoweredRegion, nn.Module]] = []
    for part, plan in zip(lowered.parts, plans, strict=True):
        check_known("engine of a region on the CPU", plan.engine, (*ENGINES, INT8))
        made.append((part, built(part, plan, alone(work, part), threads)))
    own = {name for part in lowered.parts for name in part.layers}
    return Draft(
        put_in(work, made),
        lowered,
        plans,
        tuple(Times() for _ in plans),
        tuple(name for name in isolated if name in own),
    )


def built(part: LoweredRegion, plan: RegionPlan, network: fx.GraphModule, threads: int) -> nn.Module:
    """The module of a region as planned; `network`: the region alone in torch, which is not changed.

    Raises:
        TombolaError: the plan does not fit.
    """
    batch = shape_of(part.inputs[0])[0]
    if plan.int8 is not None:
        return NativeModule(Int8Region(part.region, batch, threads, plan.int8), part.shapes)
    native = sparse.build(part.region, batch, threads, plan.choices) if plan.engine == "native" else None
    return region_module(plan.engine, part, network, native)


def all_dense(network: fx.GraphModule, threads: int, draft: Draft) -> Draft:
    """The same regions, every one in its fastest dense engine."""
    parts = []
    for part, times in zip(draft.parts, draft.times, strict=True):
        dense = {engine: times.engines.get(engine, 0.0) for engine in ENGINES[1:]}
        parts.append(RegionPlan(part.layers, min(dense, key=dense.__getitem__)))
    (made,) = planned([network], threads, parts, draft.isolated)
    return Draft(made.network, made.lowered, made.parts, draft.times, draft.isolated)


def _all_native(network: fx.GraphModule, threads: int, draft: Draft) -> Draft:
    """The same regions, every one in native kernels if it has some."""
    parts = [
        plan if times.choices is None else RegionPlan(plan.layers, "native", times.choices)
        for plan, times in zip(draft.parts, draft.times, strict=True)
    ]
    (made,) = planned([network], threads, parts, draft.isolated)
    return replace(made, times=draft.times)


def twin(network: fx.GraphModule) -> fx.GraphModule:
    """The same modules and parameters with a graph of its own."""
    return fx.GraphModule(network, copy.deepcopy(network.graph))


def _measured(
    network: fx.GraphModule,
    example: Sequence[Tensor],
    threads: int,
    isolated: Collection[str],
    budget: Budget,
    known: _Known,
) -> Draft:
    """Each region in the fastest engine that is found in its part of the budget, the share of its time in torch."""
    work = twin(network)
    lowered = lower(work, isolated)
    values = values_of_inputs(work, lowered.parts, example)
    given = [[values[node] for node in part.inputs] for part in lowered.parts]
    rest = [alone(work, part) for part in lowered.parts]
    dense = budget.clock.fastest(
        [partial(one, *inputs) for one, inputs in zip(rest, given, strict=True)], seconds=0.0, rounds=1
    )
    found: dict[int, tuple[RegionPlan, Times, nn.Module]] = {}
    ahead = sum(dense)
    for i in sorted(range(len(dense)), key=lambda i: -dense[i]):
        part = lowered.parts[i]
        native = not set(part.layers) <= set(isolated)
        found[i] = _choose(rest[i], part, given[i], threads, budget.part(dense[i], ahead), known, native=native)
        ahead -= dense[i]
    plans, times, modules = zip(*(found[i] for i in range(len(dense))), strict=True) if found else ((), (), ())
    made = put_in(work, list(zip(lowered.parts, modules, strict=True)))
    return Draft(made, lowered, tuple(plans), tuple(times), tuple(isolated))


def _choose(
    rest: fx.GraphModule,
    part: LoweredRegion,
    values: Sequence[Tensor],
    threads: int,
    budget: Budget,
    known: _Known,
    *,
    native: bool,
) -> tuple[RegionPlan, Times, nn.Module]:
    """The fastest engine for a part on these inputs; `rest`: the part alone, in torch."""
    clock = budget.clock
    modules: dict[str, nn.Module] = {}
    measured: sparse.Measured | None = None
    reason = None if native else "dense layers are faster here"
    if native:
        try:
            measured = sparse.measure(part.region, len(values[0]), threads, budget, known.native)
            kernels = sparse.build(part.region, len(values[0]), threads, measured.choices)
            modules["native"] = region_module("native", part, rest, kernels)
        except TombolaError as error:
            reason = str(error)
    modules |= {engine: region_module(engine, part, rest, None) for engine in ENGINES[1:]}
    runs = {engine: partial(module, *values) for engine, module in modules.items()}
    rounds = clock.measure(runs, rounds=_ROUNDS, threads=threads, seconds=_ROUND)
    seconds = {engine: statistics.median(times) for engine, times in rounds.items()}
    best = min(seconds, key=seconds.__getitem__)
    native_choices = None if measured is None or "native" not in modules else measured.choices
    choices = native_choices if best == "native" else None
    layers = (measured.layers, _dense_layers(part, clock, known.dense)) if measured else ({}, {})
    times = Times(seconds, *layers, reason, () if measured is None else measured.cut, native_choices)
    return RegionPlan(part.layers, best, choices), times, modules[best]


def _dense_layers(part: LoweredRegion, clock: Clock, known: dict[object, float]) -> dict[str, float]:
    """Target of a layer -> seconds per call in torch, activation included, in the faster layout; equal ones once."""
    shapes = {node.name: shape_of(node) for node in (*part.inputs, *part.nodes)}
    seconds: dict[str, float] = {}
    for op in part.region.ops:
        if not isinstance(op, Conv | Linear):
            continue
        draw = torch.Generator().manual_seed(0)
        x = torch.rand(shapes[op.source], generator=draw, dtype=torch.float32, device="cpu")
        x = x.unsqueeze(-1) if x.dim() == 3 else x  # (N, C, L) as the kernels hold it
        moves = (op.stride, op.padding, op.after, op.dilation, op.groups) if isinstance(op, Conv) else ()
        key = (tuple(op.weight.shape), tuple(x.shape), moves, op.activation)
        if key not in known:
            layouts = [torch.contiguous_format, *([torch.channels_last] if isinstance(op, Conv) else [])]
            runs = [_torch_run(op, x, layout) for layout in layouts]
            # the least, as of native kernels: the two are compared, and a busy machine must not favour one
            known[key] = min(clock.fastest(runs, seconds=_LAYER_SECONDS, rounds=_LAYER_ROUNDS))
        seconds[op.target] = known[key]
    return seconds


def _torch_run(op: Conv | Linear, x: Tensor, layout: torch.memory_format) -> Callable[[], Tensor]:
    if isinstance(op, Linear):
        layer = partial(F.linear, x.flatten(1), op.weight, op.bias)
    else:
        image, padding = (x, op.padding) if op.after == op.padding else (padded(x, op), 0)
        image, weight = image.contiguous(memory_format=layout), op.weight.contiguous(memory_format=layout)
        layer = partial(F.conv2d, image, weight, op.bias, op.stride, padding, op.dilation, op.groups)
    activation = op.activation
    return layer if activation is None else lambda: activation(layer())


def _slow_layers(draft: Draft) -> tuple[str, ...]:
    """Layers whose dense kernel is faster, where it is not so for the whole region and the gain is worth it."""
    slow: list[str] = []
    for part, times in zip(draft.lowered.parts, draft.times, strict=True):
        native, dense = Counter[str](), Counter[str]()
        for op in part.region.ops:
            if op.target in times.native:
                native[op.name] += times.native[op.target]  # type: ignore[assignment]
                dense[op.name] += times.dense[op.target]  # type: ignore[assignment]
        own = [name for name in native if native[name] > _SLOWER * dense[name]]
        gain = sum(native[name] - dense[name] for name in own)
        if own and len(own) < len(native) and gain > _WORTH * min(times.engines.values()):
            slow += own
    return tuple(slow)


def values_of_inputs(
    network: fx.GraphModule, parts: Sequence[LoweredRegion], example: Sequence[Tensor]
) -> dict[fx.Node, Tensor]:
    """The values of all parts' inputs when the network runs on the example."""
    wanted = {node for part in parts for node in part.inputs}
    kept: dict[fx.Node, Tensor] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in wanted:
                kept[n] = result.clone()  # an in-place call may follow
            return result

    Keeping(network).run(*(x.clone() for x in example))
    return kept


def _check_layers(have: Sequence[tuple[str, ...]], want: Sequence[tuple[str, ...]], isolated: Collection[str]) -> None:
    here = {name for part in have for name in part}
    names = sorted(here ^ {name for part in want for name in part}) or sorted(set(isolated) - here)
    if names or list(have) != list(want):
        odd = f"layer {names[0][:80]!r} is in only one of them" if names else "their layers are in another order"
        raise TombolaError(f"the plan is of another network: {odd}; deploy without it")
