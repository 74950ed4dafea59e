"""Names in the figure of accuracy against cost lie clear of lines, marks and one another."""

from __future__ import annotations

import itertools
import random

from tombola.report.aggregate import spread
from tombola.report.cost import Priced, PricedSeries, cost_figure
from tombola.report.labels import MARK, Box, Spot, free_positions
from tombola.report.looks import CONTROLS

FRAME = (0.0, 0.0, 300.0, 150.0)


def around(spot: Spot, size: Spot) -> Box:
    return spot[0] - size[0] / 2, spot[1] - size[1] / 2, spot[0] + size[0] / 2, spot[1] + size[1] / 2


def apart(one: Box, two: Box) -> bool:
    return one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]


def on(stroke: tuple[Spot, Spot], box: Box, steps: int = 400) -> bool:
    (a, b), (c, d) = stroke
    spots = ((a + (c - a) * i / steps, b + (d - b) * i / steps) for i in range(steps + 1))
    return any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in spots)


def test_names_are_clear_of_everything() -> None:
    draw, placed = random.Random(0), 0
    for _ in range(30):
        marks = sorted((draw.uniform(10, 290), draw.uniform(10, 140)) for _ in range(8))
        others = [(draw.uniform(10, 290), draw.uniform(10, 140)) for _ in range(4)]
        sizes = [(draw.uniform(20, 40), 8.0) for _ in marks]
        strokes = list(itertools.pairwise(marks))
        found = [
            (spot, size) for spot, size in zip(free_positions(marks, sizes, others, strokes, FRAME), sizes, strict=True)
        ]
        boxes = [around(spot, size) for spot, size in found if spot is not None]
        placed += len(boxes)
        assert all(apart(one, two) for one, two in itertools.combinations(boxes, 2))
        assert all(apart(box, around(mark, (2 * MARK, 2 * MARK))) for box in boxes for mark in (*marks, *others))
        assert not any(on(stroke, box) for stroke in strokes for box in boxes)
        assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 300 and box[3] <= 150 for box in boxes)
    assert placed > 150  # of 240


def test_a_name_has_its_place_above_where_nothing_is_in_the_way() -> None:
    assert free_positions([(100.0, 50.0)], [(20.0, 8.0)], [], [], FRAME) == [(100.0, 59.0)]
    level = ((0.0, 59.0), (300.0, 59.0))
    (spot,) = free_positions([(100.0, 50.0)], [(20.0, 8.0)], [], [level], FRAME)
    assert spot == (100.0, 41.0)
    assert free_positions([(5.0, 5.0)], [(400.0, 8.0)], [], [], FRAME) == [None]


def test_the_figure_prints_names_beside_its_line() -> None:
    points = [
        Priced(1000.0 * (i + 1), spread([0.98 - 0.002 * i, 0.981 - 0.002 * i]), f"{80 / (i + 1):.2f} %")
        for i in range(5)
    ]  # type: ignore[arg-type]
    figure = cost_figure(
        [PricedSeries("Ticket", CONTROLS["dense"], tuple(points))], ylabel="Test accuracy (%)", factor=100
    )
    axes = figure.axes[0]
    figure.draw_without_rendering()
    shown = [text for text in axes.texts if text.get_text()]
    line = axes.lines[0].get_path().vertices
    pixels = [tuple(map(float, axes.transData.transform(spot))) for spot in line]
    boxes = [tuple(map(float, text.get_window_extent().extents)) for text in shown]
    assert len(shown) >= 3
    assert not any(on(stroke, box) for stroke in itertools.pairwise(pixels) for box in boxes)  # type: ignore[arg-type]
