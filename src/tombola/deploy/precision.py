"""Regions of a deployed network in 8 bits, where that is measured faster, and how far that is off."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from tombola.bench.timing import Clock
from tombola.compact.checks import Checks
from tombola.compact.compare import difference
from tombola.deploy.choose import Draft, Times, built, planned, twin, values_of_inputs
from tombola.deploy.kernels.int8 import calibrated, measure, unsupported
from tombola.deploy.lower import LoweredRegion, alone, lower, put_in
from tombola.deploy.node import shape_of
from tombola.deploy.plan import Plan, RegionPlan
from tombola.deploy.regions import INT8, NativeModule, ReferenceModule
from tombola.errors import TombolaError
from tombola.graph.parts import Part
from tombola.machine.memory import described, has_shape
from tombola.names import check_known

Precision = Literal["float32", "int8"]
Batch = tuple[Tensor, ...]
_ROUNDS = 9
_MOST = 64  # calibration batches
_SAME = 1e-4  # max|a - b| / max|a|: activations with an exponential are not the reference's to the bit


@dataclass(frozen=True)
class Int8Report:
    """What 8 bits did.

    `regions`: how many run in them, of how many `tried`. `batches`: that the scales are from. `error`: the largest
    max|a - b| / max|a| of the outputs on these, against the network in float32; None where nothing was calibrated.
    `left`: why a region stays in float32, by its first layer.
    """

    regions: int
    tried: int
    batches: int
    error: float | None
    left: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        lines = [f"int8: {self.regions} of {self.tried} regions"]
        if self.regions and self.error is not None:
            lines[0] += (
                f"; on {self.batches} calibration batches outputs differ from float32's by up to "
                f"{self.error:.1e} of the largest"
            )
        return "\n".join([*lines, *(f"  {name} stays in float32: {why}" for name, why in self.left)])


def calibration_batches(
    precision: Precision, calibration: Iterable[Any] | None, example: Sequence[Tensor], *, fixed: bool
) -> list[Batch] | None:
    """Inputs of the network in batches, at most 64; of each batch the first tensors count, as many as the example has.

    None for float32. `fixed`: whether none can be given, for there is a plan, or the call is one of dicts.

    Raises:
        TombolaError: an unknown precision, calibration where none can be given, a batch that does not begin with
            tensors of the example's shapes (the batch size aside).
    """
    check_known("precision", precision, get_args(Precision))
    if calibration is not None and (precision != "int8" or fixed):
        raise TombolaError(
            "calibration is for precision 'int8' of a network of tensors, and a plan has its scales; leave it out"
        )
    if precision != "int8":
        return None
    found: list[Batch] = []
    for one in islice([tuple(example)] if calibration is None else calibration, _MOST):
        given = (one,) if isinstance(one, Tensor) else tuple(one)[: len(example)]
        like = len(given) == len(example) and all(
            has_shape(x) and x.dtype == wanted.dtype and x.shape[1:] == wanted.shape[1:] and len(x)
            for x, wanted in zip(given, example, strict=True)
        )
        if not like:
            shown = ", ".join(described(x) for x in given) or "nothing"
            raise TombolaError(
                f"a calibration batch begins with {shown}; give batches of the network's inputs, of the example's "
                "dtypes and shapes, as a tensor each or a tuple"
            )
        found.append(tuple(x.detach() for x in given))
    if not found:
        raise TombolaError("calibration has no batches; give one or more, or leave it out to take the example")
    return found


def in_int8(
    network: fx.GraphModule, draft: Draft, batches: Sequence[Batch], threads: int, clock: Clock
) -> tuple[Draft, dict[str, str]]:
    """The draft with each region in 8 bits that is faster so, and why the others are not, by their first layer.

    `network`: which the draft is of; it is not changed. `batches`: its inputs.
    """
    work = twin(network)
    lowered = lower(work, draft.isolated)
    runs = [values_of_inputs(work, lowered.parts, batch) for batch in batches]
    plans, timings, left = list(draft.parts), list(draft.times), dict[str, str]()
    for i, part in enumerate(lowered.parts):
        fed = [tuple(values[node] for node in part.inputs) for values in runs]
        try:
            plans[i], timings[i], why = _faster(work, part, draft.parts[i], draft.times[i], fed, threads, clock)
        except TombolaError as error:
            why = str(error)
        if why:
            left[part.layers[0]] = why
    (made,) = planned([network], threads, plans, draft.isolated)
    return replace(made, times=tuple(timings)), left


def _faster(
    network: fx.GraphModule,
    part: LoweredRegion,
    plan: RegionPlan,
    times: Times,
    fed: Sequence[Batch],
    threads: int,
    clock: Clock,
) -> tuple[RegionPlan, Times, str]:
    """(how the region is to run, its times with those of 8 bits, why not in 8 bits). Raises TombolaError."""
    reason = unsupported(part.region)
    if reason:
        return plan, times, reason
    scales = calibrated(part.region, fed)
    batch = shape_of(part.inputs[0])[0]
    found, native = measure(part.region, batch, threads, scales, clock)
    modules: dict[str, nn.Module] = {
        plan.engine: built(part, plan, alone(network, part), threads),
        INT8: NativeModule(native, part.shapes),
    }
    inputs = [_of_size(x, batch) for x in fed[0]]
    rounds = clock.measure({n: partial(m, *inputs) for n, m in modules.items()}, rounds=_ROUNDS, threads=threads)
    seconds = {name: statistics.median(one) for name, one in rounds.items()}
    times = replace(times, engines={**times.engines, **seconds})
    if seconds[INT8] >= seconds[plan.engine]:
        return plan, times, f"{plan.engine} is as fast ({_ms(seconds[plan.engine])}, int8 {_ms(seconds[INT8])})"
    return RegionPlan(part.layers, INT8, int8=found.choices), times, ""


@dataclass(frozen=True)
class InPrecision:
    """Drafts with regions in 8 bits, what was done, and how far their outputs are from the reference's."""

    drafts: list[Draft]
    report: Int8Report
    error: float


