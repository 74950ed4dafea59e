"""In which precision a network trains and is evaluated: float32, bfloat16 autocast, or 8-bit block floating point.

The last is that of SWALP (Yang et al. 2019) without its averaging, which You et al. 2020 search early-bird tickets in:
weights, activations, their gradients, the weights' gradients and momentum have 8 bits, rounded stochastically, and no
copy of the weights in more bits is kept. The products themselves, norms, the loss and the optimiser's arithmetic are
float32: what is simulated is the numbers, not the speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tombola.nn.block_float import low_precision_operands, quantise
from tombola.rng.seeds import derive
from tombola.train.hooks import Hook
from tombola.train.recipe import Recipe
from tombola.train.state import Loop

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MOMENTUM = ("momentum_buffer", "exp_avg")
"""What torch's optimisers call it. Adam's second moments stay: rounded to 0 they would make steps of any size."""


def forward_precision(recipe: Recipe, fabric: Fabric, model: nn.Module) -> AbstractContextManager[Any]:
    """The recipe's precision, for a forward pass of `model` in evaluation mode."""
    if recipe.precision == "bfp8":
        return low_precision_operands(model)
    return fabric.autocast() if recipe.precision == "bf16-mixed" else nullcontext()


@contextmanager
def training_precision(loop: Loop) -> Iterator[Hook]:
    """The hook that keeps a run in the recipe's precision: last after the backward pass, first after the step."""
    if loop.recipe.precision != "bfp8":
        yield Hook()
        return
    generator = torch.Generator(loop.device)
    with low_precision_operands(loop.model, generator):
        yield BlockFloat(generator)


class BlockFloat(Hook):
    """Gradients, momentum and all that the optimiser trains (norms and biases too) in 8 bits, rounded stochastically.

    Draws depend on the run's seed, the step and the order within it alone, so that there is nothing to checkpoint.
    Weights begin as they are given, and have 8 bits from the first step on.

    Args:
        generator: on the loop's device; activations and their gradients may draw from it in between
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def before_step(self, loop: Loop) -> None:
        rank = loop.ranks.rank
        self.generator.manual_seed(derive(loop.seed, "rounding", loop.step, *([rank] if rank else [])))

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> None:
        if loop.ranks.size > 1:  # activations have drawn for each rank's own examples; weights must stay alike
            self.generator.manual_seed(derive(loop.seed, "rounding", loop.step, "together"))
        for weight in _trained(loop):
            if weight.grad is not None:
                weight.grad.copy_(quantise(weight.grad, generator=self.generator))

    @torch.no_grad()
    def after_step(self, loop: Loop) -> None:
        for weight in _trained(loop):
            for name in _MOMENTUM:
                momentum = loop.optimizer.state.get(weight, {}).get(name)
                if momentum is not None:
                    momentum.copy_(quantise(momentum, generator=self.generator))
            if weight.requires_grad:
                weight.copy_(quantise(weight, generator=self.generator))


def _trained(loop: Loop) -> Iterator[nn.Parameter]:
    yield from (p for group in loop.optimizer.param_groups for p in group["params"] if p.is_floating_point())
