"""The table of a search at the command line: a row for every level of every arm."""

from __future__ import annotations

from pathlib import Path

from test_report_draws import arm
from tombola.report import words
from tombola.report.looks import Looks
from tombola.report.numbers import key_numbers
from tombola.report.plot import Plot
from tombola.report.plots import run_plots
from tombola.report.read import Run
from tombola.report.tables import levels_table, runs_table
from tombola.results.run import RunRecord
from tombola.results.search import SearchResult
from tombola.results.trial import LevelResult
from trial_results import level_figures, search_result


def shown(*replicates: dict[str, tuple[LevelResult, ...]]) -> list[list[str]]:
    table = levels_table(search_result(*replicates), Looks({}))
    return [[str(cell) for cell in row] for row in (table.head, *table.rows)]


def test_every_level_of_every_arm_has_a_row() -> None:
    ticket = level_figures(0, density=1.0, steps=100), level_figures(1, steps=60)
    _, *rows = shown({"ticket": ticket, "random": ticket[1:]})
    assert [row[:3] for row in rows] == [
        ["Dense", "0", "100.00 %"],
        ["Ticket", "1", "50.00 %"],
        ["Random mask", "1", "50.00 %"],
    ]
    assert [row[-1] for row in rows] == ["100", "160", "60"]


def test_a_sparse_first_level_is_a_ticket() -> None:
    assert shown({"ticket": (level_figures(0, density=0.25),)})[1][0] == "Ticket"


def as_run(find: SearchResult) -> Run:
    return Run(Path("run"), RunRecord(kind="find"), find=find)


def tiles(find: SearchResult) -> list[str]:
    return [number.name for number in key_numbers(as_run(find), Looks({}))]


def captions(find: SearchResult) -> str:
    return " ".join(shown.caption for shown in run_plots(as_run(find), Looks({})) if isinstance(shown, Plot))


def drawn_early(stopped: str | None) -> tuple[LevelResult, LevelResult]:
    """A search with all weights that draws a ticket, and the ticket, which does as well."""
    search = level_figures(0, density=1.0, kept=50, stopped=stopped, test_accuracy=0.8, test_accuracy_early_stop=0.8)
    return search, level_figures(1, density=0.5, test_accuracy=0.9)


def test_a_network_that_was_stopped_early_is_not_called_dense() -> None:
    levels = drawn_early("ticket drawn at iteration 60")
    assert (levels[0].is_unpruned, levels[0].is_dense) == (True, False)
    find = search_result({"ticket": levels})
    assert [row[0] for row in shown({"ticket": levels})[1:]] == ["All weights, stopped early", "Ticket"]
    assert (find.dense_test_accuracy, words.dense_point(find), words.sparsest_that_keeps_up(find)) == (None, None, None)
    assert tiles(find)[:2] == ["Weights kept", "Ticket"]
    assert runs_table([as_run(find)], [Looks({})]).rows[0][2] == words.MISSING
    assert "dense network" not in captions(find)
    assert words.find_sentence(find).startswith(
        "With 50.00 % of the prunable weights, the ticket's test accuracy is 90."
    )
    alone = words.find_sentence(search_result({"ticket": levels[:1]}))
    assert alone == (
        "The test accuracy of the network with all weights, whose training was stopped early, is 80.00 % (1 replicate)."
    )


def test_a_search_that_went_to_its_end_trained_the_dense_network() -> None:
    levels = drawn_early(None)
    find = search_result({"ticket": levels})
    assert levels[0].is_dense
    assert shown({"ticket": levels})[1][0] == "Dense"
    assert find.dense_test_accuracy == 0.8
    assert "within 0.2 points of the dense network" in words.find_sentence(find)
    assert tiles(find)[:2] == ["Dense", "Keeps up down to"]
    assert runs_table([as_run(find)], [Looks({})]).rows[0][2] == "80.00 %"
    assert "Dotted: the dense network." in captions(find)


def test_one_search_of_several_that_was_stopped_leaves_no_mean_of_dense_networks() -> None:
    found = [{"ticket": drawn_early(stopped)} for stopped in (None, "ticket drawn at iteration 60")]
    assert words.dense_point(search_result(*found)) is None
    assert shown(*found)[1][0] == "All weights, stopped early"


def test_an_arm_of_a_study_that_was_stopped_is_not_its_dense_network() -> None:
    whole = arm("whole", [40], [None], [0.8]).replace(method="imp", density=1.0)
    levels = (level_figures(0, density=1.0, kept=50, stopped="stable mask at iteration 60"),)
    assert (whole.dense, whole.replace(replicates=(levels,)).dense) == (True, False)


def test_cells_are_means_over_replicates_with_their_range() -> None:
    one, two = (level_figures(1, density=0.5, test_accuracy=value) for value in (0.5, 0.75))
    head, row = shown({"ticket": (one,)}, {"ticket": (two,)})
    assert row[head.index("Test accuracy")] == "62.50 %\n50.00 to 75.00 %"
    note = levels_table(search_result({"ticket": (one,)}, {"ticket": (two,)}), Looks({})).note
    assert note.startswith("Mean over 2 replicates; below: lowest to highest. ")


def test_levels_that_some_replicates_lack_a_value_of_are_starred() -> None:
    seen = level_figures(1, density=0.5, early_stop_iteration=40, early_stop_observed=True)
    unseen = seen.replace(early_stop_observed=False)
    table = levels_table(search_result({"ticket": (seen,)}, {"ticket": (unseen,)}), Looks({}))
    assert str(table.rows[0][6]) == "40*"
    assert "* some replicates" in table.note
    assert "*" not in levels_table(search_result({"ticket": (unseen,)}), Looks({})).note


def test_barred_weights_get_a_column_where_there_are_any() -> None:
    plain, barred = level_figures(0), level_figures(1, density=0.5, barred_kept=3)
    assert shown({"ticket": (plain,)})[0][-1] == "Total iterations"
    head, *rows = shown({"ticket": (plain, barred)})
    assert [head[-1], *(row[-1] for row in rows)] == ["Barred", "0", "3"]
