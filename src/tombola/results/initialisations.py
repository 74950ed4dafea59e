"""The same searches across initialisation schemes: how good the tickets are, and how alike their masks."""

from __future__ import annotations

from typing import Literal

from tombola.results.measurement import Measurement
from tombola.results.record import Count, Figure, Fraction, Parameters, Record, Settings

Kind = Literal["methods", "seeds", "schemes", "schemes and seeds"]
"""What differs between the two masks of a pair, all else being equal."""
KINDS: dict[Kind, str] = {
    "methods": "two methods",
    "seeds": "two seeds",
    "schemes": "two schemes",
    "schemes and seeds": "two schemes and seeds",
}


class Searched(Record, frozen=True, kw_only=True):
    """What the searches under one scheme ended with: the test metric of `mask`, "dense" for imp's dense network.

    `against_first`: that minus the same of the first scheme, paired by replicate; None for the first scheme itself.
    """

    init: str
    mask: str
    density: Fraction
    accuracy: Figure
    against_first: Figure | None
    metrics: tuple[str, ...]
    tickets: tuple[str, ...]


class Agreement(Record, frozen=True, kw_only=True):
    """How alike masks are in one layer, or in all, over the pairs of one kind.

    `jaccard`: kept by both over kept by either, `jaccard_by_chance` that of random masks of the same layer densities.
    `ratio`: weights kept by both over those that such random masks would share; `ratio_same_inputs` and
    `ratio_same_sizes` against random masks that also keep as many weights of every input unit, or of every 20th part
    by initial size; the latter where both networks order their weights by size alike. `z`: standard deviations above
    chance.
    """

    name: str
    total: Count
    jaccard: Figure
    jaccard_by_chance: Figure
    ratio: Figure
    ratio_same_inputs: Figure
    ratio_same_sizes: Figure
    z: Figure


class MaskPairs(Record, frozen=True, kw_only=True):
    """Masks of one kind of pair: those of `masks[0]` under `inits[0]` with those of `masks[1]` under `inits[1]`.

    `pairs`: how many. Where seeds differ every seed stands in several pairs: `values` are the jackknife's
    pseudo-values then, one for each replicate, whose mean is that of the pairs (Arvesen 1969). `weights`: correlation
    of the first weights within layers, averaged over all weights; where seeds differ they are independent, so None.
    """

    kind: Kind
    name: str
    inits: tuple[str, str]
    masks: tuple[str, str]
    pairs: Count
    weights: Figure | None
    layers: tuple[Agreement, ...]
    whole: Agreement


class Transfer(Record, frozen=True, kw_only=True):
    """Masks found under one scheme (`found`), on the weights of another (`on`) of the same seed.

    Test metrics: `untrained`, with the weights as they were drawn; `trained`, with the weights trained under the mask.
    `against_own_*`: minus those of the mask found under the scheme of the weights; `against_random_*`: minus those of a
    random mask of that one's layer densities; both paired by replicate.
    """

    mask: str
    found: str
    on: str
    density: Fraction
    untrained: Figure
    trained: Figure
    against_own_untrained: Figure | None
    against_own_trained: Figure | None
    against_random_untrained: Figure | None
    against_random_trained: Figure | None
    metrics: tuple[str, ...]
    tickets: tuple[str, ...]


class InitialisationsResult(Measurement, frozen=True, kw_only=True, tag_field="kind", tag="initialisations"):
    """What `study initialisations` gave: accuracies by scheme, overlaps by kind of pair, masks on other weights.

    `recipe`: how the tickets' searches train, and the weights under every mask.
    """

    metric: str
    higher_is_better: bool
    input_shape: tuple[Count, ...] | None
    seeds: tuple[int, ...]
    inits: tuple[str, ...]
    masks: tuple[str, str]
    methods: tuple[str, str]
    options: Settings | None
    recipe: Settings | None
    supermask_recipe: Settings | None
    parameters: Parameters | None
    accuracy: tuple[Searched, ...]
    overlaps: tuple[MaskPairs, ...]
    transfer: tuple[Transfer, ...]

    @property
    def subtitle(self) -> str:
        """One line on what was measured."""
        return f"study initialisations · {self.model} · {self.data}"
