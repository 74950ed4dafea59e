"""What deploying did to a network, as text and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tombola.compact import CompactReport
from tombola.deploy.choose import Draft, Times
from tombola.deploy.kernels.binary import Packed
from tombola.deploy.kernels.cuda import LinearChoice
from tombola.deploy.lower import LoweredRegion
from tombola.deploy.ops import Conv, Linear
from tombola.deploy.plan import RegionPlan
from tombola.deploy.precision import Int8Report
from tombola.deploy.whole import WholeReport
from tombola.formats import aligned, density, plural, quantity


@dataclass(frozen=True)
class DeployedLayer:
    """A layer with weights: name, the weight's shape after compaction, and kernel ("dense": torch's).

    `native`, `dense`: seconds per call of the layer alone, where measured.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    kernel: str
    native: float | None = None
    dense: float | None = None


@dataclass(frozen=True)
class RegionRow:
    """A region: the engine it runs in, its layers, and the measured seconds of every engine (none: as planned)."""

    engine: str
    layers: tuple[DeployedLayer, ...]
    seconds: Mapping[str, float]
    reason: str | None = None
    """Why no native kernel was tried."""
    cut: tuple[str, ...] = ()
    """The layers of which the time limit left kernels untried."""


@dataclass(frozen=True)
class DeployReport:
    """What `deploy` did.

    `compaction`: what was removed and folded. `packed`: binary layers on binary activations, and how they run.
    `parts`: the regions. `cuda`: Linear layers on a GPU. `dense`: what stays in torch, with the reason.
    `exports`: which export keeps the kernels' gain, and which does not, in one line.
    `bytes`: of weights in memory, of the "model" and "deployed". `error`: the largest max|a - b| / max|a| of the
    outputs, on the example and on inputs like it, drawn here; of regions in 8 bits, against their reference. `int8`:
    what 8 bits did, where they were asked for. `batch`: which batch sizes the network takes.
    `whole`: what other engines take for the whole network.
    `seconds`: that deploying took, the "whole" and by phase: "checks", in which the network itself answers;
    "compaction", reading included; "kernels", chosen and compiled; "verification", in which the deployed network
    answers. `memory`: bytes by which the most that the process held meanwhile exceeds what it held before; None where
    the system does not say, or the process had held more before.
    """

    compaction: CompactReport
    packed: tuple[Packed, ...] = ()
    parts: tuple[RegionRow, ...] = ()
    cuda: tuple[LinearChoice, ...] = ()
    dense: Mapping[str, str] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    error: float = 0.0
    batch: str = "any batch"
    whole: WholeReport = field(default_factory=WholeReport)
    exports: str = ""
    int8: Int8Report | None = None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    memory: int | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "compaction": self.compaction.as_dict()}

    def __str__(self) -> str:
        lines = [str(self.compaction)]
        if self.packed:
            lines += ["", "binary layers on binary activations", *_packed_table(self.packed)]
        for i, part in enumerate(self.parts):
            lines += ["", _headline(i, part), *_table(part)]
        if self.cuda:
            lines += ["", "linear layers", *(f"  {one.name}: {one.kernel}{_times(one.seconds)}" for one in self.cuda)]
        if self.dense:
            lines += ["", "stays with torch:", *(f"  {name}: {reason}" for name, reason in self.dense.items())]
        if whole := self.whole.lines():
            lines += ["", *whole]
        if self.int8:
            lines += ["", str(self.int8)]
        sizes = ", ".join(f"{what} {size:,}" for what, size in self.bytes.items())
        last = f"bytes of weights: {sizes}; outputs equal within {self.error:.1e}; for {self.batch}"
        return "\n".join([*lines, "", last, *filter(None, [self.exports]), *self._cut(), *self._cost()])

    def _cut(self) -> list[str]:
        """How many layers the time limit left short, in one line."""
        short = sum(len(part.cut) for part in self.parts)
        if not short:
            return []
        every = sum(len(part.layers) for part in self.parts)
        return [f"of {short} of {plural(every, 'layer')} not all kernels were tried: give more time (time_limit)"]

    def _cost(self) -> list[str]:
        """What deploying took, in one line; none where it was not measured."""
        if not self.seconds:
            return []
        phases = ", ".join(f"{name} {quantity(time, 's')}" for name, time in self.seconds.items() if name != "whole")
        more = "" if self.memory is None else f"; memory rose by up to {quantity(self.memory, 'B')}"
        return [f"deployed in {quantity(self.seconds['whole'], 's')}: {phases}{more}"]


def part_rows(draft: Draft) -> tuple[RegionRow, ...]:
    """One row for each region of a draft."""
    return tuple(
        RegionRow(plan.engine, _layer_rows(part, plan, times), times.engines, times.reason, _cut(part, times))
        for part, plan, times in zip(draft.lowered.parts, draft.parts, draft.times, strict=True)
    )


def _cut(part: LoweredRegion, times: Times) -> tuple[str, ...]:
    names = {op.target: op.name for op in part.region.ops}
    return tuple(dict.fromkeys(names[target] for target in times.cut))


def _layer_rows(part: LoweredRegion, plan: RegionPlan, times: Times) -> tuple[DeployedLayer, ...]:
    return tuple(
        DeployedLayer(
            op.name,
            tuple(op.weight.shape),
            op.nonzeros.density,
            _kernel(plan, op.target),
            times.native.get(op.target),
            times.dense.get(op.target),
        )
        for op in part.region.ops
        if isinstance(op, Conv | Linear)
    )


def _kernel(plan: RegionPlan, target: str) -> str:
    if plan.int8 is not None:
        return f"int8:{plan.int8.layers[target]}"
    return str(plan.choices.layers[target]) if plan.choices else "dense"


def _headline(number: int, part: RegionRow) -> str:
    why = f" (no native kernels: {part.reason})" if part.reason else ""
    return f"region {number + 1} runs in {part.engine}{_times(part.seconds) or ', as planned'}{why}"


def _times(seconds: Mapping[str, float]) -> str:
    return ": " * bool(seconds) + ", ".join(f"{engine} {_ms(time)} ms" for engine, time in seconds.items())


def _table(part: RegionRow) -> list[str]:
    rows = [("layer", "weight", "density", "kernel", "ms", "dense ms")]
    rows += [
        (one.name, _size(one.shape), density(one.density), one.kernel, _ms(one.native), _ms(one.dense))
        for one in part.layers
    ]
    return _indented(rows)


def _packed_table(packed: Sequence[Packed]) -> list[str]:
    rows = [("layer", "weight", "density", "runs", "ms", "dense ms")]
    for one in packed:
        times = (_ms(one.seconds.get("packed")), _ms(one.seconds.get("dense")))
        rows.append((one.name, _size(one.shape), density(one.density), one.choice, *times))
    return _indented(rows)


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3f}"


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _indented(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in aligned(rows, left=(0, 1, 3))]
