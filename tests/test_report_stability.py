"""The masks of trainings in a report: their distances, when they were stable, and what ending there saved."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from report_runs import make_find, write_json
from tombola.report import stability, style
from tombola.report.looks import Looks, page_looks, series_look
from tombola.report.page import write_report
from tombola.report.plot import Plot, Remark
from tombola.report.plots import run_plots
from tombola.report.read import read_run
from tombola.report.stability import Masks, Saved, heatmap_figure, saved, saved_sentence, search_masks, stability_plots
from tombola.results.cost import search_cost
from tombola.results.trial import ChannelCount, LevelResult, MaskHistory
from trial_results import level_figures, search_result


def history(
    distances: Sequence[float] = (0.3, 0.05, 0.02), *, every: int = 10, matrix: bool = True, **more: object
) -> MaskHistory:
    """Masks whose distances of all pairs are sums of those between neighbours."""
    count = len(distances) + 1
    pairs = tuple(tuple(sum(distances[j:i]) for j in range(i)) for i in range(count))
    fields: dict[str, Any] = {
        "unit": "weights",
        "density": 0.25,
        "detector": "mask",
        "threshold": 0.1,
        "planned": 100,
        **more,
    }
    steps = tuple(every * i for i in range(count))
    return MaskHistory(steps=steps, distances=(None, *distances), matrix=pairs if matrix else None, **fields)


def level(number: int, steps: int, *histories: MaskHistory) -> LevelResult:
    return level_figures(number, steps=steps).replace(mask_histories=histories or None)


LOOK = series_look(0)


def test_masks_are_gathered_by_level_over_replicates() -> None:
    one = level(0, 100, history()), level(1, 30, history(density=0.1, emerged=30)), level(2, 100)
    two = level(0, 100, history((0.5, 0.07, 0.04))), level(1, 100, history(density=0.1)), level(2, 100)
    masks = search_masks(search_result({"ticket": one}, {"ticket": two}), LOOK)
    assert [(found.label, len(found.histories)) for found in masks] == [
        ("level 0, 25.00 % kept", 2),
        ("level 1, 10.00 % kept", 2),
    ]
    curve = masks[0].distances
    assert curve is not None
    assert (curve.steps, curve.n) == ((10, 20, 30), 2)
    assert curve.mean == pytest.approx((0.4, 0.06, 0.03))
    assert masks[1].emerged == (30,)


def test_a_level_that_watched_several_densities_has_a_line_for_each() -> None:
    both = level(0, 40, history(density=0.3, unit="channels"), history(density=0.5, unit="channels"))
    masks = search_masks(search_result({"ticket": (both,)}), LOOK)
    assert [one.label for one in masks] == ["level 0, 30.00 % kept", "level 0, 50.00 % kept"]
    plot = stability_plots(masks)[0]
    assert isinstance(plot, Plot)
    assert "Share of the channels in which" in plot.caption


def test_captions_say_what_is_drawn() -> None:
    shown = stability_plots([Masks("", LOOK, (history(emerged=30), history()))])
    lines, heatmap = shown
    assert isinstance(lines, Plot)
    assert isinstance(heatmap, Plot)
    for text in (
        "Read every 10 iterations.",
        "Line: mean over 2 replicates; band: lowest to highest.",
        "Large mark: from there on the mask was stable",
        "Dashed: the distance below which",
    ):
        assert text in lines.caption
    assert "At the density" not in lines.caption
    assert "White lines: iteration 30, from which on the mask was stable." in heatmap.caption
    assert "of the first replicate" in heatmap.caption
    (lines,) = stability_plots([Masks("", LOOK, (history(detector="displacement", threshold=0.2, matrix=False),))])
    assert isinstance(lines, Plot)
    assert not any(text in lines.caption for text in ("Dashed", "Large mark", "replicates"))


def test_the_heatmap_is_symmetric_and_marks_the_moment() -> None:
    figure = heatmap_figure(history((0.4, 0.1), emerged=10))
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    assert shares.tolist() == [pytest.approx(row) for row in ([0, 40, 50], [40, 0, 10], [50, 10, 0])]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "10", "20"]
    assert {float(line.get_xdata()[0]) for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[1]} == {1.0}
    assert style.PAPER in {line.get_color() for line in axes.lines}
    assert not heatmap_figure(history()).axes[0].lines


def test_masks_that_do_not_change_are_a_remark() -> None:
    assert stability_plots([Masks("", LOOK, (history((0.0, 0.0)),))]) == [
        Remark("Masks over training: the same at every reading.")
    ]
    assert stability_plots([Masks("", LOOK, (history(()),))]) == []
    assert stability_plots([]) == []


def test_a_distance_of_0_is_left_out_of_the_log_axis() -> None:
    (plot, _) = stability_plots([Masks("", LOOK, (history((0.3, 0.0, 0.02)),))])
    assert isinstance(plot, Plot)
    heights = plot.figure.axes[0].lines[0].get_ydata()
    assert heights[0] == pytest.approx(30)
    assert heights[1] != heights[1]


def test_what_stopping_saved_is_counted() -> None:
    assert saved([[level(0, 100), level(1, 100)]]) is None
    whole = saved([[level(0, 30, history(emerged=30)), level(1, 100, history()), level(2, 80)]])
    assert whole == Saved(210, 280, 1, 3)
    assert saved_sentence(whole) == "1 of 3 trainings ended there: 210 of 280 iterations were trained, 25 % fewer."
    assert saved_sentence(Saved(280, 280, 0, 3)) == "No training was ended by it."
    assert saved([[level(0, 30, history(planned=None)), level(1, 100, history())]]) == Saved(100, 100, 0, 1)


def test_iterations_before_a_rewind_point_are_neither_trained_nor_saved() -> None:
    dense, rewound = level(0, 20, history(emerged=20)), level(1, 50, history(emerged=50)).replace(first_step=20)
    # 20 of 100, then 20 to 50 of 20 to 100, then 20 to 100: level 1 begins at 20 as it is rewound, not as it goes on
    whole = saved([[dense, rewound, level(2, 100, history()).replace(first_step=20)]])
    assert whole == Saved(20 + 30 + 80, 100 + 80 + 80, 2, 3)


def early_bird(drawn: int, *, first: int, emerged: int | None, stopped: bool = True) -> tuple[LevelResult, ...]:
    """A search of 200 iterations that draws its channels, and the small network's training from `first` on."""
    search = level(0, drawn if stopped else 200, history(unit="channels", planned=200, emerged=emerged))
    channels = ChannelCount(kept=4, total=8, drawn=drawn)
    small = level(1, 200).replace(first_step=first, channels=channels, kept=15)
    return search.replace(kept=50, density=1.0, whole_steps=200), small.replace(whole_steps=200)


