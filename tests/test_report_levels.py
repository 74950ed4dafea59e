"""The table of a search at the command line: a row for every level of every arm."""

from __future__ import annotations

from tombola.report.looks import Looks
from tombola.report.tables import levels_table
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
