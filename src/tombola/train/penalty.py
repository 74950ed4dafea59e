"""A penalty on the weights that are trained: one more term of the loss, `penalty` and `strength` of the recipe.

Minimised is loss + strength · sum over layers of R(w), w the effective weight of a layer:

- l1: R = sum |w|. Its gradient is sign(w), 0 at 0.
- hoyer: R = (sum |w|)^2 / sum w^2 (DeepHoyer, Yang et al. 2020), between 1 and n for n weights, the same for w and c·w.
  Its gradient is 2S/Q·(sign(w) - S/Q·w) with S = sum |w|, Q = sum w^2: small weights shrink and large ones grow.

The gradient takes the way of the loss's own. Pruned weights that are held get none, and under a learned mask (joint
training) it reaches weights and scores by their straight-through rules, for kept weights alone: where w is 0, both are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError, in_short
from tombola.hold.keeper import held_at
from tombola.names import imported, is_import_path, unknown
from tombola.parameters import holders, prunable
from tombola.train.hooks import Hook
from tombola.train.recipe import Recipe

if TYPE_CHECKING:
    from tombola.train.state import Loop

Regulariser = Callable[[Tensor], Tensor]
"""A layer's effective weight -> one number, differentiable, to be made small."""


def l1(weight: Tensor) -> Tensor:
    """sum |w|."""
    return weight.abs().sum()


def hoyer(weight: Tensor) -> Tensor:
    """(sum |w|)^2 / sum w^2; 0, with gradient 0, for a layer of zeros."""
    squares = weight.square().sum()
    return weight.abs().sum().square() / squares.clamp(min=torch.finfo(squares.dtype).tiny)


PENALTIES: Mapping[str, Regulariser] = {"l1": l1, "hoyer": hoyer}


def regulariser(name: str) -> Regulariser:
    """The function of that name, or at that import path; TombolaError if there is none."""
    if name in tuple(PENALTIES):  # a name out of a mapping (retrain) may be anything
        return PENALTIES[name]
    if not isinstance(name, str) or not is_import_path(name):
        raise TombolaError(unknown("penalty", name, PENALTIES, ", or an import path such as package.module.function"))
    found: Regulariser = imported("penalty", name)
    if not callable(found):
        raise TombolaError(f"penalty {name!r} is a {type(found).__name__}, but it must be a function of a weight")
    return found


class Weight(NamedTuple):
    """A weight that is prunable by default: its parameter, and where a module computes with it."""

    name: str
    parameter: nn.Parameter
    module: nn.Module
    local: str

    def effective(self) -> Tensor:
        """What the module computes with, 0 where pruned; sums of half precision would end at 65,504."""
        weight: Tensor = getattr(self.module, self.local)
        for held in held_at(self.module, self.local):
            if held.value is not None:  # pruned weights held at other values than 0
                weight = torch.where(held.of(weight)[0], weight, 0.0)
        return weight.to(torch.promote_types(weight.dtype, torch.float32))


def penalised(model: nn.Module) -> list[Weight]:
    """Every weight that a penalty may be of; of tied ones, one. Only those that require a gradient have it."""
    owners = holders(model)
    return [Weight(name, parameter, *owners[name][0]) for name, parameter in prunable(model).items()]


class Penalty(Hook):
    """Adds strength · sum of R over the trained layers to the loss.

    Args:
        name: what R is called in messages
        regulariser: R
        strength: its factor
    """

    def __init__(self, name: str, regulariser: Regulariser, strength: float) -> None:
        self.name, self.regulariser, self.strength = name, regulariser, strength
        self._weights: list[Weight] = []

    def on_start(self, loop: Loop) -> None:
        """TombolaError unless R of every trained layer is a number with a gradient."""
        self._weights = penalised(loop.model)
        for weight, value in self._values():
            if not (value.requires_grad and bool(value.isfinite())):
                what = f"{float(value):g}" if value.requires_grad else "a number without a gradient"
                raise TombolaError(
                    f"penalty {self.name} gives {what} for {weight.name!r}; give a finite, differentiable number"
                )

    def training_loss(self, loop: Loop, x: Tensor, output: Any, y: Tensor, loss: Tensor) -> Tensor:
        """The loss with the penalty on what is trained in this step."""
        values = [value for _, value in self._values()]
        return loss + self.strength * torch.stack(values).sum() if values else loss

    def _values(self) -> Iterator[tuple[Weight, Tensor]]:
        for weight in self._weights:
            if weight.parameter.requires_grad:
                yield weight, self._value(weight)

    def _value(self, weight: Weight) -> Tensor:
        try:
            value = self.regulariser(weight.effective())
        except Exception as error:  # a user's own function may raise anything
            raise TombolaError(f"penalty {self.name} fails on {weight.name!r}: {in_short(error)}") from error
        if not isinstance(value, Tensor) or value.dim():
            form = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise TombolaError(f"penalty {self.name} gives {form} for {weight.name!r}; give a scalar tensor")
        return value


def penalties(recipe: Recipe) -> Sequence[Hook]:
    """The hook that the recipe asks for, or none."""
    if recipe.penalty is None:
        return ()
    return (Penalty(recipe.penalty, regulariser(recipe.penalty), recipe.strength),)
