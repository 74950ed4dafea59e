"""How two trained networks are connected: what lies on the straight line between their weights, and its barrier."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from tombola.results.measurement import Measurement
from tombola.results.record import Count, Figure, Fraction, Parameters, Record, Settings

STABLE = 0.02
"""An error barrier below 2 points counts as stable (Frankle et al. 2020)."""


class LineSplit(Record, frozen=True, kw_only=True):
    """One split along the line: metric and loss at every point, None where they are no finite number.

    `barrier`: by how much the worst point's metric is worse than the mean of the two ends', an error barrier where the
    metric is an accuracy; `loss_barrier` the same of the loss. Neither is negative. None where a point has no value.
    """

    examples: Count
    metric: tuple[float | None, ...]
    loss: tuple[float | None, ...]
    barrier: float | None
    loss_barrier: float | None

    @property
    def ends(self) -> float | None:
        """The mean of the metric of the two networks."""
        first, last = self.metric[0], self.metric[-1]
        return None if first is None or last is None else (first + last) / 2


class Line(Record, frozen=True, kw_only=True):
    """The straight line from one network's weights (position 0) to another's (1).

    `train`: the part of the training split that a recipe's train_eval names; `test` is None without a test split.
    `distance`: the Euclidean one of the two networks' trainable parameters.
    """

    positions: tuple[float, ...]
    distance: float
    train: LineSplit
    test: LineSplit | None


class Connected(Record, frozen=True, kw_only=True):
    """Two trainings of one network from one step, with other data orders: the line between their ends.

    `arm`: dense, ticket, random (mask of the same layer densities) or reinit (the mask on another initialisation).
    `accuracy`: mean of the two ends' test metric. Files of the `ends` are relative to the run's directory.
    """

    arm: str
    from_step: Count
    level: Count
    density: Fraction
    accuracy: Figure
    distance: Figure
    test_barrier: Figure
    test_loss_barrier: Figure
    train_barrier: Figure
    train_loss_barrier: Figure
    lines: tuple[Line, ...]
    ends: tuple[tuple[str, str], ...]


class BarrierDifference(Record, frozen=True, kw_only=True):
    """The ticket's barrier minus that of a control, paired by replicate; below 0 the ticket is the more stable."""

    against: str
    from_step: Count
    level: Count
    test: Figure
    train: Figure


class ConnectivityResult(Measurement, frozen=True, kw_only=True, tag_field="kind", tag="connectivity"):
    """What `study connectivity` gave: every pair of trainings, by step, level and arm."""

    metric: str
    higher_is_better: bool
    input_shape: tuple[Count, ...] | None
    seeds: tuple[int, ...]
    method: str
    options: Settings | None
    recipe: Settings | None
    parameters: Parameters | None
    points: Count
    from_steps: tuple[Count, ...]
    pairs: tuple[Connected, ...]
    differences: tuple[BarrierDifference, ...]

    @property
    def subtitle(self) -> str:
        """One line on what was measured."""
        return f"study connectivity · {self.model} · {self.data}"

    def of(self, arm: str, from_step: int, level: int) -> Connected | None:
        """One pair; None where that arm was not trained there."""
        wanted = arm, from_step, level
        return next((pair for pair in self.pairs if (pair.arm, pair.from_step, pair.level) == wanted), None)

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that pairs were trained at, dense first."""
        return tuple(sorted({pair.level for pair in self.pairs}))


def barrier_of(values: Sequence[float | None], *, higher_is_better: bool) -> float | None:
    """The worst value on a line minus the mean of its ends, in the direction that is worse; None with a gap.

    Instability of Frankle, Dziugaite, Roy & Carbin 2020 ("Linear Mode Connectivity and the Lottery Ticket Hypothesis",
    ICML, section 2): max over a of error(a) - (error(0) + error(1)) / 2.

    >>> barrier_of([1.0, 0.5, 0.75], higher_is_better=True)
    0.375
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    mean = fmean((known[0], known[-1]))
    return mean - min(known) if higher_is_better else max(known) - mean
