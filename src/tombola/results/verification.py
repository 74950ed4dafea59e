"""The verdict on a ticket: its arms, each claim with its bounds, and the sentence."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from tombola.results.cost import Cost
from tombola.results.record import About, Count, Fraction, Interval, Parameters, Record, Settings

SEEDS, SEEDS_AND_EXAMPLES = "training seeds alone", "training seeds and test examples"
"""What an interval covers."""
Verdict = Literal["yes", "no", "undecided", "cannot decide"]
Probability = Annotated[float, Meta(ge=0, le=1)]


class SeedsAlone(Record, frozen=True, kw_only=True):
    """An interval that covers training seeds alone, the test examples being as given."""

    interval: Interval | None


class BoundAlone(SeedsAlone, frozen=True, kw_only=True):
    """The same with its one-sided 95 % lower bound."""

    lower: float | None


class ArmResult(Record, frozen=True, kw_only=True):
    """One arm of a verification; sequences run over its replicates.

    `iterations_to_dense_loss`: first evaluation at which the validation loss is at most the dense arm's mean minimum.
    `covers`: what the interval of the mean is over. `costs`: of each training; none in results from before these were
    recorded.
    """

    test_accuracy: tuple[float | None, ...]
    mean: float | None
    interval: Interval | None
    covers: str
    seeds_alone: SeedsAlone
    early_stop_iteration: tuple[Count | None, ...]
    early_stop_observed: tuple[bool, ...]
    iterations_to_dense_loss: tuple[Count | None, ...]
    metrics: tuple[str, ...]
    costs: tuple[Cost, ...] = ()

    @property
    def tested(self) -> tuple[float, ...]:
        """The test metric of the replicates that have one."""
        return tuple(value for value in self.test_accuracy if value is not None)

    @property
    def observed_stops(self) -> tuple[int | None, ...]:
        """Early-stop iterations; None where the lowest loss lay in the last evaluations: a later one is unseen."""
        stops = zip(self.early_stop_iteration, self.early_stop_observed, strict=True)
        return tuple(stop if seen else None for stop, seen in stops)


class VarianceBySource(Record, frozen=True, kw_only=True):
    """The variance of a difference: of training seeds, of test examples, and of their interaction."""

    seeds: float
    examples: float
    interaction: float


class ClaimResult(Record, frozen=True, kw_only=True):
    """One claim: the ticket minus a control (above 0 the ticket is better), its bounds, p-values and verdict.

    `lower_holm` is the bound that decides, at the confidence `confidence_holm` that Holm's correction leaves; `p` is
    one-sided, of this claim alone. `replicates_to_decide`, `examples_to_decide`: what would decide an open claim.
    """

    difference: float | None
    lower: float | None
    interval: Interval | None
    covers: str
    standard_error: float | None
    degrees_of_freedom: float | None
    variance: VarianceBySource | None
    seeds_alone: BoundAlone
    claim: str
    threshold: float
    p: Probability | None
    p_holm: Probability | None
    lower_holm: float | None
    confidence_holm: float
    verdict: Verdict
    verdict_uncorrected: Verdict
    refuted: bool
    replicates_to_decide: Count | None
    examples_to_decide: Count | None
    why: str


class SpeedResult(Record, frozen=True, kw_only=True):
    """Whether the ticket reaches the dense arm's mean minimum validation loss earlier, in iterations."""

    ticket_iterations: float | None
    dense_iterations: float | None
    dense_runs_that_never_reach_it: Count
    interval: Interval | None
    covers: str
    verdict: str


class ExampleSet(Record, frozen=True, kw_only=True):
    """The examples that every network was tested on, and what one is worth to a metric that counts 0 or 1 for each."""

    examples: Count | None
    resolution: float | None


class UntrainedArm(Record, frozen=True, kw_only=True):
    """A control of the ticket as it stands, no weight trained, over draws of the control."""

    test_accuracy: tuple[float, ...]
    mean: float
    interval: Interval | None
    covers: str
    seeds_alone: SeedsAlone


class UntrainedClaim(Record, frozen=True, kw_only=True):
    """The ticket as it stands minus the mean of a control; above 0 it is better."""

    difference: float
    lower: float | None
    interval: Interval | None
    covers: str
    seeds_alone: BoundAlone
    p: Probability | None
    p_holm: Probability | None
    lower_holm: float | None


class UntrainedResult(Record, frozen=True, kw_only=True):
    """The ticket as it stands, against random masks on its weights (`random`) and its mask on others (`reinit`)."""

    test_accuracy: float
    random: UntrainedArm
    reinit: UntrainedArm
    comparisons: dict[str, UntrainedClaim]


class VerificationResult(About, frozen=True, kw_only=True, tag_field="kind", tag="verify"):
    """What `verify` gave. `wins` is None where a claim is open and none has failed; `margin` in the metric's unit.

    `untrained`: of a ticket whose weights are those of its origin, what it is without any training. `kept_action`,
    `pruned_action`: where its search did other than rewind and set to 0. `retrain`: fields of the recipe that differ in
    all arms but the dense one.
    """

    method: str | None
    density: Fraction | None
    kept: Count | None
    total: Count | None
    barred_kept: Count
    parameters: Parameters | None
    recipe: Settings | None
    replicates: Count | None
    margin: float | None
    margin_in_words: str
    test_set: ExampleSet
    arms: dict[str, ArmResult]
    comparisons: dict[str, ClaimResult]
    speed: SpeedResult | None
    wins: bool | None
    sentence: str
    untrained: UntrainedResult | None = None
    kept_action: str | None = None
    pruned_action: str | None = None
    retrain: Settings | None = None

    @property
    def covers(self) -> str:
        """What its bounds and intervals cover."""
        covered = {claim.covers for claim in self.comparisons.values()} or {SEEDS}
        return covered.pop() if len(covered) == 1 else "training seeds, and test examples where their results were kept"
