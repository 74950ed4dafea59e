"""Deploy: a ticket, or any network with zeros in its weights, as fast as this machine allows."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import fx, nn

from tombola.bench.timing import WALL, Clock
from tombola.compact import Compacted, CompactReport
from tombola.compact.checks import Checks, checks_of, plain_tensors
from tombola.compact.compact import compact_checked
from tombola.compact.effective import plain_copy
from tombola.deploy.budget import Budget
from tombola.deploy.c.passes import what_keeps_the_gain
from tombola.deploy.choose import Draft, all_dense, planned, search, twin
from tombola.deploy.cost import Meter
from tombola.deploy.inference import Inference, check_call
from tombola.deploy.kernels.binary import pack_binary
from tombola.deploy.kernels.cuda import LinearChoice, bytes_of, choose_kernels, use_kernels
from tombola.deploy.kernels.module import KernelModule
from tombola.deploy.lower import lower
from tombola.deploy.plan import Plan, RegionPlan, this_machine
from tombola.deploy.precision import Batch, Precision, calibration_batches, in_float32, in_precision
from tombola.deploy.report import DeployReport, part_rows
from tombola.deploy.rows import over_rows
from tombola.deploy.slices import as_slices
from tombola.deploy.takes import Takes, shown, takes
from tombola.deploy.whole import EngineModule, Engines, check_planned, checked_engines
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.graph.call import as_called, checked_call, taking_tensors
from tombola.graph.copies import copied
from tombola.graph.parts import Part, assembled
from tombola.machine.cores import held_to_cores
from tombola.machine.memory import has_shape
from tombola.rng.guard import kept
from tombola.runs.jobs import limit_threads
from tombola.runs.progress import Progress, Silent
from tombola.ticket.ticket import Ticket

TOLERANCE = 1e-4
"""Outputs are equal within this, as max|a - b| / max|a|; Deployed networks sum in another order than torch."""


class Deployed(Inference):
    """A network made fast for inference: the call and the outputs of the network it was made from, in eval mode.

    Other batch sizes work too, where the network takes them. No gradients. `plan`: what
    was chosen; `report`: what was done; `takes`: what it may be called with.
    """

    def __init__(
        self, network: nn.Module, plan: Plan, report: DeployReport, takes: Takes, compacted: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.plan, self.report, self.takes = plan, report, takes
        self._compacted = (compacted,)  # a tuple: its weights are not this module's
        self.eval()

    @property
    def compacted(self) -> nn.Module:
        """The compacted network in plain torch, for export and for further training.

        Raises:
            TombolaError: it was not kept.
        """
        if self._compacted[0] is None:
            raise TombolaError("the compacted network was not kept; deploy with keep_compacted=True")
        return self._compacted[0]

    @property
    def regions(self) -> nn.Module:
        """The network in its regions, also where another engine runs it as a whole."""
        return self.network.rest if isinstance(self.network, EngineModule) else self.network

    @property
    def nbytes(self) -> int:
        """Bytes of all that inference reads: weights as they are stored, other parameters and buffers."""
        return _nbytes(self.network)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As of the network it was made from; inputs in order, or by the names that its forward has for them.

        Raises:
            TombolaError: an input of another shape (the batch aside), dtype or device, or a call that is not plain
                inference.
        """
        check_call(inputs)
        given = self.takes.bound(inputs, named)
        if given is not inputs:
            check_call(given)
        network = self.network.forward if isinstance(self.network, fx.GraphModule) else self.network  # no prints
        with torch.no_grad():
            return network(*given)

    def __deepcopy__(self, memo: dict[int, Any]) -> Deployed:
        """Native kernels are shared: nothing in them changes."""
        kept = copy.deepcopy(self._compacted[0], memo)
        return Deployed(copy.deepcopy(self.network, memo), self.plan, self.report, self.takes, kept)


