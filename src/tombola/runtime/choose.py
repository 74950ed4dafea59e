"""Which engine runs a region: measured on this machine, or as a plan says."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, fx, nn

from tombola.errors import TombolaError
from tombola.runtime import sparse
from tombola.runtime.lower import Part, alone
from tombola.runtime.parts import ENGINES, make_part
from tombola.runtime.plan import PartPlan
from tombola.runtime.timing import measure

_ROUNDS = 5


@dataclass(frozen=True, eq=False)
class Chosen:
    """A region's engine with its module; measured seconds per call of each engine, and of single layers where known."""

    engine: str
    module: nn.Module
    choices: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    layers: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    """Why no native kernel was tried."""


def choose(network: fx.GraphModule, part: Part, example: Sequence[Tensor], threads: int) -> Chosen:
    """The fastest engine for a part, on the values that reach it from the example; torch where native loses."""
    values = _reaching(network, part, example)
    batch = values[0].shape[0]
    rest = alone(network, part)
    found: dict[str, nn.Module] = {}
    reason, choices, layers = None, {}, {}
    try:
        told = sparse.measure(part.region, batch, threads)
        choices, layers = dict(told.choices), dict(told.layers)
        found["native"] = make_part("native", part, rest, sparse.build(part.region, batch, threads, choices))
    except TombolaError as error:
        reason = str(error)
    for engine in ENGINES[1:]:
        found[engine] = make_part(engine, part, rest, None)
    times = measure(
        {engine: partial(module, *values) for engine, module in found.items()}, rounds=_ROUNDS, threads=threads
    )
    seconds = {engine: statistics.median(rounds) for engine, rounds in times.items()}
    best = min(seconds, key=seconds.__getitem__)
    native = best == "native"
    return Chosen(best, found[best], choices if native else {}, seconds, layers if native else {}, reason)


def plan_part(network: fx.GraphModule, part: Part, plan: PartPlan, batch: int, threads: int) -> Chosen:
    """The part as a plan says. Raises TombolaError: choices that do not fit."""
    native: Any = None
    if plan.engine == "native":
        native = sparse.build(part.region, batch, threads, dict(plan.choices))
    return Chosen(plan.engine, make_part(plan.engine, part, alone(network, part), native), plan.choices)


def _reaching(network: fx.GraphModule, part: Part, example: Sequence[Tensor]) -> list[Tensor]:
    """The values of the part's inputs when the network runs on the example."""
    kept: dict[fx.Node, Tensor] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in part.inputs:
                kept[n] = result
            return result

    Keeping(network).run(*example)
    return [kept[node] for node in part.inputs]
