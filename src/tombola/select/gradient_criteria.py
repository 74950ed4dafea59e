"""Criteria of gradients and of a layer's inputs: what a few training batches, or none, say of every weight.

w_i is the initial weight, w_f the final one, both under the mask so far. How many batches is the context's
`criterion_batches`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.parameters import parameters_by_name
from tombola.select.context import Context

__all__ = ["grad", "grasp", "snip", "synflow", "taylor", "wanda"]


def grad(context: Context) -> dict[str, Tensor]:
    """|g|, g the training loss's gradient at w_i (a control of Zhou et al. 2019)."""
    gradients = context.gradients("initial")
    return {name: gradients[name].detach().abs() for name in context.final}


def snip(context: Context) -> dict[str, Tensor]:
    """|g·w_i|, g at w_i: how much the loss depends on a weight's presence, to first order (Lee et al. 2019)."""
    gradients = context.gradients("initial")
    return {name: (gradients[name] * context.initial[name]).detach().abs() for name in context.final}


def taylor(context: Context) -> dict[str, Tensor]:
    """|g·w_f|, g at w_f: the same of the trained network (Molchanov et al. 2019 rank by its square)."""
    gradients = context.gradients("final")
    return {name: (gradients[name] * context.final[name]).detach().abs() for name in context.final}


def grasp(context: Context, temperature: float = 200.0) -> dict[str, Tensor]:
    """w_i·(Hg), g and H at w_i: the gradient's |g|²/2 falls by this, to first order, when the weight goes.

    Kept is what the gradient's norm depends on. Wang et al. 2020 write -w·Hg and prune the largest; they divide the
    outputs by a temperature of 200 before the loss, as is done here.
    """
    products = context.hessian_gradients("initial", temperature=temperature)
    return {name: (products[name] * context.initial[name]).detach() for name in context.final}


def wanda(context: Context) -> dict[str, Tensor]:
    """|w_f|·‖x‖, x the feature of the layer's inputs that the weight multiplies (Sun et al. 2024)."""
    norms = context.input_norms("final")
    return {name: w.detach().abs() * norms[name].to(w) for name, w in context.final.items()}


def synflow(context: Context) -> dict[str, Tensor]:
    """|w_i|·dR/d|w_i|, R the sum of all outputs for one input of ones, every parameter by its magnitude.

    Synaptic flow (Tanaka et al. 2020), without data: norms in evaluation mode, in float64. One pass; the paper prunes
    in 100 small ones.
    """
    network, ((x, _), *_) = context.network("initial").eval().double(), context.batches(1)
    weights = parameters_by_name(network)
    with torch.enable_grad():
        for weight in filter(torch.is_floating_point, weights.values()):
            weight.requires_grad_(True).data.abs_()
        ones = torch.ones_like(x[:1], dtype=torch.float64 if x.is_floating_point() else x.dtype)
        one_tensor(network(ones), "synflow").sum().backward()  # type: ignore[no-untyped-call]
    return {name: flow(weights[name], name) for name in context.final}


def one_tensor(output: object, whose: str) -> Tensor:
    """A network's output; TombolaError if it is not one tensor with a gradient."""
    if not isinstance(output, Tensor) or not output.requires_grad:
        raise TombolaError(f"{whose} needs a network that gives one tensor with a gradient; choose another criterion")
    return output


def flow(weight: Tensor, name: str) -> Tensor:
    """The weight times its gradient; TombolaError if it has none."""
    if weight.grad is None:
        raise TombolaError(f"no flow reaches {name!r}; leave it out with exclude, or choose another criterion")
    return weight.detach() * weight.grad
