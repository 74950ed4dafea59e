"""The Conv1D of transformers (GPT-2): a linear layer whose weight is stored as (inputs, outputs)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tombola as tb
from tombola.errors import TombolaError
from tombola.nn.init import fans, initialise_
from tombola.parameters import transposed
from tombola.supermask.attach import start_scores
from tombola.train.gradient import input_norms

Conv1D: Any = pytest.importorskip("transformers.pytorch_utils").Conv1D
PATTERNS = ("element", "block:2", "block:3", "inputs:3", "channel")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Conv1D(5, 8), nn.ReLU(), nn.Linear(5, 3))


def test_it_is_prunable_and_known_to_be_transposed() -> None:
    assert list(tb.prunable(network())) == ["0.weight", "2.weight"]
    assert transposed(network()) == {"0.weight"}
    assert transposed(nn.Linear(2, 2)) == frozenset()


def test_a_subclass_is_one_and_another_class_of_that_name_is_not() -> None:
    kind = type("Mine", (Conv1D,), {})
    other = type("Conv1D", (nn.Module,), {})()
    other.weight = nn.Parameter(torch.zeros(2, 2))
    assert transposed(kind(2, 3)) == {"weight"}
    assert not tb.prunable(other)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_turned_matrix_gets_the_turned_mask(pattern: str, scope: str) -> None:
    torch.manual_seed(0)
    upright = {"a": torch.rand(7, 4), "b": torch.rand(6, 5), "c": torch.rand(9, 2)}
    turned = {**upright, "b": upright["b"].t()}
    wanted = tb.select(upright, density=0.5, scope=scope, pattern=pattern)
    found = tb.select(turned, density=0.5, scope=scope, pattern=pattern, transposed={"b"})
    assert torch.equal(found["b"].t(), wanted["b"])
    assert torch.equal(found["a"], wanted["a"])
    assert found["b"].is_contiguous()
    nested = tb.select(turned, density=0.4, scope=scope, pattern=pattern, transposed={"b"}, candidates=found)
    assert nested.nested_in(found)


def test_groups_run_along_the_inputs() -> None:
    scores = torch.tensor([[1.0, 5.0], [2.0, 4.0]])  # of input 0 and 1 for both outputs: 1 and 2, 5 and 4
    assert tb.select({"w": scores}, pattern="1:2", transposed=["w"])["w"].tolist() == [[False, True], [True, False]]
    assert tb.select({"w": scores}, pattern="1:2")["w"].tolist() == [[False, True], [False, True]]


def test_norms_of_inputs_lie_along_the_inputs() -> None:
    x = torch.randn(6, 8)
    norms = input_norms(network(), [(x, torch.zeros(6))], ["0.weight", "2.weight"])
    assert norms["0.weight"].shape == (8, 1)
    torch.testing.assert_close(norms["0.weight"].view(-1), x.norm(dim=0))


def test_what_cannot_turn_it_refuses_patterns_of_several_weights() -> None:
    with pytest.raises(TombolaError, match=r"'0\.weight' is stored as"):
        tb.attach(network(), tb.TopK(0.5, pattern="block:2"))
    groups = tb.attach(network(), tb.TopK(0.5, pattern="block:2"), exclude=["0.*"])
    assert len(groups.scores) == 1


def test_fans_of_a_turned_matrix_are_turned() -> None:
    linear, conv1d = nn.Linear(3, 50), Conv1D(50, 3)
    assert fans(conv1d.weight, transposed=True) == fans(linear.weight) == (3.0, 50.0)
    begun = [
        start_scores("signed_constant", "w", weight.detach(), 0, turned).abs().max()
        for weight, turned in ((linear.weight, False), (conv1d.weight, True))
    ]
    assert begun[0] == begun[1] == pytest.approx(math.sqrt(2 / 3))


@pytest.mark.parametrize("scheme", ["signed_constant", "xavier_constant", "torch_default", "kaiming_normal"])
def test_it_is_initialised_as_the_linear_layer_that_it_is(scheme: str) -> None:
    linear, conv1d = nn.Linear(300, 20), Conv1D(20, 300)
    with torch.no_grad():
        conv1d.bias.fill_(9.0)
    assert initialise_(linear, scheme, 3) == initialise_(conv1d, scheme, 3) == ()
    sizes = [layer.weight.detach().abs().reshape(-1).sort().values for layer in (linear, conv1d)]
    assert torch.equal(*sizes)  # the same draws, in another order
    assert torch.equal(linear.bias, conv1d.bias)


def test_it_is_held() -> None:
    model = network()
    keep: dict[str, Tensor] = {"0.weight": torch.rand(8, 5) < 0.5}
    with tb.hold(model, keep):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model(torch.randn(4, 8)).square().sum().backward()
        optimizer.step()
        assert torch.equal(model[0].weight != 0, keep["0.weight"])
