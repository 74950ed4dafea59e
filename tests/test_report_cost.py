"""What a result cost: iterations of all levels up to it."""

from __future__ import annotations

from pathlib import Path

from report_cases import change, drawn, drop
from report_runs import make_find, write_json
from tombola.report.aggregate import joined_log, spread
from tombola.report.cost import Priced, PricedSeries, bars, cost_of, find_series, total
from tombola.report.looks import page_looks, series_look
from tombola.report.read import read_run
from tombola.report.tables import find_tables, runs_table
from tombola.results.trial import LevelResult
from trial_results import level_figures, search_result


def levels(*steps: int) -> tuple[LevelResult, ...]:
    return tuple(level_figures(n, density=0.5**n, steps=count) for n, count in enumerate(steps))


def test_costs_by_hand() -> None:
    ticket = levels(100, 100, 60)
    found = search_result({"ticket": ticket, "random": ticket[1:], "reinit": ticket[1:]})
    assert [cost_of(found, "ticket", n) for n in range(3)] == [100, 200, 260]
    assert [cost_of(found, "random", n) for n in (1, 2)] == [100, 60]
    assert [cost_of(found, "reinit", n) for n in (1, 2)] == [200, 260]
    assert cost_of(found, "random", 0) is None


def test_costs_are_means_over_replicates() -> None:
    assert cost_of(search_result({"ticket": levels(100, 50)}, {"ticket": levels(100, 70)}), "ticket", 1) == 160
    assert cost_of(search_result({"ticket": levels(100, 50)}, {"ticket": levels(100)}), "ticket", 1) == 150
    assert total([1, 2]) == 3
    assert total([1, None]) is None


def test_a_search_of_levels_that_begin_late_counts_them_whole() -> None:
    learned = (level_figures(1, steps=210), level_figures(2, steps=90))
    assert cost_of(search_result({"ticket": learned}), "ticket", 2) == 300


def test_a_level_that_goes_on_counts_what_it_adds_and_one_that_is_rewound_its_whole_length() -> None:
    found = (level_figures(0, steps=40), level_figures(1, steps=100, first_step=40))
    assert cost_of(search_result({"ticket": found}), "ticket", 1) == 100
    rewound = (level_figures(0, steps=100), level_figures(1, steps=100, first_step=40))
    assert cost_of(search_result({"ticket": rewound}), "ticket", 1) == 200


def test_series_name_the_tickets_densities_and_join_what_was_searched() -> None:
    ticket = levels(100, 100)
    ticket_line, random_line = find_series(
        search_result({"ticket": ticket, "random": ticket[1:]}),
        [("ticket", series_look(0)), ("random", series_look(1))],
    )
    assert [(p.cost, p.name) for p in ticket_line.points] == [(100, "100.00 %"), (200, "50.00 %")]
    assert (ticket_line.joined, random_line.joined) == (True, False)
    assert [(p.cost, p.name) for p in random_line.points] == [(100, "")]


def test_bars_say_what_they_are() -> None:
    def line(*sizes: int) -> PricedSeries:
        found = [spread([0.1 * n for n in range(size)]) for size in sizes]
        return PricedSeries("x", series_look(0), tuple(Priced(1, each) for each in found if each is not None))

    assert [bars([line(*sizes)]) for sizes in ((1, 1), (2, 3), (3, 4))] == ["none", "range", "interval"]


def test_the_table_and_the_figure_tell_the_cost(tmp_path: Path) -> None:
    root = make_find(tmp_path / "run", logs=False, lean=True, levels=(0, 1, 2), controls=(2,))
    ((run, looks, plots, _),) = drawn([root])
    assert run.find is not None
    first = find_tables(run.find, looks)[0]
    place = list(map(str, first.head)).index("Total iterations")
    assert [row[place] for row in first.rows] == ["12,000", "24,000", "36,000"]
    assert "all levels up to this one" in first.note
    (figure,) = (plot.figure for plot in plots if plot.name == "accuracy-cost")
    lines = {line.get_label(): list(line.get_xdata()) for line in figure.axes[0].lines}
    assert lines["Ticket"] == [12_000, 24_000, 36_000]
    assert lines["Random mask"] == [12_000]
    assert lines["Reinitialised"] == [36_000]
    table = runs_table([run, run], [looks, looks])
    assert table.rows[0][list(table.head).index("Total iterations")] == "36,000"


def test_a_search_from_a_ticket_says_what_is_not_counted(tmp_path: Path) -> None:
    root = make_find(tmp_path / "run", logs=False, lean=True, replicates=1, levels=(0, 1), controls=())
    write_json(root / "run.json", {"kind": "find", "config": {"start": "0a1b"}})
    run = read_run(root)
    assert run.find is not None
    looks = page_looks([run])[0]
    assert (
        "the ticket that the search started from" in find_tables(run.find, looks, from_ticket=run.from_ticket)[0].note
    )
    assert "started from" not in find_tables(run.find, looks)[0].note


def test_without_tests_there_is_no_cost(tmp_path: Path) -> None:
    root = change(make_find(tmp_path / "run", logs=False, lean=True, levels=(0, 1), controls=()), drop("test_accuracy"))
    ((run, looks, plots, _),) = drawn([root])
    assert run.find is not None
    assert "accuracy-cost" not in {plot.name for plot in plots}
    assert not any("Total" in str(cell) for table in find_tables(run.find, looks) for cell in table.head)


def test_curves_of_levels_join_where_one_goes_on(tmp_path: Path) -> None:
    def log(name: str, steps: tuple[int, ...]) -> str:
        (tmp_path / name).write_text("step,val_loss\n" + "".join(f"{step},{step / 10}\n" for step in steps))
        return str(tmp_path / name)

    first, second = log("0.csv", (0, 20)), log("1.csv", (20, 40, 60))
    going_on = (level_figures(0, steps=20, metrics=first), level_figures(1, steps=60, first_step=20, metrics=second))
    assert joined_log(going_on, "val_loss") == {0: 0, 20: 2, 40: 4, 60: 6}
    again = (going_on[0], going_on[1].replace(first_step=0))
    assert joined_log(again, "val_loss") == {0: 0, 20: 2, 40: 2, 60: 4, 80: 6}
