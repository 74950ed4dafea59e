"""Public functions meet arguments of a wrong type with one line, before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import tombola as tb
from tombola.errors import TombolaError


def test_every_public_function_checks_its_arguments() -> None:
    public = [getattr(tb, name) for name in tb.__all__]
    own = [one for one in public if inspect.isfunction(one) and one.__module__.startswith("tombola")]
    assert len(own) > 20
    assert [one.__name__ for one in own if not hasattr(one, "__wrapped__")] == []


@pytest.mark.parametrize("study", [tb.connectivity, tb.landscape, tb.initialisations])
def test_a_folder_in_the_place_of_the_plan_is_named(study: Callable[..., Any]) -> None:
    with pytest.raises(TombolaError, match=r"^plan is 'runs', but it must be .* or None$"):
        study("mlp", "digits", "runs")


def test_a_step_behind_the_training_names_the_option() -> None:
    wanted = r"^from_steps names 2ep: rewind is to iteration \d+, but training has 3"
    with pytest.raises(TombolaError, match=wanted):
        tb.connectivity("mlp", "digits", tb.Connectivity(from_steps=("init", "2ep")), recipe={"length": "3it"})
