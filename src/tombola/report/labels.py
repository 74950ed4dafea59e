"""Placement of names beside marks: clear of lines, marks, the frame and one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Spot = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""

MARK = 3.5
"""Half the size of a mark with some room, in the unit of all spots (points)."""
_GAPS = (5.0, 8.0, 12.0)
_SIDES = ((0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0))


def free_positions(
    marks: Sequence[Spot],
    sizes: Sequence[Spot],
    others: Sequence[Spot],
    strokes: Sequence[tuple[Spot, Spot]],
    frame: Box,
) -> list[Spot | None]:
    """The middle of each mark's name; None if there is no room nearby. Earlier names have priority.

    Args:
        sizes: width and height of each name.
        others: all further marks.
        strokes: straight pieces of all lines, from end to end.
    """
    taken = [_around(spot, (2 * MARK, 2 * MARK)) for spot in (*marks, *others)]
    spots: list[Spot | None] = []
    for mark, size in zip(marks, sizes, strict=True):
        for spot in _near(mark, size):
            box = _around(spot, size)
            inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_meet(box, b) for b in taken) and not any(_crosses(box, *s) for s in strokes):
                taken.append(box)
                spots.append(spot)
                break
        else:
            spots.append(None)
    return spots


def _near(mark: Spot, size: Spot) -> Iterator[Spot]:
    for gap in _GAPS:
        for right, up in _SIDES:
            yield mark[0] + right * (gap + size[0] / 2), mark[1] + up * (gap + size[1] / 2)


def _around(spot: Spot, size: Spot) -> Box:
    return spot[0] - size[0] / 2, spot[1] - size[1] / 2, spot[0] + size[0] / 2, spot[1] + size[1] / 2


def _meet(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _crosses(box: Box, start: Spot, end: Spot) -> bool:
    """Whether a straight piece has a point in the box (Liang & Barsky 1984)."""
    first, last = 0.0, 1.0
    for axis in (0, 1):
        step = end[axis] - start[axis]
        near, far = box[axis] - start[axis], box[axis + 2] - start[axis]
        if step == 0:
            if near > 0 or far < 0:
                return False
            continue
        enter, leave = sorted((near / step, far / step))
        first, last = max(first, enter), min(last, leave)
    return first <= last
