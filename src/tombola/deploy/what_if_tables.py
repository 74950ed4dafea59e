"""What zeros would gain, as lines and tables: of the whole network, and layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tombola.bench.engines import DENSE, INT8
from tombola.formats import MISSING, density, headed, multiple, plural, quantity

if TYPE_CHECKING:
    from tombola.bench.bench import Timing
    from tombola.deploy.report import DeployedLayer
    from tombola.deploy.what_if import Outcome, WhatIf


class Table(NamedTuple):
    """A table; the columns in `left` hold words."""

    head: tuple[str, ...]
    rows: list[list[str]]
    left: tuple[int, ...]


def as_text(found: WhatIf) -> str:
    """All of it, aligned."""
    lines: list[str] = []
    for block in blocks(found):
        lines += [block] if isinstance(block, str) else headed([block.head, *block.rows], block.left)
    return "\n".join(lines)


def blocks(found: WhatIf) -> Iterator[str | Table]:
    """Lines and tables, as they are shown."""
    yield f"batch {found.batch}, {plural(found.threads, 'thread')}"
    baselines = _shown(found.baselines)
    head = ("network", "ms", "quartiles", *(f"× {engine}" for engine in baselines), "weights", "FLOP", "")
    blanks = [MISSING] * len(baselines)
    rows = [
        [f"dense, {time.engine}", *_ms(time), *blanks, MISSING, MISSING, time.missing or ""] for time in found.baselines
    ]
    rows += [_row(outcome, baselines) for outcome in found.outcomes]
    yield Table(head, rows, (0, len(head) - 1))
    yield (
        f"median of {plural(found.rounds, 'alternating round')}; dense weights {quantity(found.bytes, 'B')}, "
        f"{quantity(found.flops, 'FLOP')} an input; int8 and zeros both cost accuracy, which is not measured here"
    )
    if small := [outcome.case.density for outcome in found.outcomes if 0.5 < outcome.case.density < 1]:
        kept, pruned = (density(share).replace(".00", "") for share in (max(small), 1 - max(small)))
        given, other = f"{max(small):g}", f"{1 - max(small):.6g}"
        yield f"density is the fraction of weights kept: {given} leaves {pruned} zeros; for {kept} zeros give {other}"
    yield from _of_layers([outcome for outcome in found.outcomes if outcome.timing is not None])


def _shown(times: Sequence[Timing]) -> list[str]:
    """What gains are shown over: eager, the fastest float32 engine, and int8."""
    medians = {time.engine: time.median for time in times if time.median is not None}
    dense = [engine for engine in DENSE if engine in medians]
    fastest = min(dense, key=medians.__getitem__, default="")
    return [engine for engine in medians if engine in ("eager", fastest, INT8)]


def _row(outcome: Outcome, baselines: Sequence[str]) -> list[str]:
    gains = {gain.baseline: gain for gain in outcome.gains}
    over = [multiple(gains[name].ratio) if name in gains else MISSING for name in baselines]
    sizes = (quantity(outcome.bytes, "B"), quantity(outcome.flops, "FLOP"))
    return [str(outcome.case), *_ms(outcome.timing), *over, *sizes, outcome.missing or ""]


def _ms(time: Timing | None) -> tuple[str, str]:
    if time is None or time.median is None or time.low is None or time.high is None:
        return MISSING, MISSING
    return f"{time.median:.3f}", f"{time.low:.3f} to {time.high:.3f}"


def _of_layers(outcomes: Sequence[Outcome]) -> Iterator[str | Table]:
    """Layer by layer, how many times as fast as dense each is alone."""
    layers = {layer.name: layer for outcome in reversed(outcomes) for layer in outcome.layers}
    if layers:
        alone = [{layer.name: layer for layer in outcome.layers} for outcome in outcomes]
        rows = [
            [name, "x".join(map(str, layer.shape)), _milliseconds(layer), *(_gain(one.get(name)) for one in alone)]
            for name, layer in layers.items()
        ]
        yield Table(("layer", "weight", "dense ms", *(str(outcome.case) for outcome in outcomes)), rows, (0, 1))
        yield ("each layer alone, in its fastest round: torch over sparse kernels; the whole has what lies between too")
    for name, reason in (outcomes[0].left or {}).items():
        yield f"stays with torch: {name}: {reason}"


def _milliseconds(layer: DeployedLayer) -> str:
    return MISSING if layer.dense is None else f"{1e3 * layer.dense:.3f}"


def _gain(layer: DeployedLayer | None) -> str:
    if layer is None or layer.native is None or layer.dense is None:
        return MISSING
    return multiple(layer.dense / layer.native)