def test_a_small_network_that_goes_on_from_its_search_counts_what_it_trained() -> None:
    # 60 + 140; train, prune and retrain: 200 + 200
    levels = early_bird(60, first=60, emerged=60)
    whole = saved([levels])
    assert whole == Saved(200, 400, 1, 2)
    assert saved_sentence(whole) == "1 of 2 trainings ended there: 200 of 400 iterations were trained, 50 % fewer."
    cost = search_cost(levels)
    assert cost.train_prune_retrain is not None
    assert (cost.total.iterations, cost.train_prune_retrain.iterations) == (whole.trained, whole.planned)
    # from the initial weights: 60 + 200; two replicates add up
    scratch = early_bird(60, first=0, emerged=60)
    assert saved([scratch]) == Saved(260, 400, 1, 2)
    assert saved([levels, scratch]) == Saved(460, 800, 2, 4)
    # a search that was not stopped saves nothing: 200 + 140
    assert saved([early_bird(60, first=60, emerged=60, stopped=False)]) == Saved(340, 340, 0, 2)


@pytest.mark.parametrize("emerged", [None, 50])
def test_a_draw_at_a_set_epoch_is_no_training_ended_by_a_stable_mask(emerged: int | None) -> None:
    levels = early_bird(80, first=80, emerged=emerged)
    assert saved([levels]) == Saved(80 + 120, 80 + 120, 0, 2)
    # beside one that was ended by its mask: (80 + 120) + (60 + 140) of (80 + 120) + (200 + 200)
    assert saved([levels, early_bird(60, first=60, emerged=60)]) == Saved(400, 600, 1, 4)
    search = search_result({"ticket": levels})
    assert not any(
        isinstance(shown, Remark) and "Stopped" in shown.text for shown in stability.search_plots(search, LOOK)
    )
    table = stability.search_table(search, LOOK)
    assert table is not None
    assert "No training was ended by it." in table.note
    arms: Any = SimpleNamespace(arms=[SimpleNamespace(name="set", replicates=(levels,))], replicates=1)
    assert stability.study_table(arms, Looks({"set": LOOK})) is None


def test_the_page_of_a_search_has_its_masks(tmp_path: Path) -> None:
    root = make_find(tmp_path / "run", replicates=2, levels=(0, 3), controls=(), logs=False)
    value = json.loads((root / "result.json").read_text())
    for replicate in value["replicates"]:
        first = replicate["arms"]["ticket"][0]
        first["steps"] = 30
        first["mask_histories"] = [level(0, 30, history(emerged=30)).as_dict()["mask_histories"][0]]
    write_json(root / "result.json", value)
    run = read_run(root)
    looks = page_looks([run])[0]
    shown = run_plots(run, looks)
    names = [item.name for item in shown if isinstance(item, Plot)]
    assert {"mask-distances", "mask-heatmap"} <= set(names)
    text = "2 of 4 trainings ended there: 24,060 of 24,200 iterations were trained, 1 % fewer."
    assert Remark(f"Stopped at a stable mask: {text}") in shown
    table = stability.search_table(run.find, looks.arm("ticket"))
    assert table is not None
    assert table.rows == (("The search", "4", "2.00 %", "30", "2 of 2"),)
    assert "as detector mask says" in table.note
    page = write_report([root], tmp_path / "out").html.read_text()
    assert "Masks over training" in page
    assert "nan" not in page.lower()


def test_a_search_without_masks_has_no_table() -> None:
    assert stability.search_table(search_result({"ticket": (level(0, 100),)}), LOOK) is None


def test_a_study_says_what_each_arm_saved() -> None:
    draw = random.Random(0)

    def arm(name: str, steps: int) -> SimpleNamespace:
        at = steps if steps < 100 else None
        levels = tuple((level(1, steps, history((0.3 * draw.random(), 0.02), emerged=at)),) for _ in range(2))
        return SimpleNamespace(name=name, replicates=levels)

    def study(*arms: SimpleNamespace) -> Any:
        return SimpleNamespace(arms=arms, replicates=2)

    looks = Looks({"imp": LOOK, "imp, stopped": series_look(1)})
    both = study(arm("imp", 100), arm("imp, stopped", 40))
    table = stability.study_table(both, looks)
    assert table is not None
    assert [tuple(map(str, row)) for row in table.rows] == [
        ("imp", "0 of 2", "100", "100", "0 %"),
        ("imp, stopped", "2 of 2", "40", "100", "60 %"),
    ]
    assert stability.study_table(study(arm("imp", 100)), looks) is None
    (shown,) = stability_plots(stability.study_masks(both, looks), heatmaps=False)
    assert isinstance(shown, Plot)
    assert "Of several levels the last whose masks were read." in shown.caption
