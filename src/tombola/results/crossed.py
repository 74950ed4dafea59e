"""Differences over two crossed factors: training seeds, and the test examples that all networks share.

Every network of an arm (a training seed) is tested on every example, so an outcome y[seed, example] has an effect of
the seed, one of the example, and their interaction. Examples are the same for all arms; seeds are each arm's own. That
is the design of multi-reader multi-case studies whose readers are nested in the test (Hillis 2014, "A marginal-mean
ANOVA approach for analyzing multireader multicase radiological imaging data", Statistics in Medicine 33:330). With

    A_a = variance over seeds of the networks' means of arm a / seeds         holds seeds and interaction
    C_a = mean square of seed x example of arm a / (seeds * examples)         holds the interaction
    B   = variance over examples of the difference of the arms' means / examples   holds examples and interaction

the variance of the difference of the arms' means is estimated as A + max(B - C, 0), with A and C summed over the arms,
and at least B: it is never below the variance from seeds alone (A), nor below that from examples alone (B). Degrees of
freedom are Satterthwaite's (1946), V^2 / (share A^2 / (seeds - 1) + B^2 / (examples - 1)), where `share` is the square
root of the part (A - C) / A of A that is not the interaction: seeds without an effect of their own are no reason to
widen the bounds. (The two-way bootstrap of Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1:386,
counts the interaction more than once and is conservative.)

Of outcomes that are 0 or 1, B is taken with a little more than was seen, since few discordant examples say little of
how many there are: for every pair of networks half an example in either direction (as Agresti & Min 2005, "Simple
improved confidence intervals for comparing matched proportions", Statistics in Medicine 24:729). Towards no discordant
example at all this grows to what makes the one-sided 95 % bound the rule of three: with 0 of N examples discordant, a
difference of 3 / N cannot be excluded (Hanley & Lippman-Hand 1983, "If nothing goes wrong, is everything all right?",
JAMA 249:1743), however many networks say so, since they may be copies.

`benchmarks/verdict_error_rates.py` measures the error rates that this gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tombola.results.statistics import ArmSpread, Difference, satterthwaite


@dataclass(frozen=True)
class Sample:
    """What the outcomes (seeds, examples) of one arm come down to.

    `means`: over seeds, (examples,). `spread`: over seeds, A above; None for a single network, which stands for itself
    alone. `interaction`: C above. `binary`: all outcomes are 0 or 1. `ends`: the lowest and the highest outcome.
    """

    means: NDArray[np.float64]
    networks: int
    spread: ArmSpread | None
    interaction: float
    binary: bool
    ends: tuple[float, float]

    @classmethod
    def of(cls, outcomes: ArrayLike) -> Sample:
        """The sample of outcomes (seeds, examples), of any real type."""
        raw = np.asarray(outcomes)
        values = raw.astype(np.float64)
        networks, examples = values.shape
        means, centre = values.mean(0), values.mean()
        spread, interaction = None, 0.0
        if networks > 1:
            own = values.mean(1)
            spread = ArmSpread(float(own.var(ddof=1)) / networks, networks)
            left = values - own[:, None]
            left -= means - centre
            freedom = max(1, (networks - 1) * (examples - 1))
            interaction = float(np.einsum("ij,ij->", left, left)) / freedom / (networks * examples)
        binary = raw.dtype == np.bool_ or bool(((values == 0) | (values == 1)).all())
        return cls(means, networks, spread, interaction, binary, (float(values.min()), float(values.max())))


def crossed_difference(first: Sample, second: Sample) -> Difference:
    """Mean of `first` minus mean of `second`: two arms, each with its own seeds, on the same examples."""
    ends = min(first.ends[0], second.ends[0]), max(first.ends[1], second.ends[1])
    discordant = float(first.means @ (1 - second.means) + second.means @ (1 - first.means))
    pairs, binary = min(first.networks, second.networks), first.binary and second.binary
    extra = _Extra(pairs, discordant if binary else 0.0, binary, ends[1] - ends[0])
    return _limited(_crossed((first, second), first.means - second.means, extra), binary)


def crossed_paired(first: ArrayLike, second: ArrayLike) -> Difference:
    """The same where seed i of both arms is one seed: outcomes (seeds, examples) of the same shape."""
    one, two = np.asarray(first), np.asarray(second)
    arms, apart = (Sample.of(one), Sample.of(two)), one.astype(np.float64) - two.astype(np.float64)
    ends = min(arm.ends[0] for arm in arms), max(arm.ends[1] for arm in arms)
    binary, both = all(arm.binary for arm in arms), Sample.of(apart)
    discordant = float(np.abs(apart).sum()) / len(apart) if binary else 0.0
    return _limited(_crossed((both,), both.means, _Extra(len(apart), discordant, binary, ends[1] - ends[0])), binary)


def crossed_mean(sample: Sample) -> Difference:
    """The mean of one arm, with its variance."""
    mean = float(sample.means.mean())
    rarer = len(sample.means) * min(mean, 1 - mean) if sample.binary else 0.0
    estimate = _crossed((sample,), sample.means - mean, _Extra(sample.networks, rarer, sample.binary, 0.0))
    return replace(estimate, difference=mean, limits=(0.0, 1.0) if sample.binary else estimate.limits)


def _limited(estimate: Difference, binary: bool) -> Difference:
    """A difference of shares of examples, where outcomes are 0 or 1, lies between -1 and 1."""
    return replace(estimate, limits=(-1.0, 1.0)) if binary else estimate


@dataclass(frozen=True)
class _Extra:
    """What is added to the sum of squares over examples.

    `discordant`: how many examples a pair of networks tells apart, in the mean. Of outcomes that are not 0 or 1 nothing
    is added, but where all examples agree: there the outcomes' whole range, `scale`, is all that is known of how far
    one may differ.
    """

    pairs: int
    discordant: float
    binary: bool
    scale: float

    @property
    def squares(self) -> float:
        """1 / pairs (half an example in either direction for each pair), growing to `_NONE` with no discordance."""
        least = 1 / self.pairs
        return least + (_NONE - least) / (1 + self.discordant) ** 2


_NONE = (3 / 1.645) ** 2
"""Makes the normal 95 % bound 3 / N."""


def _crossed(arms: Sequence[Sample], shift: NDArray[np.float64], extra: _Extra) -> Difference:
    """`shift`: the arms' difference at every example, (examples,)."""
    examples, mean = len(shift), float(shift.mean())
    over_examples, added = _over_examples(shift, extra)
    if over_examples is None:
        return Difference(mean, None, test_examples=examples)
    spreads = tuple(arm.spread for arm in arms if arm.spread is not None)
    over_seeds, interaction = sum(spread.variance for spread in spreads), sum(arm.interaction for arm in arms)
    of_seeds, of_examples = max(over_seeds - interaction, 0.0), max(over_examples - interaction, 0.0)
    total = max(over_seeds + of_examples, over_examples)
    own_share = of_seeds / over_seeds if over_seeds > 0 else 0.0
    parts = [(own_share**0.25 * spread.variance, spread.replicates - 1) for spread in spreads]  # squared by the formula
    return Difference(
        mean,
        seeds=of_seeds,
        examples=of_examples,
        interaction=max(total - of_seeds - of_examples, 0.0),
        freedom=satterthwaite(total, [*parts, (over_examples, max(1, examples - 1))]),
        arms=spreads,
        test_examples=examples,
        added=min(added, of_examples),
    )


def _over_examples(shift: NDArray[np.float64], extra: _Extra) -> tuple[float | None, float]:
    """B above, the variance of the mean of `shift` over examples, and what was added to it.

    The variance is None where one example tells nothing.
    """
    count, squares = len(shift), extra.squares
    if not extra.binary:
        if count < 2:
            return None, 0.0
        spread = float(shift.var(ddof=1)) / count
        if spread > 0 or extra.scale == 0:
            return spread, 0.0
        squares *= extra.scale**2
    more = count + 2
    return (float(shift @ shift) + squares - float(shift.sum()) ** 2 / more) / more**2, squares / more**2
