"""A whole network in another engine of this machine, where that is faster than its regions in kernels and torch."""

from __future__ import annotations

import copy
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from tombola.bench import runtimes
from tombola.bench.engines import Missing, Workload
from tombola.bench.runtimes import EXTRAS, RUNTIMES, TITLES, Session
from tombola.compact.checks import Checks
from tombola.compact.inputs import Inputs
from tombola.deploy.budget import Budget
from tombola.deploy.kernels.module import KernelModule
from tombola.errors import in_short, not_installed
from tombola.names import check_known

_ROUNDS = 5


@dataclass(frozen=True)
class WholeReport:
    """The whole network in each engine.

    `engine`: the one it runs in; None: its regions' own. `seconds`: per call, "regions" first. `refused`: of those that
    were measured, why they cannot be used. `missing`: why others were not tried.
    """

    engine: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: what it runs in, or what to stay with."""
        lines = []
        if self.engine is not None:
            times = f": {self._times()}" if self.seconds else ", as planned"
            lines.append(
                f"the whole network runs in {TITLES[self.engine]}{times}; other batch sizes run in the regions above"
            )
        elif self.seconds and (best := min(self.seconds, key=self.seconds.__getitem__)) in TITLES:
            mine = _ms(self.seconds["regions"])
            lines.append(
                f"no gain: stay with {TITLES[best]} ({_ms(self.seconds[best])} ms against {mine} ms), "
                f"which is not used here: {self.refused[best]}"
            )
        elif self.seconds:
            lines.append(f"the whole network: {self._times()}")
        return [*lines, *(f"{TITLES[name]} was not tried: {reason}" for name, reason in self.missing.items())]

    def _times(self) -> str:
        return ", ".join(f"{TITLES.get(name, name)} {_ms(time)} ms" for name, time in self.seconds.items())


class EngineModule(KernelModule):
    """A network in another engine, for inputs of the shapes that it was made for.

    Inputs of other shapes go to `rest`, the network as it is otherwise deployed; so do all in a forked child, where the
    engine's threads are gone.
    """

    def __init__(self, session: Session, shapes: Sequence[torch.Size], spec: Any, rest: nn.Module, size: int) -> None:
        super().__init__()
        self.rest = rest
        self._session, self._shapes, self._spec, self._size = session, tuple(shapes), spec, size
        self._process = os.getpid()

    @property
    def nbytes(self) -> int:
        """Bytes of the engine's weights, beside those of `rest`."""
        return self._size

    def forward(self, *inputs: Tensor) -> Any:
        """As of the network."""
        if tuple(x.shape for x in inputs) != self._shapes or os.getpid() != self._process:
            rest = self.rest.forward if isinstance(self.rest, fx.GraphModule) else self.rest  # no prints
            return rest(*inputs)
        found = self._session([x.detach().resolve_neg().contiguous().numpy() for x in inputs])
        return pytree.tree_unflatten([torch.from_numpy(one) for one in found], self._spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineModule:
        """The engine is shared: nothing in it changes."""
        return EngineModule(self._session, self._shapes, self._spec, copy.deepcopy(self.rest, memo), self._size)


def checked_engines(engines: Sequence[str] | str | None) -> tuple[str, ...]:
    """Those to try; None: all that are installed.

    Raises:
        TombolaError: an unknown one, or one that is not installed.
    """
    if engines is None:
        return runtimes.installed()
    names = (engines,) if isinstance(engines, str) else tuple(engines)
    for name in names:
        check_known("engine", name, RUNTIMES)
        if not runtimes.is_installed(name):
            raise not_installed(TITLES[name], EXTRAS[name], "leave it out of engines")
    return names


def check_planned(engine: str | None) -> None:
    """TombolaError if a plan's engine is not installed."""
    if engine is not None and not runtimes.is_installed(engine):
        what = f"{TITLES[engine]}, in which the plan runs the network,"
        raise not_installed(what, EXTRAS[engine], "deploy without it")


class Engines:
    """The engines to try, prepared with the dense network before kernels are looked for, which have what is left."""

    def __init__(self, names: Sequence[str], plain: nn.Module, checks: Checks, threads: int, budget: Budget) -> None:
        self._plain, self._checks = plain, checks
        self.sessions: dict[str, Session] = {}
        self.missing: dict[str, str] = {}
        reason = _unsuited(checks) if names else None
        work = Workload(plain, checks.example, threads)
        for name in names:
            if reason is not None or budget.spent:
                self.missing[name] = reason or "the time limit was reached before"
                continue
            budget.tell(TITLES[name])
            try:
                self.sessions[name] = RUNTIMES[name](work.onnx, threads)
            except Missing as error:
                self.missing[name] = str(error)
            except Exception as error:  # whatever an engine's reader raises
                self.missing[name] = in_short(error)[:200]

    def module(self, name: str, rest: nn.Module) -> EngineModule:
        """The network in that engine, and in `rest` for other inputs."""
        output = self._checks.answers[0].output
        shapes = [x.shape for x in self._checks.example]
        size = sum(x.nbytes for x in (*self._plain.parameters(), *self._plain.buffers()))
        return EngineModule(self.sessions[name], shapes, pytree.tree_flatten(output)[1], rest, size)

    def best(
        self, network: nn.Module, threads: int, budget: Budget, tolerance: float, planned: bool
    ) -> tuple[nn.Module, WholeReport]:
        """The network, or that in a faster engine which gives its outputs; and what was found.

        `planned`: in the one engine that there is, unmeasured.
        """
        found = {name: self.module(name, network) for name in self.sessions}
        refused = {name: why for name, one in found.items() if (why := self.refusal(one, tolerance)) is not None}
        broken = {name: why for name, why in refused.items() if why.startswith(_BROKEN)}
        runs = {"regions": network, **{name: one for name, one in found.items() if name not in broken}}
        missing = {**self.missing, **broken}
        if len(runs) == 1:
            return network, WholeReport(missing=missing)
        if planned and not refused:
            (name,) = found
            return found[name], WholeReport(name, missing=missing)
        if planned:
            return network, WholeReport(missing={**missing, **refused})
        example = self._checks.example
        calls = {name: partial(one, *example) for name, one in runs.items()}
        rounds = budget.clock.measure(calls, rounds=_ROUNDS, threads=threads)
        seconds = {name: statistics.median(times) for name, times in rounds.items()}
        usable = [name for name in runs if name not in refused]
        best = min(usable, key=seconds.__getitem__)
        report = WholeReport(None if best == "regions" else best, seconds, refused, missing)
        return runs[best], report

    def refusal(self, network: nn.Module, tolerance: float) -> str | None:
        """Why a network in an engine cannot stand for the original; None where it can."""
        off = self._checks.error(network)
        if math.isinf(off.size):
            return f"{_BROKEN}on {off.what}"[:200]
        if off.size > max(tolerance, self._checks.allowed):
            return f"its outputs differ by {off.size:.1e} on {off.what}"
        for inputs, what in _not_finite(self._checks.example):
            try:
                carried = _carried(_outputs(self._plain, inputs), _outputs(network, inputs))
            except Exception:  # whatever a network raises, which an engine would not
                carried = False
            if not carried:
                return f"{what} among its inputs would not come out as in torch"
        return None


_BROKEN = "it fails "


def _unsuited(checks: Checks) -> str | None:
    """Why no engine is tried for such a network; None where they are."""
    if not checks.stateless:
        return "the network changes its own state"
    if not all(x.dtype == torch.float32 and x.device.type == "cpu" for x in checks.example):
        return "its inputs are not float32 alone"
    if not all(isinstance(one, Tensor) for one in pytree.tree_flatten(checks.answers[0].output)[0]):
        return "its outputs are not tensors alone"
    return None


def _not_finite(example: Inputs) -> Iterator[tuple[Inputs, str]]:
    """Inputs with one number, and with one example, that is not finite."""
    for value, what in ((math.nan, "a NaN"), (math.inf, "an infinity"), (-math.inf, "an infinity")):
        for row in (False, True):
            first = example[0].clone(memory_format=torch.contiguous_format)
            if row:
                first[0] = value
            else:
                first.view(-1)[first.numel() // 2] = value
            yield (first, *(x.clone() for x in example[1:])), what


def _outputs(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    return pytree.tree_flatten(network(*(x.clone() for x in inputs)))[0]


def _carried(want: Sequence[Tensor], have: Sequence[Tensor]) -> bool:
    """Whether all that is not finite in one is so in the other."""
    return all(not bool((torch.isfinite(b) & ~torch.isfinite(a)).any()) for a, b in zip(want, have, strict=True))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"
