"""Hooks that add a term to the loss, and mask rules that are soft while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tombola.data.splits import make_splits
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.supermask.attach import attach
from tombola.supermask.layers import layers
from tombola.supermask.masks import final_masks, read, refresh
from tombola.supermask.rules import MaskRule
from tombola.train.hooks import Hook
from tombola.train.loop import train
from tombola.train.recipe import Recipe
from tombola.train.state import Loop


class SumOfSquares(Hook):
    """Adds half the squares of the only weight."""

    def training_loss(self, loop: Loop, x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
        assert len(x) == len(y) == len(output)
        return loss + 0.5 * loop.model.weight.square().sum()  # type: ignore[operator, union-attr]


def linear() -> nn.Module:
    model = nn.Linear(2, 2, bias=False)
    nn.init.constant_(model.weight, 0.5)
    return model


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_term_of_a_hook_is_differentiated_and_not_logged(accumulate: int) -> None:
    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    splits = make_splits((x, y), (x, y))
    recipe = Recipe(length="1it", batch_size=4, lr=0.1, momentum=0.0, accumulate=accumulate)
    model = linear()
    trained = train(model, splits, recipe, hooks=[SumOfSquares()])
    assert trained.state["weight"].flatten().tolist() == pytest.approx([0.45] * 4)  # inputs of 0 give no gradient
    assert trained.history[-1].train_loss == pytest.approx(0.6931472)
    assert trained.cost is None


class Odd(Hook):
    """Gives what is no loss."""

    def __init__(self, given: Callable[[Tensor], Any]) -> None:
        self.given = given

    def training_loss(self, loop: Loop, x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
        return self.given(loss)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (lambda loss: None, "a NoneType"),
        (lambda loss: loss.view(1), r"shape \(1,\)"),
        (lambda loss: loss.detach(), "a number without a gradient"),
    ],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_hook_that_gives_no_loss_is_named(given: Callable[[Tensor], Any], what: str, accumulate: int) -> None:
    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    recipe = Recipe(length="1it", batch_size=4, accumulate=accumulate)
    with pytest.raises(TombolaError, match=f"training_loss of hook Odd gives {what}"):
        train(linear(), make_splits((x, y), (x, y)), recipe, hooks=[Odd(given)])


@dataclass(frozen=True)
class Half(MaskRule):
    """Soft masks of sigmoid(s); what a ticket holds is s > 0."""

    values: ClassVar[torch.dtype] = torch.float32
    soft: ClassVar[bool] = True
    start: ClassVar[str | float] = 0.0

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        return (scores > 0).float()

    def write(self, layers: Any, sample: bool) -> None:
        for layer in layers:
            layer.mask.copy_(torch.sigmoid(layer.scores) if sample else self.mask(layer.scores))

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        return mask * (1 - mask)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        return {name: torch.where(mask[name], 1.0, -1.0) for name in scores}


@pytest.mark.parametrize("fused", [True, False])
def test_a_soft_mask_is_used_in_training_and_hard_where_it_is_read(fused: bool) -> None:
    model = linear()
    attach(model, Half(), fused=fused)
    (layer,) = layers(model)
    with torch.no_grad():
        layer.supermask.scores.copy_(torch.tensor([[0.0, 2.0], [-2.0, 1.0]]))
    refresh(model)
    soft = torch.sigmoid(layer.supermask.scores.detach())
    torch.testing.assert_close(model.weight, 0.5 * soft)
    model.weight.sum().backward()
    assert layer.supermask.scores.grad is not None
    torch.testing.assert_close(layer.supermask.scores.grad, 0.5 * soft * (1 - soft))
    assert read(model)["weight"].tolist() == [[False, True], [False, True]]
    torch.testing.assert_close(layer.supermask.mask, soft)  # reading has left it
    with final_masks(model):
        assert model.weight.tolist() == [[0.0, 0.5], [0.0, 0.5]]
    torch.testing.assert_close(model.weight, 0.5 * soft)


def test_a_step_of_training_passes_its_batch_forward() -> None:
    x, y = torch.zeros(10, 2), torch.tensor([0, 1] * 5)
    splits = make_splits((x, y), (x, y))
    trained = train(linear(), splits, Recipe(length="2ep", batch_size=4, lr=0.1), count_cost=True)
    assert trained.cost is not None
    assert trained.cost.forward_passes == 16  # two whole batches an epoch
