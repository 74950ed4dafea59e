"""A study that compares arms: methods with their own recipes, over the same seeds."""

from __future__ import annotations

from tombola.results.cost import SearchCost, search_cost
from tombola.results.record import About, Count, Figure, Fraction, Interval, Parameters, Record, Settings
from tombola.results.trial import LevelResult
from tombola.results.verification import SeedsAlone

GAP, SHIFT = "gap", "shift"
FIGURES = (
    "test_accuracy",
    "val_accuracy",
    "train_accuracy_eval",
    GAP,
    SHIFT,
    "train_accuracy",
    "test_accuracy_sampled",
    "val_accuracy_sampled",
    "bits_per_weight",
)


class ComparedArm(Record, frozen=True, kw_only=True):
    """One arm, judged by the last level of every replicate. `plot_density`: what it is plotted under; None: `density`.

    `gap`: training minus validation metric, both in evaluation mode; `shift`: validation minus test metric. `origins`:
    hash of the weights that each replicate began with.
    """

    name: str
    family: str | None
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

    def values(self, figure: str) -> tuple[float, ...]:
        """The values of a figure (one of FIGURES) over the replicates that have one."""
        own: Figure | None = getattr(self, figure)
        return () if own is None else own.known

    @property
    def series(self) -> str:
        """What it belongs to in figures: its family, or itself."""
        return self.family or self.name

    @property
    def plotted(self) -> float:
        """The density that it is plotted under."""
        return self.density if self.plot_density is None else self.plot_density

    @property
    def dense(self) -> bool:
        """Whether this is the unpruned network, trained to the end."""
        whole = all(level.stopped is None for level in self.last_levels)
        return self.method in ("dense", "imp") and self.plotted == 1 and whole

    @property
    def costs(self) -> tuple[SearchCost, ...]:
        """What the search of each replicate cost."""
        return tuple(search_cost(levels, (self.recipe or {}).get("length")) for levels in self.replicates if levels)

    @property
    def last_levels(self) -> tuple[LevelResult, ...]:
        """The level that judges each replicate."""
        return tuple(levels[-1] for levels in self.replicates if levels)


class ArmDifference(Record, frozen=True, kw_only=True):
    """An arm minus the one that it is compared with, in one figure, with its two-sided 95 % interval."""

    difference: float | None
    interval: Interval | None

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves out 0, else 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return 1 if self.interval[0] > 0 else -1


class CoveredDifference(ArmDifference, frozen=True, kw_only=True):
    """The same in the test metric: `covers` says what the interval is over."""

    covers: str
    seeds_alone: SeedsAlone


class ArmContrast(Record, frozen=True, kw_only=True):
    """How an arm differs from another (`against`). `paired`: all replicates of both began with the same weights."""

    arm: str
    against: str
    paired: bool
    test_accuracy: CoveredDifference
    val_accuracy: ArmDifference
    train_accuracy_eval: ArmDifference
    train_accuracy: ArmDifference
    gap: ArmDifference
    shift: ArmDifference
    test_accuracy_sampled: ArmDifference | None = None
    val_accuracy_sampled: ArmDifference | None = None
    bits_per_weight: ArmDifference | None = None

    @property
    def differences(self) -> dict[str, ArmDifference]:
        """Those of FIGURES that both arms have."""
        differences = {figure: getattr(self, figure) for figure in FIGURES}
        return {figure: difference for figure, difference in differences.items() if difference is not None}


class ComparisonResult(About, frozen=True, kw_only=True, tag_field="kind", tag="study"):
    """What a comparison of arms gave; all but the first are compared with it, or with another that they name.

    `recipe`: what all arms have in common; `intervals` says what they are over; `note`: whether learning rates were
    tuned; `summary`: what the study asks, in one line ("" where its file does not say). `chosen`: of every curve over
    density the arm that is best on the validation split, in a study that chooses.
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
    summary: str = ""
    chosen: tuple[str, ...] = ()

    @property
    def families(self) -> dict[str, tuple[ComparedArm, ...]]:
        """Arms by series, in the order of their first arm; from dense to sparse."""
        names = dict.fromkeys(arm.series for arm in self.arms)
        grouped = {name: [arm for arm in self.arms if arm.series == name] for name in names}
        return {name: tuple(sorted(arms, key=lambda arm: -arm.plotted)) for name, arms in grouped.items()}

    @property
    def references(self) -> tuple[str, ...]:
        """The curves that others are compared with, each arm at its own density; () where all are compared with one."""
        series = {arm.name: arm.series for arm in self.arms}
        if len({x.against for x in self.comparisons}) < 2:
            return ()
        curves = [name for name, arms in self.families.items() if len({arm.plotted for arm in arms}) > 1]
        against = {series[x.against] for x in self.comparisons if x.against in series}
        return tuple(name for name in curves if name in against)

    def reference_of(self, series: str) -> str | None:
        """The one of `references` that all arms of a curve are compared with."""
        names = {arm.name: arm.series for arm in self.arms}
        found = {names.get(x.against) for x in self.comparisons if names.get(x.arm) == series}
        other = found.pop() if len(found) == 1 else None
        return other if other in self.references else None
