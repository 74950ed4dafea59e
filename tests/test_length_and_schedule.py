from __future__ import annotations

import pytest

from tombola.errors import TombolaError
from tombola.train.length import Length
from tombola.train.recipe import Recipe
from tombola.train.schedule import lr_factor


@pytest.mark.parametrize(
    ("text", "steps"), [("10ep", 1000), ("0.5ep", 50), ("5000it", 5000), ("2ep30it", 230), ("0it", 0)]
)
def test_lengths_are_read_as_people_write_them(text: str, steps: int) -> None:
    assert Length.parse(text).steps(100) == steps


@pytest.mark.parametrize("text", ["", "10", "ep", "-3it", "10 epochs", "1.5it", "10it2ep"])
def test_other_lengths_are_refused_with_the_mend(text: str) -> None:
    with pytest.raises(TombolaError, match='"10ep"'):
        Length.parse(text)


def test_step_schedule_with_warmup() -> None:
    recipe = Recipe(length="10it", schedule="step", milestones=("4it", "6it"), gamma=0.5, warmup="2it")
    factor = lr_factor(recipe, steps_per_epoch=5)
    assert [factor(step) for step in range(8)] == [0.5, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_cosine_falls_from_one_to_zero_after_the_warmup() -> None:
    factor = lr_factor(Recipe(length="12it", schedule="cosine", warmup="2it"), steps_per_epoch=5)
    assert factor(0) == 0.5
    assert factor(2) == 1.0
    assert factor(7) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", "0it"),
        ("batch_size", 0),
        ("lr", float("nan")),
        ("lr", -1.0),
        ("momentum", 1.0),
        ("schedule", "x"),
        ("precision", "16"),
        ("accumulate", 0),
        ("clip_norm", 0.0),
        ("label_smoothing", 1.0),
        ("eval_every", "0ep"),
    ],
)
def test_a_recipe_names_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(TombolaError, match=field):
        Recipe(**{field: value})  # type: ignore[arg-type]
