"""Which masks are compared: of two methods, of two seeds, of two schemes, and of two schemes and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.results.initialisations import Kind, MaskPairs
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.study.initialisations.agreement import Alike, Combine, agreements, alike, correlation, over_pairs, pairs_of
from tombola.study.mask_overlap import strata_by_size


@dataclass(frozen=True)
class Drawn:
    """The prunable weights of one scheme and seed, by name, before any training."""

    weights: Mapping[str, Tensor]

    @cached_property
    def sizes(self) -> dict[str, Tensor]:
        """The stratum of every weight by size; uint8, as the strata are few."""
        return {name: strata_by_size(value).to(torch.uint8) for name, value in self.weights.items()}


Masks = Mapping[tuple[str, int, int], Mask]
"""(scheme, number of the search, replicate) -> the mask that it found."""
Weights = Mapping[tuple[str, int], Drawn]
"""(scheme, replicate) -> the weights that both searches began with."""


def pairs_of_masks(
    inits: Sequence[str], names: Sequence[str], replicates: int, masks: Masks, weights: Weights
) -> Iterator[MaskPairs]:
    """Every kind of pair; those of two seeds only where there are two.

    Of two schemes and seeds, a pair of replicates is both ways round: scheme A of the one with scheme B of the other.
    """

    def pair(first: tuple[str, int, int], second: tuple[str, int, int]) -> list[Alike]:
        strata = weights[first[0], first[2]].sizes, weights[second[0], second[2]].sizes
        return alike(masks[first], masks[second], strata if first[2] == second[2] else None)

    every, couples, numbers = range(replicates), pairs_of(replicates), range(len(names))
    for init in inits:
        made = [pair((init, 0, one), (init, 1, one)) for one in every]
        yield _same_seed("methods", (init, init), (names[0], names[1]), made)
    for number in numbers if couples else ():
        for init in inits:
            made = [pair((init, number, one), (init, number, other)) for one, other in couples]
            yield _other_seeds("seeds", (init, init), names[number], replicates, [made])
    for number in numbers:
        for first, second in combinations(inits, 2):
            made = [pair((first, number, one), (second, number, one)) for one in every]
            shared = [correlation(weights[first, one].weights, weights[second, one].weights) for one in every]
            found = _same_seed("schemes", (first, second), (names[number], names[number]), made)
            yield found.replace(weights=figure(shared))
    for number in numbers if couples else ():
        for first, second in combinations(inits, 2):
            ways = [
                [pair((first, number, one[way]), (second, number, one[1 - way])) for one in couples] for way in (0, 1)
            ]
            yield _other_seeds("schemes and seeds", (first, second), names[number], replicates, ways)


def _same_seed(kind: Kind, inits: tuple[str, str], masks: tuple[str, str], made: Sequence[list[Alike]]) -> MaskPairs:
    return _pairs(kind, inits, masks, len(made), made, figure)


def _other_seeds(
    kind: Kind, inits: tuple[str, str], mask: str, replicates: int, ways: Sequence[Sequence[list[Alike]]]
) -> MaskPairs:
    """`ways`: of each direction, the pairs of `pairs_of(replicates)`; a pair's value is the mean over directions."""
    made, count = [one for way in ways for one in way], len(ways[0])
    over = over_pairs(replicates)

    def combine(values: Sequence[float | None]) -> Figure:
        return over([_mean(values[index::count]) for index in range(count)])

    return _pairs(kind, inits, (mask, mask), len(made), made, combine)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _pairs(
    kind: Kind,
    inits: tuple[str, str],
    masks: tuple[str, str],
    pairs: int,
    made: Sequence[list[Alike]],
    combine: Combine,
) -> MaskPairs:
    *layers, every = agreements(made, combine)
    name = f"{kind}: {' and '.join(dict.fromkeys(masks))} ({' and '.join(dict.fromkeys(inits))})"
    return MaskPairs(
        kind=kind, name=name, inits=inits, masks=masks, pairs=pairs, weights=None, layers=tuple(layers), whole=every
    )
