"""Rank correlations over masks, with intervals that resample the masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tombola.results.landscape import Rank
from tombola.rng.seeds import generator

Numbers = NDArray[np.float64]
_FEWEST = 3
"""Of fewer points a rank correlation says nothing."""
_FOR_AN_INTERVAL = 5
"""Of fewer even a perfect one may be chance: four points are in one of two orders with probability 2 / 4! = 8 %."""


def spearman(x: Numbers, y: Numbers) -> Numbers:
    """Spearman's rank correlation of the last axis (ties get their mean rank); not a number where one is constant."""
    from scipy.stats import rankdata

    ranks: list[Any] = [rankdata(values, axis=-1) for values in (x, y)]
    first, second = (values - values.mean(-1, keepdims=True) for values in ranks)
    size = np.sqrt((first**2).sum(-1) * (second**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Numbers = (first * second).sum(-1) / size
    return found


def rank(
    groups: Sequence[Sequence[int]], x: Sequence[Numbers], y: Sequence[Numbers], *, seed: int, resamples: int
) -> Rank:
    """The mean rank correlation over replicates and groups, with a 95 % percentile bootstrap interval from 5 masks on.

    Masks are resampled with replacement within each group, the same ones in every replicate.

    Args:
        groups: indices of masks; one group of all for a plain correlation, one for each density within densities.
        x, y: of every replicate, the statistic and the accuracy of every mask; not a number where there is none.
    """
    draws = generator(seed, "bootstrap")
    known = [[at for at in group if all(np.isfinite(v[at]) for v in (*x, *y))] for group in groups]
    known = [group for group in known if len(group) >= _FEWEST]
    count = sum(map(len, known))
    if not known:
        return Rank(value=None, interval=None, masks=count)
    values, samples = [], []
    for group in known:
        at = np.asarray(group)
        picked = at[torch.randint(len(at), (resamples, len(at)), generator=draws, device="cpu").numpy()]
        for one, other in zip(x, y, strict=True):
            values.append(spearman(one[at], other[at]))
            samples.append(spearman(one[picked], other[picked]))
    value = _mean(np.asarray(values)[:, None])[0]
    drawn = _mean(np.asarray(samples))
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value):
        return Rank(value=None, interval=None, masks=count)
    if count < _FOR_AN_INTERVAL:
        return Rank(value=float(value), interval=None, masks=count)
    low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (value, value)
    return Rank(value=float(value), interval=(float(low), float(high)), masks=count)


def _mean(values: Numbers) -> Numbers:
    """The mean over the first axis of what is a number."""
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Numbers = np.where(finite, values, 0.0).sum(0) / finite.sum(0)
    return mean
