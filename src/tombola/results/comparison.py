"""A study that compares arms: methods with their own recipes, over the same seeds."""

from __future__ import annotations

from tombola.results.record import About, Count, Figure, Fraction, Interval, Parameters, Record, Settings
from tombola.results.trial import LevelResult
from tombola.results.verification import SeedsAlone


class ComparedArm(Record, frozen=True, kw_only=True):
    """One arm, judged by the last level of every replicate. `plot_density`: what it is plotted under; None: `density`.

    `gap`: training minus validation metric, both in evaluation mode; `shift`: validation minus test metric. `origins`:
    hash of the weights that each replicate began with.
    """

    name: str
    family: str
    method: str
    options: Settings | None
    density: Fraction
    prunable: Count | None
    plot_density: Fraction | None
    recipe: Settings | None
    replicates: tuple[tuple[LevelResult, ...], ...]
    origins: tuple[str, ...]
    test_accuracy: Figure
    val_accuracy: Figure
    train_accuracy_eval: Figure
    train_accuracy: Figure
    gap: Figure
    shift: Figure
    test_accuracy_sampled: Figure | None = None
    val_accuracy_sampled: Figure | None = None
    bits_per_weight: Figure | None = None

    @property
    def last_levels(self) -> tuple[LevelResult, ...]:
        """The level that judges each replicate."""
        return tuple(levels[-1] for levels in self.replicates if levels)


class ArmDifference(Record, frozen=True, kw_only=True):
    """An arm minus the first one, in one figure, with its two-sided 95 % interval."""

    difference: float | None
    interval: Interval | None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return 1 if self.interval[0] > 0 else -1


class TestDifference(ArmDifference, frozen=True, kw_only=True):
    """The same in the test metric: `covers` says what the interval is over."""

    covers: str
    seeds_alone: SeedsAlone


class ArmContrast(Record, frozen=True, kw_only=True):
    """How one arm differs from the first. `paired`: all replicates of both began with the same weights."""

    arm: str
    against: str
    paired: bool
    test_accuracy: TestDifference
    val_accuracy: ArmDifference
    train_accuracy_eval: ArmDifference
    train_accuracy: ArmDifference
    gap: ArmDifference
    shift: ArmDifference
    test_accuracy_sampled: ArmDifference | None = None
    val_accuracy_sampled: ArmDifference | None = None
    bits_per_weight: ArmDifference | None = None


class ComparisonResult(About, frozen=True, kw_only=True, tag_field="kind", tag="study"):
    """What a comparison of arms gave; the others are compared with the first.

    `recipe`: what all arms have in common; `intervals` says what they are over; `note`: whether learning rates were
    tuned.
    """

    study: str
    input_shape: tuple[Count, ...] | None
    replicates: Count
    seeds: tuple[int, ...]
    recipe: Settings | None
    parameters: Parameters | None
    arms: tuple[ComparedArm, ...]
    comparisons: tuple[ArmContrast, ...]
    intervals: str
    note: str
