"""Whether a mask leaves a path, whatever the network returns and in whatever precision it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tombola.mask import Mask
from tombola.parameters import prunable
from tombola.train.connectivity import is_cut

torch.manual_seed(0)
X = torch.randn(6, 4)


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda scores: scores,
    "tuple": lambda scores: (scores, None),
    "dict with a number of the batch": lambda scores: {"loss": scores.mean(), "out": scores},
    "dataclass": lambda scores: Answer(scores, scores.sum()),
    "two heads": lambda scores: [scores, scores * 2],
}


class Network(nn.Module):
    def __init__(self, form: Callable[[Tensor], Any] = FORMS["tensor"]) -> None:
        super().__init__()
        self.first, self.last, self.form = nn.Linear(4, 6), nn.Linear(6, 2), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.last(self.first(x).relu()))


def whole(model: nn.Module) -> Mask:
    return Mask.full(prunable(model))


def apart(model: nn.Module) -> Mask:
    """Half of the hidden units are reached, the other half are read: no layer is empty, and nothing meets."""
    mask = {name: kept.clone() for name, kept in whole(model).items()}
    mask["first.weight"][3:] = False
    mask["last.weight"][:, :3] = False
    return Mask(mask)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_cut_is_seen_in_outputs_of_every_form(form: str, dtype: torch.dtype) -> None:
    model = Network(FORMS[form]).to(dtype)
    assert not is_cut(model, whole(model), X)
    assert is_cut(model, apart(model), X)
    assert model.first.weight.dtype == dtype


def test_an_output_without_examples_is_not_judged() -> None:
    model = Network(lambda scores: {"loss": scores.mean()})
    assert not is_cut(model, apart(model), X)


class OfItsOwn(nn.Module):
    """Makes its first state in single precision, so that it does not run in double."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(4, 6), nn.GRUCell(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.cell(self.first(x), torch.zeros(len(x), 6)))
        return out


def test_a_forward_in_a_dtype_of_its_own_is_judged_in_it() -> None:
    model = OfItsOwn()
    assert not is_cut(model, whole(model), X)
    mask = {name: kept.clone() for name, kept in whole(model).items()}
    mask["first.weight"][:] = False
    assert is_cut(model, Mask(mask), X)
