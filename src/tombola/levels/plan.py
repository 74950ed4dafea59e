"""How many weights each level keeps: closed forms, exact counts, nested levels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tombola.errors import TombolaError

Counts = dict[str, int]


def by_rate(sizes: Mapping[str, int], rates: Mapping[str, float], levels: int) -> list[Counts]:
    """Levels 0..`levels` where every layer loses its own rate of what is left: round(n (1 - q)^r), half to even.

    In closed form, so that rounding never compounds (Frankle & Carbin 2019, layerwise pruning).
    """
    _check_rates(rates)
    return [
        {name: round(size * (1.0 - rates[name]) ** level) for name, size in sizes.items()}
        for level in range(levels + 1)
    ]


def by_density(
    sizes: Mapping[str, int], rates: Mapping[str, float], density: float, rounds: int, total: int | None = None
) -> list[Counts]:
    """Levels 0..`rounds` that end at exactly round(density N) weights, the layers' rates kept in proportion.

    N is `total`; by default it is the sum of the sizes, which are less where some weights are pruned already.
    One factor c scales all rates so that sum n (1 - c q)^rounds = density N; each level's total is rounded once
    and shared out by largest remainder. A layer of rate 0 keeps everything.
    """
    _check_rates(rates)
    total = sum(sizes.values()) if total is None else total
    target = round(density * total)
    factor = _solve(sizes, rates, target, rounds, total)
    plan: list[Counts] = [dict(sizes)]
    for level in range(1, rounds + 1):
        exact = {name: size * (1.0 - factor * rates[name]) ** level for name, size in sizes.items()}
        whole = target if level == rounds else round(sum(exact.values()))
        plan.append(share_out(exact, whole, plan[-1]))
    return plan


def _solve(sizes: Mapping[str, int], rates: Mapping[str, float], target: int, rounds: int, total: int) -> float:
    there = sum(sizes.values())
    if target == there:
        return 0.0
    if target > there:
        raise TombolaError(
            f"density {target / total:.4g} is more than the {there / total:.4g} that is left to prune; ask for less"
        )
    highest = max(rates.values())
    lowest = sum(size * (1.0 - rates[name] / highest) ** rounds for name, size in sizes.items()) if highest else there
    if target < math.floor(lowest):
        raise TombolaError(
            f"density {target / total:.4g} cannot be reached in {rounds} rounds: layers of smaller rates keep at "
            f"least {lowest / total:.4g}; ask for more rounds or raise their rates"
        )

    def kept(factor: float) -> float:
        return sum(size * (1.0 - factor * rates[name]) ** rounds for name, size in sizes.items())

    low, high = 0.0, 1.0 / highest
    for _ in range(200):  # kept() falls as the factor grows; bisect to the last bit
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(middle) > target else (low, middle)
    return 0.5 * (low + high)


def by_steps(sizes: Mapping[str, int], last: Mapping[str, int], steps: int) -> list[Counts]:
    """Levels 0..`steps` from all of `sizes` to `last`, each the same fraction of the one before: n (k/n)^(r/steps)."""
    return [
        {name: round(size * (last[name] / size) ** (level / steps)) if size else 0 for name, size in sizes.items()}
        for level in range(steps + 1)
    ]


def in_proportion(weights: Mapping[str, float], room: Mapping[str, int], whole: int) -> Counts:
    """`whole` in all, shared out in proportion to the weights (above 0) by largest remainder.

    A layer that would get more than its room gets just that, and the rest is shared out again among the others.

    Raises:
        TombolaError: there is not so much room.
    """
    if whole > sum(room.values()):
        raise TombolaError(f"{whole} are to be kept, but only {sum(room.values())} are there; ask for less")
    full = set[str]()
    while True:
        rest = {name: weight for name, weight in weights.items() if name not in full}
        scale = (whole - sum(room[name] for name in full)) / (sum(rest.values()) or 1.0)
        exact = {name: float(room[name]) if name in full else scale * weights[name] for name in weights}
        over = {name for name in rest if exact[name] > room[name]}
        if not over:
            return share_out(exact, whole, room)
        full |= over


def share_out(exact: Mapping[str, float], whole: int, before: Mapping[str, int]) -> Counts:
    """Largest remainder: floors first, then one each by falling fraction (ties: first layer), never above `before`."""
    counts = {name: min(math.floor(value), before[name]) for name, value in exact.items()}
    by_fraction = sorted(exact, key=lambda name: counts[name] - exact[name])
    while (missing := whole - sum(counts.values())) > 0:  # more than once where a layer is full
        room = [name for name in by_fraction if counts[name] < before[name]]
        for name in room[:missing]:
            counts[name] += 1
    return counts


def _check_rates(rates: Mapping[str, float]) -> None:
    for name, rate in rates.items():
        if not 0.0 <= rate < 1.0:
            raise TombolaError(f"rate of {name} is {rate}; a rate is the fraction pruned per level, in [0, 1)")
