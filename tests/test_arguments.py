"""Arguments of the wrong kind are one line before anything is trained."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.errors import TombolaError
from tombola.results.statistics import Difference
from tombola.search.origin import start_from
from tombola.search.request import made, make_request
from tombola.study.margin import Margin
from tombola.study.planning import examples_to_decide
from tombola.train.length import Length
from tombola.train.recipe import Recipe


@pytest.mark.parametrize("method", [3, tb.IterativePruning, nn.Linear(2, 2), ["imp"]])
def test_a_method_that_is_none_is_one_line(method: Any) -> None:
    with pytest.raises(TombolaError, match=r"^the method is "):
        make_request("mlp", "digits", method)


@pytest.mark.parametrize("model", [nn.Linear, None, 3, {"a": torch.zeros(1)}])
def test_a_model_that_is_none_is_one_line(model: Any) -> None:
    with pytest.raises(TombolaError, match=r"^the model is "):
        make_request(model, "digits")


def test_an_unknown_field_is_named_with_the_closest() -> None:
    with pytest.raises(TombolaError, match=r"unknown field 'lenght' .did you mean length\?"):
        made(Recipe, {}, {"lenght": "1ep"})


@pytest.mark.parametrize("given", [5, None, 2.0])
def test_a_length_that_is_no_text_is_one_line(given: Any) -> None:
    with pytest.raises(TombolaError, match=r"length .* is not understood"):
        Length.parse(given)


@pytest.mark.parametrize("given", ["3", 2.5, None, True])
def test_replicates_that_are_no_whole_number_are_one_line(given: Any) -> None:
    with pytest.raises(TombolaError, match="replicates is "):
        make_request("mlp", "digits", replicates=given)


@pytest.mark.parametrize("given", ["a", None, math.nan, math.inf, -1, True, -1e-300])
def test_a_margin_that_is_no_number_is_one_line(given: Any) -> None:
    with pytest.raises(TombolaError, match="margin is "):
        Margin(given)


@pytest.mark.parametrize("gap", [1e-300, 1e-170, 5e-324])
def test_a_gap_too_small_for_its_square_needs_no_number_of_examples(gap: float) -> None:
    found = Difference(0.0, 0.01, test_examples=500, examples=1e-4)
    assert examples_to_decide(found, gap, 0.05) is None
    assert examples_to_decide(found, 0.1, 0.05) is not None


@pytest.mark.parametrize("attach", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_are_not_lost_silently(attach: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3))
    splits = make_request(network, ((torch.randn(20, 8), torch.arange(20) % 3),) * 3).data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(network, splits, seed=0)  # type: ignore[arg-type]
    getattr(network[2].weight, attach)(lambda given: None)
    with pytest.warns(UserWarning, match="hooks on parameters .*2.weight"):
        start_from(network, splits, seed=0)  # type: ignore[arg-type]


def test_the_hooks_of_a_held_mask_are_no_cause_to_warn() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.Linear(4, 3))
    splits = make_request(network, ((torch.randn(20, 8), torch.arange(20) % 3),) * 3).data
    mask = tb.select({name: weight.abs() for name, weight in tb.prunable(network).items()}, density=0.5)
    with tb.hold(network, mask), warnings.catch_warnings():
        warnings.simplefilter("error")
        start_from(network, splits, seed=0)  # type: ignore[arg-type]


def test_verify_warns_of_a_network_whose_weights_fit_and_whose_code_differs() -> None:
    def network(between: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 4), between, nn.Linear(4, 3))

    data, short = ((torch.randn(20, 8), torch.arange(20) % 3),) * 3, {"length": "1it"}
    ticket = tb.find(network(nn.ReLU()), data, tb.IterativePruning(density=0.5, rounds=1), recipe=short)
    with pytest.warns(UserWarning, match="not the one that the ticket was found with"):
        tb.verify(ticket, data, model=network(nn.Tanh()), replicates=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not the one that the ticket")
        tb.verify(ticket, data, model=network(nn.ReLU()), replicates=1)
