"""Tables of what searches, arms and verifications cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report_cases import change
from report_runs import make_find, make_verify, write_json
from test_search_cost import level
from tombola.formats import quantity
from tombola.report.cost_tables import REWOUND, find_cost_table, search_line, verify_cost_table
from tombola.report.looks import Looks, page_looks
from tombola.report.page import write_report
from tombola.report.read import read_run
from tombola.report.study_tables import study_tables
from tombola.report.tables import Table
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.cost import Cost
from tombola.results.record import Figure
from tombola.results.search import SearchResult
from trial_results import search_result


def cells(table: Table, row: str) -> dict[str, str]:
    """A row's cells by their heads."""
    ((_, *values),) = [found for found in table.rows if str(found[0]) == row]
    return dict(zip(map(str, table.head[1:]), map(str, values), strict=True))


def search(**more: Any) -> SearchResult:
    """Dense, and two levels; a random mask at the first of them."""
    ticket = (
        level(0, 100, 10**9, **more),
        level(1, 100, 10**9, kept=40, **more),
        level(2, 100, 10**9, kept=32, **more),
    )
    return search_result({"ticket": ticket, "random": (level(1, 100, 10**9, kept=40, **more),)})


def test_a_search_by_level_and_in_total() -> None:
    table = find_cost_table(search(seconds=2.5, memory=123_456))
    assert list(map(str, table.head)) == ["Training", "Density", "Iterations", "FLOPs", "Seconds", "Memory"]
    assert cells(table, "Level 1") == {
        "Density": "80.00 %",
        "Iterations": "100",
        "FLOPs": "1.00 GFLOP",
        "Seconds": "2.50 s",
        "Memory": "123 kB",
    }
    assert cells(table, "All levels")["FLOPs"] == "3.00 GFLOP"
    assert cells(table, "One dense training")["FLOPs"] == "1.00 GFLOP"
    assert cells(table, "All levels / one dense training") == {
        "Density": "",
        "Iterations": "3.00 ×",
        "FLOPs": "3.00 ×",
        "Seconds": "3.00 ×",
        "Memory": "1.00 ×",
    }
    assert cells(table, "Random mask, 1 training")["Iterations"] == "100"
    assert "level 0" in table.note
    assert REWOUND not in table.note
    assert "Energy" not in table.note


def test_energy_is_shown_where_it_was_measured() -> None:
    table = find_cost_table(search(joules=1500.0))
    assert cells(table, "All levels")["Energy"] == "4.50 kJ"
    assert "other processes included" in table.note


def test_a_rewind_point_is_said() -> None:
    ticket = (level(0, 100, 3000), level(1, 100, 2400, kept=40, first_step=20))
    table = find_cost_table(search_result({"ticket": ticket}))
    assert cells(table, "All levels")["Iterations"] == "180"
    assert REWOUND in table.note


def test_an_early_bird_stands_beside_what_it_saves() -> None:
    ticket = (level(0, 20, 600, whole_steps=160), level(1, 160, 1800, first_step=40, kept=15))
    table = find_cost_table(search_result({"ticket": ticket}))
    assert cells(table, "One dense training")["FLOPs"] == "4.80 kFLOP"
    assert cells(table, "All levels / one dense training")["FLOPs"] == "0.50 ×"
    assert cells(table, "Train, prune, train again")["FLOPs"] == "7.20 kFLOP"
    assert cells(table, "All levels / train, prune, train again")["FLOPs"] == "0.33 ×"
    assert "estimated" in table.note
    assert "Train, prune, train again:" in table.note


def test_a_search_is_told_in_a_line() -> None:
    assert (
        search_line(search(seconds=13.7)) == "search: 300 iterations, 3.00 GFLOP, 41.1 s; 3.0 times the dense training"
    )
    measured = search_line(search(joules=700.0))
    assert measured == "search: 300 iterations, 3.00 GFLOP, 3.00 s, 2.10 kJ; 3.0 times the dense training"
    learned = search_result({"ticket": (level(1, 50, 1500, kept=25, whole_steps=100),)})
    assert (
        search_line(learned) == "search: 50 iterations, 1.50 kFLOP, 1.00 s; 0.50 times the dense training (estimated)"
    )
    assert search_line(search_result({"ticket": (level(0, 50, 1500),)})) == "search: 50 iterations, 1.50 kFLOP, 1.00 s"


def test_an_old_search_is_told_by_its_iterations() -> None:
    ticket = (
        level(0, 50, None, memory=None, whole_steps=None),
        level(1, 70, None, kept=9, memory=None, whole_steps=None),
    )
    found = search_result({"ticket": ticket})
    assert search_line(found) == "search: 120 iterations, 2.00 s; 2.4 times the dense training"
    assert list(map(str, find_cost_table(found).head)) == ["Training", "Density", "Iterations", "Seconds"]


