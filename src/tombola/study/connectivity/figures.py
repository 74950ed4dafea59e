"""What a study of connectivity says of its pairs of trainings: figures over replicates, differences, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tombola.formats import Unit, density
from tombola.results.connectivity import BarrierDifference, Connected, Line
from tombola.results.record import Figure
from tombola.results.statistics import figure

NOTE = (
    "Barrier: the worst point on the straight line between the two trained networks against the mean of its ends; the "
    "literature calls less than 2 points of error stable. Controls keep the ticket's layer densities: random masks on "
    "the ticket's own weights, and its mask on another initialisation that was trained just as far before the orders "
    "of the data parted."
)


@dataclass(frozen=True)
class PairFound:
    """A pair that has been trained: density, the files of its ends, and the line between them."""

    density: float
    ends: tuple[str, str]
    line: Line


def connected(arm: str, step: int, level: int, made: Sequence[PairFound]) -> Connected:
    """The replicates of one pair."""
    lines = [one.line for one in made]
    tests = [line.test for line in lines if line.test is not None]
    return Connected(
        arm=arm,
        from_step=step,
        level=level,
        density=fmean(one.density for one in made),
        accuracy=figure([test.ends for test in tests]),
        distance=figure([line.distance for line in lines]),
        test_barrier=figure([test.barrier for test in tests]),
        test_loss_barrier=figure([test.loss_barrier for test in tests]),
        train_barrier=figure([line.train.barrier for line in lines]),
        train_loss_barrier=figure([line.train.loss_barrier for line in lines]),
        lines=tuple(lines),
        ends=tuple(one.ends for one in made),
    )


def difference(ticket: Connected, control: Connected) -> BarrierDifference:
    """The ticket's barriers minus a control's, by replicate."""

    def paired(first: Figure, second: Figure) -> Figure:
        values = zip(first.values, second.values, strict=True)
        return figure([None if one is None or other is None else one - other for one, other in values])

    return BarrierDifference(
        against=control.arm,
        from_step=ticket.from_step,
        level=ticket.level,
        test=paired(ticket.test_barrier, control.test_barrier),
        train=paired(ticket.train_barrier, control.train_barrier),
    )


def sentence(pairs: Sequence[Connected], metric: str) -> str:
    """The barriers at the sparsest level, from the first and from the last step."""
    level = max(pair.level for pair in pairs)
    there = [pair for pair in pairs if pair.level == level]
    unit = Unit(metric)
    kept = density(there[0].density)
    parts = []
    for step in dict.fromkeys((min(p.from_step for p in there), max(p.from_step for p in there))):
        shown = [
            f"{pair.arm} {unit.bare(pair.test_barrier.mean)}"
            for pair in there
            if pair.from_step == step and pair.test_barrier.mean is not None
        ]
        parts.append(f"from {f'iteration {step:,}' if step else 'initialisation'}: {', '.join(shown)}")
    return f"Barriers in test {metric}{unit.points and ', in points,'} at density {kept}, {'; '.join(parts)}."
