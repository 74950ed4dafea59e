"""What deploying did to a network, for people and as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tombola.compact import Report as Compaction
from tombola.runtime.binary import Packed
from tombola.runtime.lower import Part
from tombola.runtime.ops import Conv, Linear


@dataclass(frozen=True)
class LayerRow:
    """A layer with weights: name, the weight's shape after compaction, kernel, and measured seconds if known."""

    name: str
    shape: tuple[int, ...]
    density: float
    kernel: str
    seconds: float | None = None


@dataclass(frozen=True)
class PartRow:
    """A region: the engine it runs in, its layers, and the measured seconds of every engine (none: as planned)."""

    engine: str
    layers: tuple[LayerRow, ...]
    seconds: Mapping[str, float]
    reason: str | None = None
    """Why no native kernel was tried."""


@dataclass(frozen=True)
class Report:
    """`compaction`: what was removed and folded. `packed`: binary layers on binary activations, and how they run.

    `dense`: what stays with torch by itself, with the reason.
    """

    compaction: Compaction
    packed: tuple[Packed, ...]
    parts: tuple[PartRow, ...]
    dense: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        parts = [asdict(part) for part in self.parts]
        packed = [asdict(one) for one in self.packed]
        return {"compaction": self.compaction.as_dict(), "packed": packed, "parts": parts, "dense": dict(self.dense)}

    def __str__(self) -> str:
        lines = [str(self.compaction)]
        if self.packed:
            lines += ["", "binary layers on binary activations", *_packed_table(self.packed)]
        for i, part in enumerate(self.parts):
            lines += ["", _headline(i, part), *_table(part)]
        if self.dense:
            lines += ["", "stays with torch:", *(f"  {name}: {reason}" for name, reason in self.dense.items())]
        return "\n".join(lines)


def layer_rows(part: Part, choices: Mapping[str, str], seconds: Mapping[str, float]) -> tuple[LayerRow, ...]:
    """The rows of a part's layers; without a choice the kernel is torch's dense one."""
    return tuple(
        LayerRow(
            op.name,
            tuple(op.weight.shape),
            op.weight.count_nonzero().item() / max(1, op.weight.numel()),
            choices.get(op.target, "dense"),
            seconds.get(op.target),
        )
        for op in part.region.ops
        if isinstance(op, Conv | Linear)
    )


def _headline(number: int, part: PartRow) -> str:
    times = ", ".join(f"{engine} {1e3 * seconds:.3f} ms" for engine, seconds in part.seconds.items())
    why = f" (no native kernels: {part.reason})" if part.reason else ""
    return f"region {number + 1} runs in {part.engine}{': ' + times if times else ', as planned'}{why}"


def _table(part: PartRow) -> list[str]:
    rows = [("layer", "weight", "density", "kernel", "ms")]
    for layer in part.layers:
        ms = "" if layer.seconds is None else f"{1e3 * layer.seconds:.3f}"
        rows.append((layer.name, "x".join(map(str, layer.shape)), f"{layer.density:.1%}", layer.kernel, ms))
    return _lined_up(rows)


def _packed_table(packed: Sequence[Packed]) -> list[str]:
    rows = [("layer", "weight", "density", "runs", "ms")]
    for one in packed:
        ms = ", ".join(f"{way} {1e3 * seconds:.3f}" for way, seconds in one.seconds.items())
        rows.append((one.name, "x".join(map(str, one.shape)), f"{one.density:.1%}", one.choice, ms))
    return _lined_up(rows)


def _lined_up(rows: Sequence[tuple[str, str, str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return [
        f"  {a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d:{widths[3]}}  {e:>{widths[4]}}".rstrip()
        for a, b, c, d, e in rows
    ]