def test_replicates_are_means_and_unfinished_ones_left_out() -> None:
    def replicate(*flops: int) -> dict[str, Any]:
        return {"ticket": tuple(level(n, 100, f, kept=50 - n) for n, f in enumerate(flops))}

    found = search_result(replicate(1000, 2000), replicate(3000, 4000), replicate(9000))
    table = find_cost_table(found)
    assert cells(table, "Level 0")["FLOPs"] == "2.00 kFLOP"
    assert cells(table, "All levels")["FLOPs"] == "5.00 kFLOP"
    assert table.note.startswith("Mean over 2 replicates.")
    assert search_line(found).startswith("search (mean): 200 iterations, 5.00 kFLOP")


def test_a_verification_by_arm(tmp_path: Path) -> None:
    make_verify(tmp_path)
    write_json(tmp_path / "run.json", {"kind": "verify", "name": "v"})
    run = read_run(tmp_path)
    assert run.verify is not None
    looks = page_looks([run])[0]
    assert verify_cost_table(run.verify, looks) is None

    def cost(flops: int) -> Cost:
        return Cost(iterations=100, flops=flops, seconds=1.0, memory_bytes=None, energy_joules=None)

    costs = {"ticket": (cost(1000), cost(3000)), "dense": (cost(4000), cost(4000))}
    arms = {name: arm.replace(costs=costs.get(name, ())) for name, arm in run.verify.arms.items()}
    table = verify_cost_table(run.verify.replace(arms=arms), looks)
    assert table is not None
    assert cells(table, "Ticket")["FLOPs"] == "2.00 kFLOP\n0.50 ×"
    assert cells(table, "Dense")["Iterations"] == "100\n1.00 ×"
    assert cells(table, "All trainings") == {"n": "4", "Iterations": "400", "FLOPs": "12.0 kFLOP", "Seconds": "4.00 s"}


def test_the_page_of_a_search_has_the_table(tmp_path: Path) -> None:
    root = change(make_find(tmp_path / "run", logs=False), lambda x: x.update(cost={"flops": 2_000_000}))
    text = write_report([root], tmp_path / "page").html.read_text()
    assert "What the search cost" in text
    assert "8.00 MFLOP" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_quantities() -> None:
    cases = {0: "0 B", 999: "999 B", 999.9: "1.00 kB", 123_456: "123 kB", 5.4321e13: "54.3 TB", 0.5: "0.500 B"}
    assert {value: quantity(value, "B") for value in cases} == cases
    assert quantity(None, "J") == "–"
    assert quantity(12_345.6, "s") == "12,346 s"


def compared(*arms: tuple[str, str, float, list[list[int]]]) -> ComparisonResult:
    """Arms by name, method, density, and the FLOPs of every level of every replicate."""
    none = Figure(mean=None, interval=None, values=())

    def arm(name: str, method: str, kept: float, flops: list[list[int]]) -> ComparedArm:
        levels = tuple(tuple(level(n, 100, f, kept=50 if n == 0 else 25) for n, f in enumerate(x)) for x in flops)
        return ComparedArm(
            name=name,
            family=None,
            method=method,
            options=None,
            density=kept,
            prunable=None,
            plot_density=None,
            recipe=None,
            replicates=levels,
            origins=(),
            test_accuracy=Figure(mean=0.9, interval=None, values=(0.9,) * len(flops)),
            val_accuracy=none,
            train_accuracy_eval=none,
            train_accuracy=none,
            gap=none,
            shift=none,
        )

    return ComparisonResult(
        study="compare",
        model="m",
        data="d",
        metric="accuracy",
        higher_is_better=True,
        input_shape=None,
        replicates=max(len(flops) for *_, flops in arms),
        seeds=(),
        recipe=None,
        parameters=None,
        arms=tuple(arm(*given) for given in arms),
        comparisons=(),
        intervals="",
        note="",
    )


def costs_of(study: ComparisonResult) -> Table:
    (table,) = [table for table in study_tables(study, Looks({})) if table.title == "What the arms cost"]
    return table


def test_arms_stand_beside_what_they_reached_and_over_the_dense_one() -> None:
    imp, dense = [[1000, 1000], [1000, 3000]], [[1500], [1500]]
    table = costs_of(compared(("imp", "imp", 0.5, imp), ("whole", "dense", 1.0, dense)))
    assert cells(table, "imp") == {
        "Test accuracy": "90.00 %",
        "Iterations": "200\n2.00 ×",
        "FLOPs": "3.00 kFLOP\n2.00 ×",
        "Seconds": "2.00 s\n2.00 ×",
        "Memory": "100 B\n1.00 ×",
    }
    assert "times that of whole" in table.note
    assert "Mean over 2 replicates" in table.note


def test_without_a_dense_arm_costs_are_over_the_first() -> None:
    table = costs_of(compared(("a", "imp", 0.5, [[500]]), ("b", "imp", 0.4, [[500, 500]])))
    assert cells(table, "b")["FLOPs"] == "1.00 kFLOP\n2.00 ×"
    assert "times that of a" in table.note


def test_a_lone_arm_is_over_nothing() -> None:
    assert cells(costs_of(compared(("a", "imp", 0.5, [[500]]))), "a")["FLOPs"] == "500 FLOP"