def in_precision(
    networks: Sequence[fx.GraphModule],
    parts: Sequence[Part],
    drafts: Sequence[Draft],
    together: Callable[[Sequence[Draft]], nn.Module],
    checks: Checks,
    threads: int,
    wanted: Plan | None,
    asked: Sequence[Batch] | None,
    clock: Clock,
) -> InPrecision | None:
    """Regions in 8 bits as planned, or where they are faster; None where none are planned or asked for.

    Where kernels give other outputs than the integer reference, all stay in float32.

    Args:
        networks: as they were traced, one for each part.
        parts: where they are in the whole network.
        drafts: of the networks, in float32.
        together: drafts -> the whole network.
        checks: inputs on which kernels are held to the reference.
        threads: of the CPU.
        wanted: a plan.
        asked: calibration batches, where 8 bits are asked for.
        clock: says what is faster.
    """
    if (asked is None and wanted is None) or (wanted is not None and not any(one.int8 for one in wanted.parts)):
        return None
    regions, left = sum(len(draft.parts) for draft in drafts), dict[str, str]()

    def none(why: str) -> InPrecision:
        return InPrecision(list(drafts), Int8Report(0, regions, 0, None, (("the network", why),)), 0.0)

    if not checks.stateless:
        return none("it changes its own state")
    whole = parts[0].call is None
    batches = list(asked or ()) if wanted is None else []
    if wanted is not None:
        quick = planned(networks, threads, wanted.parts, wanted.isolated)
    else:
        quick = []
        for part, network, draft in zip(parts, networks, drafts, strict=True):
            made, kept = in_int8(network, draft, batches if whole else [part.inputs], threads, clock)
            quick.append(made)
            left |= kept
    run = together(quick)
    true = together([by_reference(*pair, threads) for pair in zip(networks, quick, strict=True)])
    error = largest_difference(true, run, [one.inputs for one in checks.answers if len(one.inputs[0])])
    if not error <= _SAME:
        return none(f"kernels are off from the integer reference by {error:.1e}")
    count = sum(one.int8 is not None for draft in quick for one in draft.parts)
    off = largest_difference(together(drafts), run, batches) if batches else None
    used = len(batches) if whole else min(1, len(batches))
    return InPrecision(quick, Int8Report(count, regions, used, off, tuple(left.items())), error)


def by_reference(network: fx.GraphModule, draft: Draft, threads: int) -> Draft:
    """The draft with what its regions in 8 bits compute in plain torch instead."""
    work = twin(network)
    lowered = lower(work, draft.isolated)
    made: list[tuple[LoweredRegion, nn.Module]] = []
    for part, plan in zip(lowered.parts, draft.parts, strict=True):
        if plan.int8 is None:
            made.append((part, built(part, plan, alone(work, part), threads)))
        else:
            made.append((part, ReferenceModule(part.region, plan.int8.scales, part.shapes)))
    return replace(draft, network=put_in(work, made), lowered=lowered)


def in_float32(plans: Sequence[RegionPlan]) -> list[RegionPlan]:
    """The same with regions in 8 bits left to torch."""
    return [RegionPlan(plan.layers, "torch") if plan.engine == INT8 else plan for plan in plans]


def largest_difference(one: Callable[..., Any], other: Callable[..., Any], batches: Iterable[Batch]) -> float:
    """Of two networks' outputs, as max|a - b| / max|a|, over inputs."""
    with torch.no_grad():
        return max((difference(one(*x), other(*x)) for x in batches), default=0.0)


def _of_size(x: Tensor, batch: int) -> Tensor:
    """So many rows, repeated in turn."""
    return x[torch.arange(batch, device="cpu") % len(x)].contiguous()


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"
