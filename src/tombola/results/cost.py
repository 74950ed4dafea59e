"""What a whole search cost: sums over its levels, and ratios to one dense training.

The FLOPs of a level are what was computed: a masked network costs as much as a dense one, a smaller network less. So
one dense training of the recipe's whole length can be stated also where none was done, by a network of full size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import asdict

from tombola.results.record import Count, Record
from tombola.results.trial import LevelResult, TrainingCost, TrialResult

PARTS = ("iterations", "flops", "seconds", "memory_bytes", "energy_joules", "forward_passes")
"""The fields of costs and of their ratios."""


class Cost(Record, frozen=True, kw_only=True):
    """The cost of one or several trainings; None for what is not known of each of them.

    `iterations`: those that were trained, none before a rewind point. The rest is as in `TrainingCost`; of several
    trainings `memory_bytes` is the largest.
    """

    iterations: Count
    flops: Count | None
    seconds: float | None
    memory_bytes: Count | None
    energy_joules: float | None
    forward_passes: Count | None = None


class CostRatio(Record, frozen=True, kw_only=True):
    """One cost over another, part by part; None where either is not known, or the other is 0."""

    iterations: float | None
    flops: float | None
    seconds: float | None
    memory_bytes: float | None
    energy_joules: float | None
    forward_passes: float | None = None


class SearchCost(Record, frozen=True, kw_only=True):
    """What a search cost, against training without it.

    `dense`: one dense training of the recipe's whole length; `dense_trained`: whether it was done, as level 0; if not,
    it is estimated from the search's first level, or where that is masked, from its last one of the recipe's length.
    `train_prune_retrain`: of a search whose dense network was trained less than that, what it would have cost to train
    it whole, prune it and train what is left for as long as its recipe says.
    """

    levels: tuple[Cost, ...]
    total: Cost
    dense: Cost
    dense_trained: bool
    train_prune_retrain: Cost | None = None

    def as_totals(self) -> dict[str, Any]:
        """The total as a dict, with what it is compared with and the ratios; what is not known is None."""
        again = self.train_prune_retrain
        return {
            **asdict(self.total),
            "dense": asdict(self.dense),
            "dense_trained": self.dense_trained,
            "over_dense": asdict(self.over_dense),
            "train_prune_retrain": None if again is None else asdict(again),
            "over_train_prune_retrain": None if again is None else asdict(ratio(self.total, again)),
        }

    @property
    def over_dense(self) -> CostRatio:
        """The search over one dense training."""
        return ratio(self.total, self.dense)

    @property
    def over_train_prune_retrain(self) -> CostRatio | None:
        """The search over training, pruning and training again."""
        return None if self.train_prune_retrain is None else ratio(self.total, self.train_prune_retrain)


def cost_of(trial: TrialResult) -> Cost:
    """What one training cost."""
    counted = trial.cost or TrainingCost()
    return Cost(
        iterations=trial.trained_steps,
        flops=counted.flops,
        seconds=trial.seconds,
        memory_bytes=counted.memory_bytes,
        energy_joules=counted.energy_joules,
        forward_passes=counted.forward_passes,
    )


def summed(costs: Iterable[Cost]) -> Cost:
    """One training after the other.

    Example:
        >>> one = Cost(iterations=2, flops=30, seconds=1.5, memory_bytes=8, energy_joules=None)
        >>> two = summed([one, one.replace(memory_bytes=6)])
        >>> two.iterations, two.flops, two.seconds, two.memory_bytes, two.energy_joules
        (4, 60, 3.0, 8, None)
    """
    costs = list(costs)
    return Cost(
        iterations=sum(cost.iterations for cost in costs),
        flops=_whole(_sum(cost.flops for cost in costs)),
        seconds=_sum(cost.seconds for cost in costs),
        memory_bytes=_whole(_largest(cost.memory_bytes for cost in costs)),
        energy_joules=_sum(cost.energy_joules for cost in costs),
        forward_passes=_whole(_sum(cost.forward_passes for cost in costs)),
    )


def mean(costs: Sequence[Cost]) -> Cost:
    """The mean of at least one cost; counts to the nearest whole."""
    memory = _sum(cost.memory_bytes for cost in costs)
    return _times(summed(costs), 1 / len(costs)).replace(memory_bytes=_whole(memory and memory / len(costs)))


def ratio(cost: Cost, base: Cost) -> CostRatio:
    """`cost` over `base`."""
    return CostRatio(**{part: _over(getattr(cost, part), getattr(base, part)) for part in PARTS})


def search_cost(levels: Sequence[LevelResult], length: object = None) -> SearchCost:
    """The cost of a search from its levels, at least one: of `find`, those of one replicate.

    Of an early-bird search level 0 is the search, short and of full size, and level 1 the training of what is left.

    Args:
        length: of the search's recipe, by which a dense network is trained; None: the longest level's.
    """
    costs, first = tuple(map(cost_of, levels)), levels[0]
    own = [i for i, level in enumerate(levels) if level.recipe.get("length") == length] or [*range(len(levels))]
    whole = max(levels[i].whole_steps or levels[i].steps for i in own)
    trained = first.is_unpruned and first.trained_steps == (first.whole_steps or first.steps)
    like = costs[0] if first.is_unpruned else costs[own[-1]]  # the weights': a mask may be learned beside a teacher
    dense = costs[0] if trained else _as_long_as(like, whole)
    if not first.is_unpruned:  # masked: it computes what a dense network does, in another time
        dense = dense.replace(seconds=None, memory_bytes=None, energy_joules=None)
    last = levels[-1]
    again = None
    if first.is_unpruned and not trained and len(levels) > 1:
        again = summed([dense, _as_long_as(costs[-1], last.whole_steps or last.steps)])
    return SearchCost(levels=costs, total=summed(costs), dense=dense, dense_trained=trained, train_prune_retrain=again)


def begins_at(levels: Sequence[LevelResult]) -> list[int]:
    """The iterations that levels count from when they are put end to end: 0, also of one that was rewound.

    Only a level that goes on from where the one before it ended counts from there: nothing of it is counted twice.
    """
    before = [0, *(level.steps for level in levels)]
    return [level.first_step if level.first_step == end else 0 for level, end in zip(levels, before, strict=False)]


def _as_long_as(cost: Cost, iterations: int) -> Cost:
    """What a training would have cost over so many iterations; unknown if it had none."""
    if not cost.iterations:
        return Cost(iterations=iterations, flops=None, seconds=None, memory_bytes=None, energy_joules=None)
    return _times(cost, iterations / cost.iterations).replace(iterations=iterations)


def _times(cost: Cost, factor: float) -> Cost:
    """Everything but memory that many times."""
    return cost.replace(
        iterations=round(cost.iterations * factor),
        flops=None if cost.flops is None else round(cost.flops * factor),
        seconds=None if cost.seconds is None else cost.seconds * factor,
        energy_joules=None if cost.energy_joules is None else cost.energy_joules * factor,
        forward_passes=None if cost.forward_passes is None else round(cost.forward_passes * factor),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _largest(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else max((value for value in known if value is not None), default=None)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _over(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base
