"""Which axes of a value go where when it is viewed under another shape."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul

from torch import Tensor


@dataclass(frozen=True)
class Regrouped:
    """`groups`: pairs of runs of axes, before and after, that hold the same numbers; in order, and of equal sizes.

    `before`, `after`: the shapes.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    groups: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    def channels(self, axis: int, labels: Tensor) -> tuple[int, Tensor] | None:
        """Where the channels of an axis are afterwards, and their labels there; None where they are split up.

        An axis that is merged with others leaves every label as often as they are long together.

        >>> regrouped((2, 3, 4), (2, 12)).channels(1, torch.arange(3))
        (1, tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]))
        >>> regrouped((2, 4, 3), (2, 12)).channels(2, torch.arange(3))
        (1, tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]))
        """
        for before, after in self.groups:
            if axis not in before:
                continue
            whole = [i for i in after if self.after[i] != 1]
            if len(whole) != 1:
                return None
            outer, inner = (prod(self.before[i] for i in before if (i - axis) * side > 0) for side in (-1, 1))
            return whole[0], labels.repeat_interleave(inner).repeat(outer)
        return None


def regrouped(before: tuple[int, ...], after: tuple[int, ...]) -> Regrouped:
    """How the axes of one shape become those of another of as many numbers.

    >>> regrouped((2, 3, 4), (6, 4)).groups
    (((0, 1), (0,)), ((2,), (1,)))
    """
    starts = [list(accumulate(shape[:-1], mul, initial=1)) if shape else [] for shape in (before, after)]
    borders = sorted(set(starts[0]) & set(starts[1]))
    runs = [[bisect_right(borders, start) - 1 for start in one] for one in starts]
    groups = (
        tuple(tuple(axis for axis, run in enumerate(one) if run == number) for one in runs)
        for number in range(len(borders))
    )
    return Regrouped(before, after, tuple((first, second) for first, second in groups))
