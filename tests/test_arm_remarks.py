"""What is said beside a comparison of arms: in what their recipes differ, and masks that mask nothing."""

from __future__ import annotations

from typing import Any

from tombola.methods.base import Method
from tombola.methods.dense import DenseTraining
from tombola.methods.learned_mask import LearnedMask
from tombola.report.words import recipes_sentence, unmasked_sentence
from tombola.results.comparison import ComparisonResult
from tombola.study.compare import Searched, summarise
from tombola.study.setting import Arm
from tombola.train.recipe import Recipe
from trial_results import level_figures


def study(*arms: tuple[str, Method, Recipe, float]) -> ComparisonResult:
    """One replicate of each (name, method, recipe, density)."""
    searches = [[Searched((level_figures(density=one[3], test_accuracy=0.5),), "o")] for one in arms]
    found = summarise([Arm(name, method, recipe) for name, method, recipe, _ in arms], searches)
    about: dict[str, Any] = {"study": "try", "model": "mlp", "data": "digits", "metric": "accuracy", "note": ""}
    rest: dict[str, Any] = {"higher_is_better": True, "input_shape": None, "replicates": 1, "seeds": (0,)}
    parts: dict[str, Any] = {"arms": found.arms, "comparisons": found.comparisons, "intervals": found.intervals}
    return ComparisonResult(**about, **rest, **parts, recipe=None, parameters=None)


def test_recipes_that_differ_are_named_with_their_values() -> None:
    dense, mask = DenseTraining(), LearnedMask()
    other = Recipe(optimizer="sgd", lr=0.1, batch_size=128, length="5ep")
    two = study(
        ("a", dense, Recipe(optimizer="adam", lr=1e-3, batch_size=128, length="2ep"), 1.0), ("b", mask, other, 0.5)
    )
    assert recipes_sentence(two) == " The recipes of the arms differ in optimizer (adam, sgd), lr (0.001, 0.1)."
    assert recipes_sentence(study(("a", dense, other, 1.0), ("b", mask, other, 0.5))) == ""


def test_many_values_are_counted() -> None:
    arms = [(str(rate), DenseTraining(), Recipe(lr=rate), 1.0) for rate in (0.1, 0.2, 0.3, 0.4)]
    assert recipes_sentence(study(*arms)) == " The recipes of the arms differ in lr (4 values)."


def test_a_mask_that_keeps_everything_is_said_but_not_where_that_was_asked_for() -> None:
    recipe, free, asked = Recipe(), LearnedMask(), LearnedMask(density=1.0)
    given = [("dense", DenseTraining(), recipe, 1.0), ("asked", asked, recipe, 1.0), ("some", free, recipe, 0.99)]
    assert unmasked_sentence(study(*given)) == ""
    one = unmasked_sentence(study(*given, ("all", free, recipe, 1.0)))
    assert one.startswith(" The mask of all keeps every weight, so that nothing was masked: train longer, or raise ")
    both = unmasked_sentence(study(*given, ("all", free, recipe, 1.0), ("more", free, recipe, 1.0)))
    assert both.startswith(" The masks of all, more keep every weight, ")
