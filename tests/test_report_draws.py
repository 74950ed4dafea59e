"""The report on when tickets of channels were drawn: epochs by hand, and what is left out."""

from __future__ import annotations

from typing import Any

import pytest

from tombola.report.draws import draw_plots, drawn_epoch, drawn_table, emerged_epoch
from tombola.report.looks import Looks, series_look
from tombola.report.plot import Plot
from tombola.report.tables import Cell
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.results.trial import ChannelCount, LevelResult, MaskHistory
from trial_results import level_figures

NONE = Figure(mean=None, interval=None, values=())
PER_EPOCH = 20


def search(drawn: int, emerged: int | None) -> tuple[LevelResult, ...]:
    """Both levels; masks are read every 20 iterations, as far as the search went."""
    steps = tuple(range(0, drawn + 1, PER_EPOCH))
    history = MaskHistory(
        unit="channels", density=0.5, steps=steps, distances=(None, *(0.05,) * (len(steps) - 1)), emerged=emerged
    )
    counts = [ChannelCount(kept=10, total=10), ChannelCount(kept=5, total=10, drawn=drawn)]
    first, last = (level_figures(number).replace(channels=count) for number, count in enumerate(counts))
    return first.replace(mask_histories=(history,)), last


def arm(
    name: str, drawn: list[int], emerged: list[int | None], reached: list[float], density: float = 0.5, **options: Any
) -> ComparedArm:
    return ComparedArm(
        name=name,
        family=None,
        method="early-bird",
        options={"density": density, "draw_at": None, "search_precision": None, "stable_compare": "x", **options},
        density=0.25,
        prunable=None,
        plot_density=None,
        recipe=None,
        replicates=tuple(map(search, drawn, emerged)),
        origins=(),
        test_accuracy=figure(reached),
        val_accuracy=NONE,
        train_accuracy_eval=NONE,
        train_accuracy=NONE,
        gap=NONE,
        shift=NONE,
    )


def study(*arms: ComparedArm) -> ComparisonResult:
    return ComparisonResult(
        study="early-bird",
        model="m",
        data="d",
        metric="accuracy",
        higher_is_better=True,
        input_shape=None,
        replicates=len(arms[0].replicates),
        seeds=(),
        recipe=None,
        parameters=None,
        arms=arms,
        comparisons=(),
        intervals="",
        note="",
    )


def looks(*arms: ComparedArm) -> Looks:
    return Looks({one.name: series_look(number) for number, one in enumerate(arms)})


DRAWN = (
    arm("drawn at 2ep", [40, 40], [None, None], [0.8, 0.9], draw_at="2ep", stable_compare="y"),
    arm("drawn at 1ep", [20, 20], [None, None], [0.7, 0.8], draw_at="1ep", stable_compare="y"),
    arm("at the end", [200, 200], [120, 140], [0.9, 0.92], draw_at="end"),
)
EARLY = arm("early-bird", [120, 140], [120, 140], [0.9, 0.9])
BFP8 = arm("search in bfp8", [100, 120], [100, 120], [0.5, 0.5], search_precision="bfp8")


def shown(*arms: ComparedArm) -> tuple[Plot, list[tuple[list[float], list[float], str]]]:
    """The figure, and its lines: x, y, label."""
    (plot,) = draw_plots(study(*arms), looks(*arms))
    assert isinstance(plot, Plot)
    (axes,) = plot.figure.axes
    lines = [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), str(line.get_label()))
        for line in axes.get_lines()
    ]
    return plot, lines


def test_epochs_by_hand() -> None:
    levels = search(120, 100)
    assert drawn_epoch(levels) == 6
    assert emerged_epoch(levels) == 5
    assert emerged_epoch(search(120, None)) is None
    assert drawn_epoch(search(0, None)) is None  # how long an epoch is cannot be seen of one reading


def test_accuracy_against_the_epoch_of_drawing_with_the_emergence() -> None:
    plot, lines = shown(*DRAWN, BFP8, EARLY)
    assert lines[0] == ([1, 2, 10], [pytest.approx(v) for v in (75, 85, 91)], "50.00 % of channels")
    assert [x for x, y, _ in lines if y == [0, 1]] == [[6, 6], [7, 7]]  # an upright line for each replicate
    assert lines[-1] == ([6.5], [pytest.approx(90)], "50.00 % of channels, emerged")
    assert "Star and upright line: where the ticket emerged." in plot.caption
    assert "mean over 2 replicates; band: lowest to highest" in plot.caption


def test_a_ticket_that_did_not_emerge_in_all_replicates_has_no_star() -> None:
    never = arm("early-bird", [120, 200], [120, None], [0.9, 0.9])
    plot, lines = shown(*DRAWN, never)
    assert len(lines) == 1
    assert "emerged" not in plot.caption


def test_a_line_for_every_density() -> None:
    other = [arm(f"{at} 0.3", [at, at], [None, None], [0.6, 0.6], 0.3, draw_at=f"{at}it") for at in (20, 40)]
    _, lines = shown(*DRAWN, *other)
    assert [label for *_, label in lines] == ["50.00 % of channels", "30.00 % of channels"]


def test_no_figure_of_a_single_epoch() -> None:
    arms = (DRAWN[0], EARLY)
    assert draw_plots(study(*arms), looks(*arms)) == []
    assert draw_plots(study(EARLY), looks(EARLY)) == []


def test_the_table_of_drawing() -> None:
    plain = arm("other", [40, 40], [None, None], [0.5, 0.5])
    plain = plain.replace(replicates=tuple((level_figures(),) for _ in range(2)))
    (table,) = drawn_table(study(plain, EARLY, DRAWN[0]), looks(EARLY))
    assert [(row[0].text if isinstance(row[0], Cell) else row[0], *row[1:]) for row in table.rows] == [
        ("early-bird", "5 of 10", "6, 7", "6, 7"),
        ("drawn at 2ep", "5 of 10", "2, 2", "–, –"),
    ]
    assert drawn_table(study(plain), looks()) == []
