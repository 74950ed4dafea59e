"""Curves over density that are compared with one another: their tables, figures and sentence, from made-up results."""

from __future__ import annotations

from typing import Any

import pytest

from tombola.methods.dense import DenseTraining
from tombola.methods.imp import IterativePruning
from tombola.report.grid_tables import grid_tables
from tombola.report.looks import Looks
from tombola.report.study_plots import MAX_LINES, _parts, _series
from tombola.report.study_tables import study_tables
from tombola.report.words import study_sentence
from tombola.results.comparison import ComparisonResult
from tombola.study.compare import Searched, summarise
from tombola.study.setting import Arm
from tombola.train.recipe import Recipe
from trial_results import level_figures

DENSITIES = (0.5, 0.25)


def study(curves: int = 3, **more: Any) -> ComparisonResult:
    """A reference that loses 0.1 per level, and curves that lie 0.02, 0.04, .. below it in every replicate."""
    arms, searches = [Arm("dense", DenseTraining(), Recipe(), 1.0)], [searched((0.9, 0.91, 0.95), 1.0)]
    for curve in range(curves):
        name = f"curve {curve}"
        for place, density in enumerate(DENSITIES):
            against = f"curve 0 at {density}" if curve else "dense"
            arms.append(Arm(f"{name} at {density}", IterativePruning(), Recipe(), density, name, against))
            base = 0.8 - 0.1 * place - 0.02 * curve
            searches.append(searched((base, base + 0.01, base + 0.05), density))
    found = summarise(arms, searches)
    looks = {"study": "try", "model": "mlp", "data": "digits", "metric": "accuracy", "higher_is_better": True}
    about = {"input_shape": None, "replicates": 3, "seeds": (0, 1, 2), "recipe": None, "parameters": None, "note": ""}
    parts = {"arms": found.arms, "comparisons": found.comparisons, "intervals": found.intervals}
    return ComparisonResult(**looks, **about, **parts, **more)


def searched(values: tuple[float, ...], density: float) -> list[Searched]:
    return [
        Searched((level_figures(density=density, test_accuracy=value, val_accuracy=value),), "o") for value in values
    ]


def test_a_row_for_each_curve_and_a_column_for_each_density() -> None:
    tested, differences = grid_tables(study(), Looks({}), "Means.", "Paired.")
    assert list(map(str, tested.head)) == ["Arm", "50.00 %", "25.00 %"]
    assert [str(row[0]) for row in tested.rows] == ["curve 0", "curve 1", "curve 2"]
    assert [str(cell).split("\n")[0] for cell in tested.rows[1][1:]] == ["80.00 %", "70.00 %"]
    assert "Dense: 92.00" in tested.note
    assert differences.title == "Differences from curve 0"
    assert [str(row[0]) for row in differences.rows] == ["curve 1", "curve 2"]
    # in step with the reference, replicate by replicate: intervals without width
    assert [str(cell) for cell in differences.rows[1][1:]] == ["−4.00\n± 0.00"] * 2


def test_the_single_arms_are_folded() -> None:
    tables = study_tables(study(), Looks({}))
    assert [table.folded for table in tables[:2]] == [False, False]
    assert all(table.folded for table in tables[2:])
    assert str(tables[-1].rows[-1][0]) == "curve 2 at 0.25\nminus curve 0 at 0.25" or len(tables) > 4


def test_the_chosen_densities_come_first() -> None:
    chosen = study(chosen=("curve 0 at 0.5", "curve 1 at 0.25"))
    first = study_tables(chosen, Looks({}))[0]
    assert first.title == "Best density by validation"
    assert [tuple(map(str, row)) for row in first.rows] == [
        ("curve 0", "50.00 %", "82.00 %\n± 6.57", "–"),
        ("curve 1", "25.00 %", "70.00 %\n± 6.57", "−2.00\n± 0.00"),
    ]
    assert study_sentence(chosen).startswith("Best density by validation: curve 0 at 50.00 %, with a test accuracy of ")


def test_the_sentence_speaks_of_the_reference() -> None:
    text = study_sentence(study())
    assert "All 4 other arms lie significantly below the reference at its density" in text
    assert text.endswith(" Reference: curve 0.")


@pytest.mark.parametrize(("curves", "sizes"), [(3, [3]), (6, [6]), (7, [4, 4]), (12, [5, 5, 4])])
def test_many_curves_take_several_figures_each_with_the_reference(curves: int, sizes: list[int]) -> None:
    made = study(curves)
    looks = Looks({}, dict.fromkeys(made.families, Looks({}).arm("dense")))
    parts = _parts(made, _series(made, looks, "test_accuracy", made.arms[0]))
    assert [len(part) for part in parts] == sizes
    assert all(part[0].label == "curve 0" and len(part) <= MAX_LINES for part in parts)
    assert {line.label for part in parts for line in part} == {f"curve {number}" for number in range(curves)}
