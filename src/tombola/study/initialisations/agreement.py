"""How alike masks are over many pairs: overlap of two masks, and figures over pairs in which seeds occur repeatedly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.results.initialisations import Agreement
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.study.mask_overlap import Overlap, overlap, overlap_within, strata_by_input, whole

Combine = Callable[[Sequence[float | None]], Figure]
"""One value for each pair -> the figure over replicates."""
WHOLE = "all layers"


@dataclass(frozen=True)
class Alike:
    """One layer of two masks, or all: against chance, and against chance of the same inputs, or of the same sizes."""

    name: str
    found: Overlap
    inputs: Overlap
    sizes: Overlap | None


def alike(
    first: Mask, second: Mask, sizes: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None
) -> list[Alike]:
    """Every layer of two masks, and last `WHOLE`.

    Args:
        sizes: of each network and layer, the stratum of every weight by size (`strata_by_size`), int64; what the
            networks do not order alike is left out. None: they are known not to.
    """
    pairs = {name: (first[name].to("cpu"), second[name].to("cpu")) for name in first}
    found = overlap(first, second)
    inputs = {name: overlap_within(*pair, strata_by_input(pair[0])) for name, pair in pairs.items()}
    same = sizes is not None and all(torch.equal(sizes[0][name], sizes[1][name]) for name in pairs)
    sized = (
        {name: overlap_within(*pair, sizes[0][name].long()) for name, pair in pairs.items()} if sizes and same else {}
    )
    rows = [Alike(name, found[name], inputs[name], sized.get(name)) for name in found]
    every = Alike(WHOLE, whole(found.values()), whole(inputs.values()), whole(sized.values()) if sized else None)
    return [*rows, every]


def agreements(pairs: Sequence[Sequence[Alike]], combine: Combine) -> tuple[Agreement, ...]:
    """The layers of many pairs, `combine` making one figure of the values of all pairs."""
    return tuple(_agreement(rows, combine) for rows in zip(*pairs, strict=True))


def _agreement(rows: Sequence[Alike], combine: Combine) -> Agreement:
    found = [row.found for row in rows]
    return Agreement(
        name=rows[0].name,
        total=found[0].total,
        jaccard=combine([one.jaccard for one in found]),
        jaccard_by_chance=combine([_by_chance(one) for one in found]),
        ratio=combine([one.ratio for one in found]),
        ratio_same_inputs=combine([row.inputs.ratio for row in rows]),
        ratio_same_sizes=combine([row.sizes.ratio if row.sizes else None for row in rows]),
        z=combine([one.z for one in found]),
    )


def _by_chance(found: Overlap) -> float | None:
    """The Jaccard index where the masks share as many weights as are expected."""
    either = found.first + found.second - found.expected
    return found.expected / either if either else None


def pairs_of(replicates: int) -> list[tuple[int, int]]:
    """All pairs of replicates, in the order that `over_pairs` takes."""
    return list(combinations(range(replicates), 2))


def over_pairs(replicates: int) -> Combine:
    """What makes a figure of one value for each of `pairs_of(replicates)`, though every replicate is in several.

    The mean over pairs is a U-statistic; its interval is Student's over the jackknife's pseudo-values
    (replicates · mean) - (replicates - 1) · (mean without the replicate), Arvesen 1969. They are the `values`; their
    mean is that of the pairs. Fewer than three replicates have no interval, and their one pair is the value.
    """

    def combine(values: Sequence[float | None]) -> Figure:
        known = [value for value in values if value is not None]
        if len(known) < len(values) or replicates < 3:
            return Figure(mean=fmean(known) if known else None, interval=None, values=tuple(values))
        return figure(list(_pseudo(known, replicates)))

    return combine


def _pseudo(values: Sequence[float], replicates: int) -> Iterator[float]:
    mean, pairs = fmean(values), pairs_of(replicates)
    for one in range(replicates):
        without = fmean(value for value, pair in zip(values, pairs, strict=True) if one not in pair)
        yield replicates * mean - (replicates - 1) * without


def correlation(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float | None:
    """Pearson's correlation of two networks' weights within each layer, averaged over the weights.

    Layers of which either is constant have none and are left out; None where no layer has one.
    """
    total, weighted = 0, 0.0
    for name, value in first.items():
        one, other = (side.detach().to("cpu", torch.float64).flatten() for side in (value, second[name]))
        one, other = one - one.mean(), other - other.mean()
        spread = float(one.norm() * other.norm())
        if spread > 0 and not (_constant(value) or _constant(second[name])):
            total += one.numel()
            weighted += one.numel() * float(one @ other) / spread
    return weighted / total if total else None


def _constant(value: Tensor) -> bool:
    return value.numel() < 2 or bool((value == value.flatten()[0]).all())
