"""What a study of initialisations says in words."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.formats import Fixed, density
from tombola.results.initialisations import Kind, MaskPairs

_RATIO = Fixed("ratio", 2)
NOTE = (
    "Chance: random masks of the same layer densities. At one seed all schemes share the order of the data, the first "
    "scores of the supermask, and the random numbers that weights are made of, so that the weights of two schemes are "
    "correlated; at two seeds nothing is shared but the data, which decide alone about inputs that are always 0. Where "
    "seeds differ, intervals are by the jackknife over replicates."
)
_WORDS: dict[Kind, str] = {
    "methods": "the two methods on the same weights {}",
    "seeds": "at two seeds {}",
    "schemes": "under two schemes of one seed {}",
    "schemes and seeds": "under two schemes and seeds {}",
}


def sentence(kept: float, overlaps: Sequence[MaskPairs]) -> str:
    """How much masks share, against chance, by kind of pair and method: lowest to highest mean."""
    parts = []
    for kind, words in _WORDS.items():
        by_method: dict[tuple[str, str], list[float]] = {}
        for one in overlaps:
            if one.kind == kind and one.whole.ratio.mean is not None:
                by_method.setdefault(one.masks, []).append(one.whole.ratio.mean)
        ranges = [
            _range(means) if kind == "methods" else f"{masks[0]} {_range(means)}" for masks, means in by_method.items()
        ]
        if ranges:
            parts.append(words.format(", ".join(ranges)))
    return f"At density {density(kept)}, masks share, in times of what chance gives: {'; '.join(parts)}."


def _range(means: Sequence[float]) -> str:
    low, high = (_RATIO.bare(end) for end in (min(means), max(means)))
    return f"{low} to {high}" if low != high else low
