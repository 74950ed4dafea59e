"""Reports of searches that tried masks and trained nothing: no training curve, no early stop, forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from test_search_cost import level
from tombola.report.aggregate import joined_log, over_density
from tombola.report.cost import ITERATIONS, PASSES, cost_of, measure_of
from tombola.report.cost_tables import find_cost_table, search_line
from tombola.report.looks import Looks, page_looks
from tombola.report.plot import Plot, Shown
from tombola.report.plots import run_plots
from tombola.report.read import Run
from tombola.report.tables import find_tables, levels_table
from tombola.report.words import find_sentence
from tombola.results.run import RunRecord
from tombola.results.search import SearchResult
from tombola.results.trial import LevelResult, TrainingCost
from trial_results import level_figures, search_result

LOG = "step,epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,seconds\n"


def tried(number: int, passes: int = 4000, **more: Any) -> LevelResult:
    """A level that tried masks: no step, no early stop."""
    none = {"steps": 0, "early_stop_iteration": None, "early_stop_observed": False, "test_accuracy_early_stop": None}
    figures = {**none, "seconds": 2.0, **more}
    return level_figures(number, cost=TrainingCost(flops=10 * passes, forward_passes=passes), **figures)


def alone() -> SearchResult:
    return search_result({"ticket": (tried(1),)})


def then_trained() -> SearchResult:
    return search_result({"ticket": (tried(1, test_accuracy=0.5), level(2, 100, 10**6, kept=25))})


def looks_of(find: SearchResult) -> Looks:
    (looks,) = page_looks([run_of(find)])
    return looks


def run_of(find: SearchResult) -> Run:
    return Run(Path("run"), RunRecord(kind="find", name="run"), find=find)


def text(find: SearchResult) -> str:
    table = levels_table(find, looks_of(find))
    return "\n".join([*map(str, table.head), *(str(cell) for row in table.rows for cell in row), table.note])


def test_only_levels_without_a_step_that_passed_examples_tried_masks() -> None:
    assert tried(1).tried_masks
    assert not level(1, 100, 10**6).tried_masks
    assert not level_figures(1, steps=0).tried_masks  # a mask that was evaluated as it stood
    assert not alone().trained
    assert then_trained().trained


def test_the_line_names_forward_passes_whether_or_not_something_is_trained_after() -> None:
    assert search_line(alone()) == "search: 4,000 forward passes, 40.0 kFLOP, 2.00 s"
    assert search_line(then_trained()).startswith("search: 100 iterations, 4,800 forward passes, 1.04 MFLOP")
    assert "passes" not in search_line(search_result({"ticket": (level(1, 100, 10**6),)}))


def test_the_table_has_no_iterations_of_a_search_without_training() -> None:
    shown = text(alone())
    assert "4,000" in shown
    assert "iteration" not in shown
    assert "Early-stop iteration" in text(then_trained())
    assert "4,800" in text(then_trained())


def test_cost_is_in_forward_passes_where_masks_were_tried() -> None:
    find = then_trained()
    assert measure_of(find) is PASSES
    assert [cost_of(find, "ticket", number, PASSES) for number in (1, 2)] == [4000, 4800]
    plain = search_result({"ticket": (level(0, 100, 10**6), level(1, 50, 10**6, kept=40))})
    assert measure_of(plain) is ITERATIONS
    assert cost_of(plain, "ticket", 1) == 150


def test_no_dense_training_is_made_up() -> None:
    table = find_cost_table(alone())
    assert [str(row[0]) for row in table.rows] == ["Level 1", "All levels"]
    assert "dense" not in table.note
    assert "Forward passes" in map(str, find_cost_table(then_trained()).head)


def test_the_sentence_is_of_the_network_that_was_trained_last_at_the_same_density() -> None:
    assert "90.00 %" in find_sentence(then_trained())


def test_numbers_are_of_no_training() -> None:
    assert [table.title for table in find_tables(alone(), looks_of(alone()))] == ["Test accuracy"]


def plots(find: SearchResult) -> dict[str, Plot]:
    shown: list[Shown] = run_plots(run_of(find), looks_of(find))
    return {plot.name: plot for plot in shown if isinstance(plot, Plot)}


def test_curves_are_over_masks_tried_and_apart_from_those_of_training(tmp_path: Path) -> None:
    logs = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for log, unit in zip(logs, (500, 10), strict=True):
        rows = [f"{unit * n},1,0,{2 - 0.1 * n},nan,{2.1 - 0.1 * n},{0.2 + 0.1 * n},1" for n in range(1, 6)]
        log.write_text(LOG + "\n".join(rows) + "\n")
    levels = (tried(1, metrics=str(logs[0])), level(2, 50, 10**6, kept=25, metrics=str(logs[1])))
    drawn = plots(search_result({"ticket": levels}))
    labels = {name: plot.figure.axes[0].get_xlabel() for name, plot in drawn.items() if "val" in name or "loss" in name}
    assert labels == {
        "search-val-accuracy": "Masks tried",
        "search-loss": "Masks tried",
        "training-val-accuracy": "Training iterations",
        "training-val-loss": "Training iterations",
    }
    lines = drawn["search-loss"].figure.axes[0].get_lines()
    assert [next(iter(line.get_ydata())) for line in lines] == [1.9, 2.0]  # on the sample, on the validation split
    assert joined_log(levels, "val_loss") == {10 * n: 2.1 - 0.1 * n for n in range(1, 6)}


def kept_at(*levels: LevelResult) -> list[tuple[int, float]]:
    found = over_density(search_result({"ticket": levels}), "ticket", lambda x: x.test_accuracy)
    return [(point.level, point.spread.mean) for point in found]


def test_a_curve_over_density_has_the_last_of_equal_levels_and_no_network_that_was_stopped_to_rewind_to() -> None:
    stopped = level(0, 10, 10**6, whole_steps=100, stopped="rewind point, iteration 10", test_accuracy=0.7)
    alone, trained = level(1, 100, 10**6, kept=15, test_accuracy=0.4), level(2, 100, 10**6, kept=15, test_accuracy=0.8)
    assert kept_at(stopped, alone, trained) == [(2, 0.8)]
    assert kept_at(level(0, 100, 10**6, test_accuracy=0.7), alone, trained) == [(0, 0.7), (2, 0.8)]
    early = level(1, 50, 10**6, kept=30, stopped="mask stable", test_accuracy=0.6)
    assert kept_at(stopped, early, trained) == [(0, 0.7), (1, 0.6), (2, 0.8)]  # of levels that all stop alike


def test_an_evaluation_costs_no_forward_pass() -> None:
    mask = level_figures(1, steps=0, cost=TrainingCost(flops=0, memory_bytes=0, forward_passes=0))
    find = search_result({"ticket": (level(0, 100, 10**6), mask)})
    assert not mask.tried_masks
    assert cost_of(find, "ticket", 1, PASSES) == 800
    assert "1.00 MFLOP" in search_line(find)
