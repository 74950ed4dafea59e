"""Deploy: a ticket, or any network with zeros in its weights, as fast as this machine allows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from tombola.compact import compact
from tombola.errors import TombolaError
from tombola.runtime.binary import pack_binary
from tombola.runtime.choose import choose, plan_part
from tombola.runtime.lower import Part, lower, put_in
from tombola.runtime.plan import PartPlan, Plan, this_machine
from tombola.runtime.ready import Ready
from tombola.runtime.summary import PartRow, Report, layer_rows
from tombola.runtime.threads import threads_set
from tombola.ticket.ticket import Ticket

TOLERANCE = 1e-4
"""Outputs are equal within this, as max|a - b| / max|a|; Deployed networks sum in another order than torch."""


class Deployed(nn.Module):
    """A network made fast for inference: the call and the outputs of the network it was made from, in eval mode.

    Float32 on the CPU; other batch sizes than the one it was made for work too. No gradients.
    """

    def __init__(self, network: nn.Module, plan: Plan, report: Report) -> None:
        super().__init__()
        self.network = network
        self.plan, self.report = plan, report
        self.eval()

    @property
    def nbytes(self) -> int:
        """Bytes of everything that inference reads: weights in their compact forms, other parameters and buffers."""
        ready = [module for module in self.network.modules() if isinstance(module, Ready)]
        rest = {t.data_ptr(): t.nbytes for t in (*self.network.parameters(), *self.network.buffers())}
        return sum(rest.values()) + sum(module.nbytes for module in ready)

    def forward(self, *inputs: Tensor) -> Any:
        """As of the network it was made from.

        Raises:
            TombolaError: an input of another shape (the batch aside).
        """
        wanted = self.plan.inputs
        if len(inputs) != len(wanted) or any(tuple(x.shape[1:]) != w[1:] for x, w in zip(inputs, wanted, strict=True)):
            found = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise TombolaError(
                f"inputs of shape {found}; this network was deployed for {', '.join(map(str, wanted))}, any batch: "
                "deploy it for this shape"
            )
        with torch.inference_mode():
            return self.network(*inputs)

    def train(self, mode: bool = True) -> Deployed:
        """Stays in eval mode: what was folded cannot be trained."""
        return super().train(False)


def deploy(
    subject: Ticket | nn.Module,
    *example: Tensor,
    threads: int | None = None,
    plan: Plan | str | Path | None = None,
    model: nn.Module | None = None,
    trusted: Sequence[str] = (),
) -> Deployed:
    """Compact a network exactly, and run each part in the fastest of the kernels that this machine has for it.

    Args:
        subject: a ticket, or a module with plain zeros in its weights (also one with a supermask or another
            parametrisation attached: its effective weights count). It is not changed.
        example: inputs of the shape and batch size to be fast for.
        threads: of the CPU; None: as torch is set.
        plan: choices of before, or their file: nothing is measured.
        model, trusted: for a ticket of a network that is not Tombola's own, as in `Ticket.build`.

    Returns:
        A module with the same call and outputs (within TOLERANCE), its `plan`, and a `report` of what was done. What no
        kernel exists for stays with torch, and is named in the report.

    Raises:
        TombolaError: no example, threads below 1, or a plan of another network; TicketError: the ticket cannot be
            built.
    """
    if not example:
        raise TombolaError("there is no example input; give one of the shape and batch size to be fast for")
    count = torch.get_num_threads() if threads is None else threads
    if count < 1:
        raise TombolaError(f"threads is {count}; give 1 or more")
    wanted = Plan.load(plan) if isinstance(plan, str | Path) else plan
    if wanted is not None and threads is None:
        count = wanted.threads
    plain = subject.build(model=model, trusted=trusted) if isinstance(subject, Ticket) else _plain(subject)
    with threads_set(count), torch.inference_mode():
        return _deploy(plain.eval(), example, count, wanted)


def _deploy(plain: nn.Module, example: tuple[Tensor, ...], threads: int, wanted: Plan | None) -> Deployed:
    shapes = tuple(tuple(x.shape) for x in example)
    compacted = compact(plain, *example)
    network = compacted.module
    if not isinstance(network, fx.GraphModule):
        _check_fits(wanted, (), shapes)
        report = Report(compacted.report, (), (), {"the network": compacted.report.reason or "it cannot be traced"})
        return Deployed(network, Plan(threads, shapes, (), {}, this_machine()), report)
    packed = pack_binary(network, example, threads, None if wanted is None else wanted.packed)
    lowered = lower(network, example)
    _check_fits(wanted, lowered.parts, shapes)
    made: list[tuple[Part, nn.Module]] = []
    plans: list[PartPlan] = []
    rows: list[PartRow] = []
    for i, part in enumerate(lowered.parts):
        if wanted is None:
            chosen = choose(network, part, example, threads)
        else:
            chosen = plan_part(network, part, wanted.parts[i], shapes[0][0], threads)
        made.append((part, chosen.module))
        plans.append(PartPlan(part.layers, chosen.engine, chosen.choices))
        rows.append(
            PartRow(chosen.engine, layer_rows(part, chosen.choices, chosen.layers), chosen.seconds, chosen.reason)
        )
    machine = this_machine() if wanted is None else wanted.machine
    found = Plan(threads, shapes, tuple(plans), {one.name: one.choice for one in packed}, machine)
    return Deployed(put_in(network, made), found, Report(compacted.report, packed, tuple(rows), lowered.left))


def _plain(subject: nn.Module) -> nn.Module:
    """A copy whose parameters are the effective weights."""
    if not isinstance(subject, nn.Module):
        raise TombolaError(f"{type(subject).__name__} cannot be deployed; give a Ticket or an nn.Module")
    plain = copy.deepcopy(subject).eval()
    for module in plain.modules():
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return plain


def _check_fits(plan: Plan | None, parts: Sequence[Part], shapes: tuple[tuple[int, ...], ...]) -> None:
    if plan is None:
        return
    if [shape[1:] for shape in plan.inputs] != [shape[1:] for shape in shapes]:
        raise TombolaError(f"the plan is for inputs {list(plan.inputs)}, not {list(shapes)}; deploy without it")
    have, want = [part.layers for part in parts], [part.layers for part in plan.parts]
    if have != want:
        names = sorted({*sum(have, ())} ^ {*sum(want, ())})
        odd = f"layer {names[0]!r} is in only one of them" if names else "their layers are in another order"
        raise TombolaError(f"the plan is of another network: {odd}; deploy without it")
