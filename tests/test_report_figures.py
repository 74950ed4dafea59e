"""Figures and their axes, by hand."""

from __future__ import annotations

import pytest

from tombola.formats import MINUS
from tombola.report.aggregate import Curve, Point, merged, spread
from tombola.report.axes import alike, count_label, round_ticks, tick_label
from tombola.report.figures import Series, Trace, density_figure, trace_figure, trace_window
from tombola.report.looks import series_look
from tombola.report.style import new_figure, styled


def trace(*values: float) -> Trace:
    steps = tuple(range(0, 10 * len(values), 10))
    return Trace("x", series_look(0), Curve(steps, values, values, values, 1))


def test_the_start_is_left_out_where_it_takes_the_axis() -> None:
    climbing = trace(0.1, 0.2, 0.95, 0.96, 0.96, 0.97, 0.97, 0.98)
    low, high = trace_window([climbing], "higher") or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.95 - 0.06 * 0.03), pytest.approx(0.98 + 0.06 * 0.03))
    falling = trace(9.0, 5.0, 1.2, 1.1, 1.1, 1.0, 1.0, 1.0)
    low, high = trace_window([falling], "lower") or (0.0, 0.0)
    assert (low, high) == (pytest.approx(1.0 - 0.06 * 0.2), pytest.approx(1.2 + 0.06 * 0.2))


@pytest.mark.parametrize(
    ("values", "better"),
    [
        ((0.1, 0.2, 0.95, 0.96, 0.96, 0.97, 0.97, 0.98), None),  # nobody knows which way is up
        ((0.90, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97), "higher"),  # nothing steep
        ((0.1, 0.9, 0.95), "higher"),  # too few evaluations to call one of them a start
        ((0.5, 0.5, 0.5, 0.5), "higher"),
        ((9.0, 5.0, 1.2, 1.1, 1.1, 1.0, 1.0, 1.0), "higher"),  # a fall is no start to cut
    ],
)
def test_else_the_whole_curve_is_shown(values: tuple[float, ...], better: str | None) -> None:
    assert trace_window([trace(*values)], better) is None


def test_a_lone_evaluation_is_a_mark_and_several_replicates_a_bar() -> None:
    lone = merged([{50: 0.9}, {50: 0.8}])
    assert lone == Curve((50,), (pytest.approx(0.85),), (0.8,), (0.9,), 2)
    assert merged([]) is None
    long = trace(*(0.1 * place for place in range(9)))
    axes = trace_figure([Trace("a", series_look(0), lone), long], ylabel="y").axes[0]
    marks = {line.get_label(): line.get_marker() for line in axes.lines}
    assert (marks["a"], marks["x"]) == ("o", "none")
    assert len(axes.containers) == 1
    (short,) = trace_figure([trace(0.1, 0.5, 0.6)], ylabel="y").axes[0].lines
    assert short.get_marker() == "o", "few evaluations have a mark each"


def test_ticks_have_as_many_decimals_each_and_a_minus_sign() -> None:
    with styled():
        axes = new_figure(2).add_subplot()
        axes.set_ylim(-0.3, 0.2)
        round_ticks(axes.yaxis)
        labels = [label.get_text() for label in axes.get_yticklabels()]
    assert f"{MINUS}0.2" in labels
    assert "0.0" in labels
    assert not any("-" in label for label in labels)
    assert [tick_label(v) for v in (0.0, -0.5, 12000, 97.5, 1e-9)] == [
        "0",
        f"{MINUS}0.5",
        "12,000",
        "97.5",
        f"1e{MINUS}09",
    ]
    assert [count_label(v) for v in (0, 800, 12_000, 1_500_000)] == ["0", "800", "12,000", "1.5M"]


def test_what_is_alike() -> None:
    assert alike([])
    assert alike([None, 0.5, 0.5])
    assert not alike([0.5, 0.51])
    assert alike([0.5, 0.51], within=0.02)


def test_no_axis_goes_beyond_100_percent_for_an_interval() -> None:
    values = [spread([0.99, 0.97, 1.0]), spread([0.9, 0.98, 0.99])]
    points = tuple(Point(n, 1 / 2**n, None, None, found) for n, found in enumerate(values) if found is not None)
    axes = density_figure([Series("x", series_look(0), points)], ylabel="y", factor=100).axes[0]
    assert points[0].spread.interval is not None
    assert points[0].spread.interval[1] > 1
    assert axes.get_ylim()[1] < 101
