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

    def moved(self, axes: tuple[int, ...], labels: Tensor) -> tuple[tuple[int, ...], Tensor] | None:
        """Where the channels of some axes are afterwards, and their labels there; None where that is too much.

        `labels`: one for each index of the axes together, of their sizes. An axis that is merged with others leaves
        every label as often as they are long together.

        >>> regrouped((2, 3, 4), (2, 12)).moved((1,), torch.arange(3))
        ((1,), tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]))
        >>> regrouped((2, 6), (2, 2, 3)).moved((1,), torch.arange(6))
        ((1, 2), tensor([[0, 1, 2],
                [3, 4, 5]]))
        """
        runs = [(before, after) for before, after in self.groups if set(before) & set(axes)]
        wide = [axis for before, _ in runs for axis in before]
        found = tuple(axis for _, after in runs for axis in after)
        if prod(self.before[axis] for axis in wide) > _MOST:
            return None
        one = labels.reshape([self.before[axis] if axis in axes else 1 for axis in wide])
        return found, one.expand([self.before[axis] for axis in wide]).reshape([self.after[axis] for axis in found])


_MOST = 1 << 24
"""Labels of one value."""


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
