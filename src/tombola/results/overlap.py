"""What two masks of one network share, and how each does on the weights that both began with."""

from __future__ import annotations

from typing import Generic, TypeVar

from tombola.results.record import Count, Figure, Fraction, Parameters, Record, Settings
from tombola.results.trial import LayerResult, LevelResult

Number = TypeVar("Number")
"""float | None of one pair of masks, `Figure` over replicates."""


class MaskSide(Record, Generic[Number], frozen=True, kw_only=True):
    """What one of the masks keeps of a layer; None: there is nothing to tell it from.

    `positive`: fraction of the kept weights that are above 0 at the origin, `positive_by_chance` of all weights;
    `magnitude`: mean |weight| of the kept ones over that of the layer; `flipped`: fraction whose sign training changed.
    """

    kept: Number
    density: Number
    positive: Number
    positive_by_chance: Number
    magnitude: Number
    flipped: Number


class SharedLayer(Record, Generic[Number], frozen=True, kw_only=True):
    """What two masks share of one layer, or of all: `both` keep it, and `expected` would by chance.

    `ratio`: both / expected; `ratio_same_inputs` and `ratio_same_sizes` against chance that keeps each mask's counts
    per input unit, or per 20th part by initial size. `z`: standard deviations above chance.
    """

    name: str
    total: Count
    both: Number
    expected: Number
    ratio: Number
    ratio_same_inputs: Number
    ratio_same_sizes: Number
    jaccard: Number
    z: Number
    first: MaskSide[Number]
    second: MaskSide[Number]

    def kept_by(self: SharedLayer[Figure], side: int) -> LayerResult:
        """What the first (0) or the second (1) mask keeps here, to the nearest weight."""
        kept = min(round(self.sides[side].kept.mean or 0), self.total)
        return LayerResult(name=self.name, kept=kept, total=self.total)

    @property
    def sides(self) -> tuple[MaskSide[Number], MaskSide[Number]]:
        """What the first and what the second mask keeps."""
        return self.first, self.second


class PairOverlap(Record, Generic[Number], frozen=True, kw_only=True):
    """Two masks layer by layer, and as a `whole`; sizes of weights mean something where they have the `same_origin`."""

    layers: tuple[SharedLayer[Number], ...]
    whole: SharedLayer[Number]
    same_origin: bool


class TicketPair(PairOverlap[Figure], frozen=True, kw_only=True, tag_field="kind", tag="overlap"):
    """Two ticket files, `names`, nothing trained."""

    names: tuple[str, str]
    replicates: Count


class MaskTrial(LevelResult, frozen=True, kw_only=True):
    """One mask in one replicate: a trial of the weights under it; `untrained`: the metric before any training."""

    untrained: float


class MaskResult(Record, frozen=True, kw_only=True):
    """One mask on the weights that all began with: untrained, trained under it, and as its search ended."""

    mask: str
    density: Fraction
    untrained: Figure
    trained: Figure
    searched: Figure | None
    metrics: tuple[str, ...]
    tickets: tuple[str, ...]


class MaskDifference(Record, frozen=True, kw_only=True):
    """One mask minus another, paired by replicate."""

    of: str
    against: str
    untrained: Figure
    trained: Figure


class OverlapResult(PairOverlap[Figure], frozen=True, kw_only=True, tag_field="kind", tag="overlap"):
    """What the study of two searches from the same weights gave; `names` and `methods` are the searches'."""

    model: str | None
    data: str
    metric: str
    higher_is_better: bool
    input_shape: tuple[Count, ...] | None
    replicates: Count
    seeds: tuple[int, ...]
    names: tuple[str, str]
    methods: tuple[str, str]
    recipe: Settings | None
    parameters: Parameters | None
    accuracy: tuple[MaskResult, ...]
    differences: tuple[MaskDifference, ...]
    sentence: str
    intervals: str
    note: str
    run: str | None = None
    reused: bool | None = None

    @property
    def better(self) -> str:
        """Which values of the metric are better: "higher" or "lower"."""
        return "higher" if self.higher_is_better else "lower"