@checked
def deploy(
    subject: Ticket | nn.Module,
    *example: Any,
    named: Mapping[str, Any] | None = None,
    threads: int | None = None,
    plan: Plan | str | Path | None = None,
    precision: Precision = "float32",
    calibration: Iterable[Any] | None = None,
    keep_compacted: bool = True,
    kernels_only: bool = False,
    model: nn.Module | None = None,
    trusted: Sequence[str] = (),
    engines: Sequence[str] | None = None,
    time_limit: float | None = 60.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    clock: Clock = WALL,
) -> Deployed:
    """Compact a network exactly, and run each region in the fastest kernels that this machine has for it.

    Args:
        subject: a ticket, or a module with plain zeros in its weights (also one with a supermask, a held mask or
            another parametrisation attached: its effective weights count). It is not changed.
        example: inputs as the network will see them (a batch of the data), of the shape and batch size to be fast for.
            Tensors, also in dicts, tuples and lists, and constants. On a GPU only Linear layers are looked at.
        named: those that are given by name. Calls later are like this one, but for the tensors' values and batch.
        threads: of the CPU, held to the cores there are; None: those of the plan, or as torch is set.
        plan: choices of an earlier deployment, or their file: nothing is measured.
        precision: "int8" also tries each region in 8 bits, weights with a step for each output row and activations with
            one for each value, and keeps it where it is faster. Its outputs are then those of `kernels.int8.reference`,
            and `report.int8` says how far they are from float32's. A plan has its own.
        calibration: for "int8", batches of inputs from which the scales of activations are taken, least to largest:
            each a tensor, or a tuple that begins with the network's inputs; 64 count. None: the example.
        keep_compacted: whether the compacted network is kept beside, dense, for export.
        kernels_only: whether what has native kernels runs in them, also where torch was measured faster: for a C
            library, which has nothing else. Of a plan its own choices count.
        model: of a ticket whose network is not Tombola's own, as in `Ticket.build`.
        trusted: import prefixes of such a network, as there.
        engines: that are tried for the whole network beside: "onnxruntime", "openvino"; None: those that are installed.
            What is the fastest and gives these outputs is used, at the example's batch size.
        time_limit: seconds that deploying may take, about; None: no limit. Kernels are looked for until then, longer
            for what takes longer in torch; one for each layer is compiled in any case.
        stop: asked between measurements; once it says True, what was found so far is used.
        progress: bars for it; None: none.
        clock: what says which kernels are the fastest; by default the time that passes.

    Returns:
        A module with the same call and outputs (within TOLERANCE), its `plan`, and a `report` of what was done. What no
        kernel exists for stays in torch, and is named in the report. Outputs are compared on the example, on inputs
        like it, drawn here, and at other batch sizes; where they would differ, the network stays with torch as it
        is. A network that draws random numbers gives the same as before at the same state of torch's generators; one
        that changes its own buffers goes on from their present values, in the copy.

    Raises:
        TombolaError: no example, or one that the model cannot run on; a model that cannot be copied, or that gives
            other outputs each time; threads below 1; a time limit of 0 or less; a plan of another network,
            or of an engine that is not installed.
            TicketError: the ticket cannot be built.
    """
    call = checked_call(example, named or {})
    example = example if call is None else call.inputs
    if not example or not all(has_shape(x) and 0 not in x.shape[:1] for x in example) or not example[0].dim():
        raise TombolaError(
            "the example holds no tensors, or empty ones; give inputs as the network takes them, batch first"
        )
    if isinstance(subject, nn.Module) and any(isinstance(module, Inference) for module in subject.modules()):
        raise TombolaError(
            "the network, or a part of it, is deployed already; deploy the ticket or model it was made from"
        )
    if time_limit is not None and not time_limit > 0:
        raise TombolaError(f"time_limit is {time_limit:g}; give seconds above 0, or None for no limit")
    wanted = Plan.load(plan) if isinstance(plan, str | Path) else plan
    count = threads if threads is not None else wanted.threads if wanted else torch.get_num_threads()
    count = held_to_cores("threads", count)
    if wanted is not None and [shape[1:] for shape in wanted.inputs] != [tuple(x.shape[1:]) for x in example]:
        raise TombolaError(f"the plan is for inputs {shown(wanted.inputs)}, not {shown(example)}; deploy without it")
    if wanted is not None:
        _check_names(wanted)
        check_planned(wanted.engine)
    tried = checked_engines(() if kernels_only else engines)
    names = tried if wanted is None else (wanted.engine,) if wanted.engine else ()
    asked = calibration_batches(precision, calibration, example, fixed=wanted is not None or call is not None)
    with plain_tensors(), limit_threads(count, exclusive=True), kept(cuda=True):
        meter, started = Meter(), clock.now()
        source = subject.build(model=model, trusted=trusted) if isinstance(subject, Ticket) else subject
        plain = plain_copy(source if call is None else taking_tensors(copied(source), call), example)
        checks = checks_of(plain, example)
        meter.end("checks")
        compacted = compact_checked(plain, checks, known=None if wanted is None else wanted.graph)
        meter.end("compaction")
        with _budget(time_limit, started, meter, stop, progress, clock) as budget:
            network, chosen, report = _made(
                plain, compacted, checks, count, wanted, names, asked, budget, meter, kernels_only=kernels_only
            )
        meter.end("kernels")
        taken = takes(plain, checks.example, checks.batch, call, empty=checks.takes_none(network))
        beside = copied(compacted.module) if keep_compacted and (call or not checks.stateless) else compacted.module
        beside = beside if call is None else as_called(beside, call)
        meter.end("verification")
    made = Deployed(network, chosen, report, taken, beside if keep_compacted else None)
    exports = what_keeps_the_gain(made)
    made.report = replace(report, exports=exports, seconds=meter.seconds, memory=meter.memory)
    return made


