"""Where a ticket lies: how far its weights moved, and on which side of the threshold of its series.

The interpolation threshold of a series of tickets (He et al. 2022, "Sparse Double Descent"; Belkin et al. 2019 have it
at n K parameters) is found from training error: from dense to sparse, the fewest kept weights up to which every mean
training error is at most a tolerance. A ticket lies above it where the mean training error of those that keep as many
weights as it does is at most that: training error need not grow from level to level, and where it does not, a sparse
ticket that fits lies above, though a denser one does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from statistics import fmean

from torch import Tensor, nn

from tombola.results.regime import PlacedTicket, Threshold

TOLERANCE = 0.01
"""The training error that is nearly 0: one example in a hundred."""


def distance(final: nn.Module, first: nn.Module) -> tuple[float, float | None]:
    """(|theta - theta_0|, the same over |theta_0|) over all parameters of two equal networks; None over 0.

    Pruned weights are at their pruned value in both; a parameter that is shared counts once.
    """
    begun = dict(_wide(first))
    moved = _norm(wide - begun[name] for name, wide in _wide(final))
    size = norm(first)
    return moved, moved / size if size else None


def norm(model: nn.Module) -> float:
    """Euclidean norm of all parameters; one that is shared counts once."""
    return _norm(wide for _, wide in _wide(model))


def _wide(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, parameter.detach().double()) for name, parameter in model.named_parameters()]


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(math.fsum(float(tensor.square().sum()) for tensor in tensors))


def threshold_of(series: str, errors: Sequence[tuple[int, float]], tolerance: float, full: int) -> Threshold:
    """The threshold of a series, from (kept weights, training error) of its tickets.

    Args:
        errors: in any order; tickets that keep equally many count by their mean.
        full: n K, over which the threshold is given as well.
    """
    means = _means(errors)
    sizes = sorted(means, reverse=True)
    fitting = list(takewhile(lambda kept: means[kept] <= tolerance, sizes))
    fewest = fitting[-1] if fitting else None
    return Threshold(
        series=series,
        kept=fewest,
        next_kept=sizes[len(fitting)] if len(fitting) < len(sizes) else None,
        ratio=None if fewest is None else fewest / full,
        sizes=len(sizes),
    )


def placed(
    tickets: Sequence[PlacedTicket], tolerance: float, full: int
) -> tuple[tuple[PlacedTicket, ...], tuple[Threshold, ...]]:
    """The tickets with their sides, and the threshold of every series in the order of their first ticket."""
    names = dict.fromkeys(ticket.series for ticket in tickets)
    errors: Mapping[str, list[tuple[int, float]]] = {name: [] for name in names}
    for ticket in tickets:
        errors[ticket.series].append((ticket.kept, ticket.train_error))
    found = [threshold_of(name, pairs, tolerance, full) for name, pairs in errors.items()]
    means = {name: _means(pairs) for name, pairs in errors.items()}
    return tuple(_with_side(one, means[one.series][one.kept] <= tolerance) for one in tickets), tuple(found)


def _means(errors: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Kept weights -> the mean training error of the tickets that keep as many."""
    by_size: dict[int, list[float]] = {}
    for kept, error in errors:
        by_size.setdefault(kept, []).append(error)
    return {kept: fmean(values) for kept, values in by_size.items()}


def _with_side(ticket: PlacedTicket, fits: bool) -> PlacedTicket:
    return ticket.replace(side="above" if fits else "below")
