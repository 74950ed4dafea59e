"""Studies called from Python with what they cannot use: one line that says what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.study.setting import Setting

FEW = tb.DataSpec("digits", train_examples=60)
SHORT = {"length": "2it", "eval_every": "2it", "batch_size": 16}
OPTIONS = tb.Options(progress=False, device="cpu", threads=1)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))


@pytest.mark.parametrize("study", [tb.connectivity, tb.landscape, tb.initialisations], ids=lambda study: study.__name__)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"plan": {"density": 0.3}}, "plan is a dict, but it must be an? [CLI]"),
        ({"plan": tb.Width()}, "plan is a Width, but it must be"),
        ({"recipe": ["2it"]}, "recipe is a list; give a Recipe, or a mapping of its fields"),
        ({"recipe": {"legnth": "2it"}}, r"unknown field 'legnth' \(did you mean length\?\)"),
        ({"replicates": 0}, "replicates is 0"),
    ],
)
def test_a_study_says_what_it_was_given(
    study: Callable[..., Any], given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(tb.TombolaError, match=said) as error:
        study("mlp", FEW, **{"out": tmp_path / "runs", "options": OPTIONS, **given})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_network_where_a_name_is_wanted_is_refused_in_one_line() -> None:
    with pytest.raises(tb.TombolaError, match=r"network is .*must be a text") as error:
        tb.SparseDescent(network=network())  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: tb.Landscape(criteria=(1,)), "criteria has 1, but it must be a list of texts"),
        (lambda: tb.Connectivity(from_steps=(3,)), "from_steps has 3, but it must be a list of texts"),
        (lambda: tb.Initialisations(inits=(None,)), "inits has None, but it must be a list of texts"),
        (lambda: tb.regime([3], FEW), "tickets has 3; name tickets"),
        (lambda: tb.reproduce("joint-training", replicates="3"), "replicates is '3'"),
        (lambda: tb.reproduce("joint-training", jobs=0), "jobs is 0, but it must be at least 1"),
        (lambda: tb.reproduce(Path("none.yaml")), r"none\.yaml: no such file; name a reproduction"),
    ],
)
def test_what_no_study_can_use_is_refused(asked: Callable[[], Any], said: str) -> None:
    with pytest.raises(tb.TombolaError, match=said):
        asked()


def test_a_whole_recipe_is_taken_as_it_is() -> None:
    recipe = tb.Recipe(length="2it", lr=0.03, eval_every="2it")
    arm = Setting(tb.ModelSpec("mlp"), tb.DataSpec("digits"), recipe).arm("one", "imp")  # type: ignore[arg-type]
    assert arm.recipe == recipe


def test_weights_that_are_no_numbers_before_training_are_named() -> None:
    broken = network()
    with torch.no_grad():
        broken[1].weight[0, 0] = float("nan")  # type: ignore[index]
    with pytest.raises(tb.TombolaError, match=r"1\.weight has values that are NaN or infinite before the first"):
        tb.find(broken, FEW, tb.IterativePruning(density=0.4, rounds=1), recipe=SHORT, options=OPTIONS)