@contextlib.contextmanager
def _budget(
    limit: float | None,
    started: float,
    meter: Meter,
    stop: Callable[[], bool] | None,
    progress: Progress | None,
    clock: Clock,
) -> Iterator[Budget]:
    """What is left for kernels, with its bar: verifying takes about as long as the network's own answers took."""
    last = math.inf if limit is None else started + limit - meter.seconds["checks"]
    with (progress or Silent()).track("choosing kernels, s", None if limit is None else round(limit)) as update:
        yield Budget(clock, last, stop or _never, lambda name: update(round(clock.now() - started), lambda: name))


def _never() -> bool:
    return False


def _check_names(plan: Plan) -> None:
    """TombolaError if a plan isolates layers that are in none of its regions."""
    odd = sorted(set(plan.isolated) - {name for part in plan.parts for name in part.layers})
    if odd:
        raise TombolaError(
            f"the plan is of another network: layer {odd[0][:80]!r} is in only one of them; deploy without it"
        )


Made = tuple[nn.Module, Plan, DeployReport]


def _made(
    plain: nn.Module,
    compacted: Compacted,
    checks: Checks,
    threads: int,
    wanted: Plan | None,
    engines: Sequence[str],
    asked: Sequence[Batch] | None,
    budget: Budget,
    meter: Meter,
    *,
    kernels_only: bool,
) -> Made:
    """The network in the fastest engines that give its outputs; as it was if none does."""
    on_cpu = all(x.device.type == "cpu" for x in checks.example)
    parts = compacted.parts if on_cpu else ()
    if parts and wanted is not None and _stays(wanted, parts):
        return _whole(Compacted(plain, CompactReport(reason="as planned")), checks, threads, meter)
    if parts:
        others = Engines(engines, compacted.module, checks, threads, budget)
        made = _on_cpu(plain, compacted, checks, threads, wanted, asked, budget, meter, kernels_only=kernels_only)
    else:
        made = _in_torch(plain, compacted, checks, threads, wanted, meter)
    if made[2].error <= max(TOLERANCE, checks.allowed):
        return _in_engine(made, others, wanted, budget, meter) if parts and engines else made
    reason = f"its kernels would change outputs by {made[2].error:.1e}"
    made = _whole(Compacted(plain, CompactReport(reason=reason)), checks, threads, meter)
    if not made[2].error <= checks.allowed:
        raise TombolaError(
            "the model's copy gives other outputs for the same inputs and the same random state: it depends on "
            "something outside of itself (the time, a global variable, a generator of its own); it cannot be deployed"
        )
    return made


def _in_engine(made: Made, others: Engines, wanted: Plan | None, budget: Budget, meter: Meter) -> Made:
    """The same in another engine as a whole, where that is faster, or planned."""
    regions, plan, report = made
    meter.end("kernels")
    network, whole = others.best(regions, plan.threads, budget, TOLERANCE, wanted is not None)
    meter.end("verification")
    sizes = {**report.bytes, "deployed": _nbytes(network)}
    return network, msgspec.structs.replace(plan, engine=whole.engine), replace(report, whole=whole, bytes=sizes)


def _stays(plan: Plan, parts: Sequence[Part]) -> bool:
    """Whether a plan is one that left a network as it was, since its kernels changed its outputs."""
    return not plan.parts and not plan.packed and any(lower(_readied(part)).parts for part in parts)


def _readied(part: Part) -> fx.GraphModule:
    """A copy of a part in the form that regions are looked for in."""
    return over_rows(as_slices(twin(part.network)))


