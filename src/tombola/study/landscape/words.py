"""What a study of masks at initialisation says in words."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.formats import Fixed, plural
from tombola.results.landscape import STATISTIC_NAMES, Correlation, MaskPoint

NOTE = (
    "All masks lie on the same first weights and train in the same data order. Within density: rank correlations among "
    "masks of one density, then their mean, so that what a mask keeps does not count. Against shuffled: does the "
    "difference of a mask and its layer-shuffled control before training say which of the two trains better. Intervals "
    "are each on their own: of several statistics some leave out 0 by chance."
)

_RANK = Fixed("rank correlation", 2)


def intervals(resamples: int, replicates: int) -> str:
    """How the intervals of correlations were made."""
    over = f", of the mean over {plural(replicates, 'replicate')}" if replicates > 1 else ""
    return (
        f"correlations: Spearman's, with 95 % percentile intervals over {resamples:,} resamples of the masks{over}, "
        "from five masks on"
    )


def sentence(masks: Sequence[MaskPoint], correlations: Sequence[Correlation], metric: str) -> str:
    """Which statistics say, at equal density, what a mask will reach; the strongest of them."""
    told = [one for one in correlations if one.statistic != "density" and one.within_density.tells]
    told.sort(key=lambda one: -abs(one.within_density.value or 0.0))
    count = f"{len(masks)} masks"
    if not told:
        return (
            f"At equal density no statistic before training has a rank correlation with the final test {metric} of the "
            f"{count} whose interval leaves out 0."
        )
    names = ", ".join(
        f"{STATISTIC_NAMES[one.statistic]} {_RANK.differences.bare(one.within_density.value or 0.0)}" for one in told
    )
    where = f"with the final test {metric} of {count}, where the interval leaves out 0"
    return f"Rank correlations at equal density {where}: {names}."
