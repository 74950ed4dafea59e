"""Statistics of many masks at their initialisation, and how well each says what the masks will reach."""

from __future__ import annotations

from tombola.results.measurement import Measurement
from tombola.results.record import Count, Figure, Fraction, Interval, Parameters, Record, Settings

DENSITY = "density"
"""A statistic too: what a mask keeps says much of what it reaches."""
STATISTIC_NAMES = {
    DENSITY: "Density",
    "loss": "Loss",
    "gradient_norm": "Gradient norm",
    "eigenvalue": "Hessian eigenvalue",
    "trace": "Hessian trace",
    "growing": "Growing weights",
    "sign_agreement": "Sign agreement",
    "gradsign": "GradSign",
    "ntk_sap": "NTK-SAP",
    "px": "PX",
}
"""Statistic -> what it is called."""


class MaskReading(Record, frozen=True, kw_only=True):
    """One mask of one network before training: every statistic by name, None where there is none."""

    statistics: dict[str, float | None]


class MaskPoint(Record, frozen=True, kw_only=True):
    """One mask over the replicates: its statistics before training, and the test metric that training under it reaches.

    `source`: imp for a ticket, else a criterion of the untrained network; `shuffled`: its positions drawn anew within
    every layer. `level`: the round of imp whose density it has.
    """

    source: str
    shuffled: bool
    level: Count
    density: Fraction
    statistics: dict[str, Figure]
    accuracy: Figure
    tickets: tuple[str, ...]

    @property
    def name(self) -> str:
        """The source, and whether it is shuffled."""
        return f"{self.source}, shuffled" if self.shuffled else self.source


class Rank(Record, frozen=True, kw_only=True):
    """A rank correlation over `masks` masks, the mean over replicates, with a 95 % bootstrap interval over masks.

    `interval`: None of fewer than five masks, too few for one.
    """

    value: float | None
    interval: Interval | None
    masks: Count

    @property
    def tells(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


class Correlation(Record, frozen=True, kw_only=True):
    """Spearman's rank correlation of one statistic with the final test metric.

    `overall`: over all masks. `within_density`: within each density, then the mean. `against_shuffled`: of the
    statistic of a mask minus that of its layer-shuffled control, with the same difference of the metric. A metric that
    is better when lower counts negatively, so that a positive correlation always says: the higher, the better.
    """

    statistic: str
    overall: Rank
    within_density: Rank
    against_shuffled: Rank


class LandscapeResult(Measurement, frozen=True, kw_only=True, tag_field="kind", tag="landscape"):
    """What `study landscape` gave: every mask, and the correlations of every statistic."""

    metric: str
    higher_is_better: bool
    input_shape: tuple[Count, ...] | None
    seeds: tuple[int, ...]
    options: Settings | None
    recipe: Settings | None
    parameters: Parameters | None
    examples: Count
    masks: tuple[MaskPoint, ...]
    correlations: tuple[Correlation, ...]

    @property
    def subtitle(self) -> str:
        """One line on what was measured."""
        return f"study landscape · {self.model} · {self.data}"