def _on_cpu(
    plain: nn.Module,
    compacted: Compacted,
    checks: Checks,
    threads: int,
    wanted: Plan | None,
    asked: Sequence[Batch] | None,
    budget: Budget,
    meter: Meter,
    *,
    kernels_only: bool,
) -> Made:
    """Native kernels for the regions of what was traced of a network."""
    parts = compacted.parts
    networks = [_readied(part) for part in parts]
    planned_packed = None if wanted is None else wanted.packed
    packed = tuple(one for network in networks for one in pack_binary(network, threads, planned_packed, budget.clock))
    choices = {one.name: one.choice for one in packed}
    if planned_packed not in (None, choices):
        raise TombolaError("the plan is of another network: other binary layers were packed; deploy without it")
    if wanted is None:
        with _state_kept(networks):
            drafts = [
                search(one, part.inputs, threads, budget.part(1, len(parts) - i), kernels_only=kernels_only)
                for i, (one, part) in enumerate(zip(networks, parts, strict=True))
            ]
    else:
        drafts = planned(networks, threads, in_float32(wanted.parts), wanted.isolated)
    network = _together(plain, parts, drafts)
    left = {**compacted.left, **{place: why for draft in drafts for place, why in draft.lowered.left.items()}}
    error = _error(network, checks, meter)
    if error > TOLERANCE:  # discontinuities in the network amplify small differences
        drafts = [all_dense(one, threads, draft) for one, draft in zip(networks, drafts, strict=True)]
        network = _together(plain, parts, drafts)
        left["all regions"] = f"native kernels would change outputs by {error:.1e}"
        error = _error(network, checks, meter)
    together = partial(_together, plain, parts)
    int8 = in_precision(networks, parts, drafts, together, checks, threads, wanted, asked, budget.clock)
    if int8 is not None:
        drafts, error = int8.drafts, max(error, int8.error)
        network = together(drafts)
        meter.end("int8")
    regions = tuple(region for draft in drafts for region in draft.parts)
    isolated = tuple(name for draft in drafts for name in draft.isolated)
    made = Plan(threads, _shapes(checks), regions, isolated, choices, _machine(wanted), compacted.record)
    sizes = {"model": _nbytes(plain), "deployed": _nbytes(network)}
    rows = tuple(row for draft in drafts for row in part_rows(draft))
    report = DeployReport(compacted.report, packed, rows, (), left, sizes, error, str(checks.batch))
    return network, made, report if int8 is None else replace(report, int8=int8.report)


def _together(plain: nn.Module, parts: Sequence[Part], drafts: Sequence[Draft]) -> nn.Module:
    """The network with the drafts as its parts."""
    networks = [draft.network for draft in drafts]
    return networks[0] if parts[0].call is None else assembled(copied(plain), list(zip(parts, networks, strict=True)))


@contextlib.contextmanager
def _state_kept(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Their buffers have afterwards the values that they have now."""
    held = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    yield
    for buffer, value in held:
        buffer.copy_(value)


def _shapes(checks: Checks) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(x.shape) for x in checks.example)


def _machine(wanted: Plan | None) -> Mapping[str, str]:
    return this_machine() if wanted is None else wanted.machine


def _in_torch(
    plain: nn.Module, compacted: Compacted, checks: Checks, threads: int, wanted: Plan | None, meter: Meter
) -> Made:
    """A network that cannot be traced, or that lies on a GPU: there Linear layers may get torch's sparse kernels."""
    example = checks.example
    network = copied(compacted.module)
    chosen: tuple[LinearChoice, ...] = ()
    if wanted is not None and wanted.packed:
        raise TombolaError("the plan is of another network: this one has no binary layers to pack; deploy without it")
    on_gpu = any(x.is_cuda for x in example)
    if wanted is not None:
        chosen = tuple(LinearChoice(part.layers[0], part.engine) for part in wanted.parts if part.layers)
    elif on_gpu:
        chosen = choose_kernels(network if checks.stateless else copied(network), example)
    use_kernels(network, [(one.name, one.kernel) for one in chosen])
    left = {} if on_gpu else {"the network": compacted.report.reason or "its inputs are on another device than the CPU"}
    error = _error(network, checks, meter)
    parts = tuple(RegionPlan((one.name,), one.kernel) for one in chosen)
    sizes = {"model": _nbytes(plain), "deployed": _nbytes(network)}
    made = Plan(threads, _shapes(checks), parts, (), {}, _machine(wanted))
    return network, made, DeployReport(compacted.report, (), (), chosen, left, sizes, error, str(checks.batch))


def _whole(compacted: Compacted, checks: Checks, threads: int, meter: Meter) -> Made:
    """The network as it is, in torch."""
    network = copied(compacted.module)
    error = _error(network, checks, meter)
    size = _nbytes(network)
    left = {"the network": compacted.report.reason or ""}
    report = DeployReport(
        compacted.report, dense=left, bytes={"model": size, "deployed": size}, error=error, batch=str(checks.batch)
    )
    return network, Plan(threads, _shapes(checks), (), machine=this_machine()), report


def _error(network: nn.Module, checks: Checks, meter: Meter) -> float:
    """How far what kernels were chosen for is off."""
    meter.end("kernels")
    size = checks.error(network).size
    meter.end("verification")
    return size


def _nbytes(network: nn.Module) -> int:
    ready = [module for module in network.modules() if isinstance(module, KernelModule)]
    rest = sum(map(bytes_of, (*network.parameters(), *network.buffers())))
    return rest + sum(module.nbytes for module in ready)
