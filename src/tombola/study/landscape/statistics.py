"""What can be said of a mask before training: loss, gradient and curvature of the masked network, signs, kernels.

All over what training would move: the kept weights, and every other parameter that wants a gradient. Norms hold the
statistics of the sample, dropout is off. With g the gradient of the mean loss, g_i that of example i's, w the weights:

    loss            mean loss
    gradient_norm   |g|
    eigenvalue      the largest of the Hessian
    trace           of the Hessian
    growing         share of the kept weights that the first step of gradient descent would move away from 0: g·w < 0
    sign_agreement  mean over kept weights of |mean over examples of sign(g_i)|: 1 where all examples agree
    gradsign        its sum, without the means: sum_k |sum_i sign(dl_i/dw_k)| (GradSign, Zhang & Jia 2022)
    ntk_sap, px     sums of these criteria's scores over the kept weights (`tombola.select.kernel_criteria`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.mask import Mask
from tombola.nn.forward import widened
from tombola.parameters import parameters_by_name
from tombola.rng.seeds import derive, generator
from tombola.select.context import Context, Criterion
from tombola.select.kernel_criteria import ntk_sap, px
from tombola.study.landscape.hessian import hessian_product, largest_eigenvalue, trace
from tombola.train.norms import take_statistics

KERNELS: Mapping[str, Criterion] = {"ntk_sap": ntk_sap, "px": px}
STATISTICS = (
    "loss",
    "gradient_norm",
    "eigenvalue",
    "trace",
    "growing",
    "sign_agreement",
    "gradsign",
    *KERNELS,
)
_AT_ONCE = 2**24
"""Numbers that the gradients of single examples hold at a time."""

Loss = Callable[[Any, Tensor], Tensor]


@checked
def statistics_of(
    model: nn.Module,
    mask: Mask,
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Loss,
    *,
    seed: int,
    probes: int = 16,
) -> dict[str, float | None]:
    """The statistics of a network under a mask, but for the kernels', over all examples of the batches at once.

    Args:
        model: on the CPU; its pruned weights are set to 0, and its norms take the batches' statistics.
        loss: (output, target) -> the mean over the examples.
        seed: of Lanczos' first vector and of the trace's probes.
    """
    mask.apply_(model)
    take_statistics(model, [x for x, _ in batches], seed)
    model.eval()
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    free = _Free.of(model, mask)
    start = free.values(model)

    def mean_loss(vector: Tensor, inputs: Tensor = x, targets: Tensor = y) -> Tensor:
        return loss(widened(functional_call(model, free.filled(model, vector), (inputs,))), targets)

    gradient, value = torch.func.grad_and_value(mean_loss)(start)
    product, weights = hessian_product(mean_loss, start), free.is_weight
    moving = (gradient * start)[weights]
    moving = moving[moving != 0]
    signs = _summed_signs(mean_loss, start, x, y)[weights].abs()
    draws = generator(seed, "lanczos")
    return {
        "loss": float(value),
        "gradient_norm": float(gradient.double().norm()),
        "eigenvalue": largest_eigenvalue(product, len(start), draws),
        "trace": trace(product, len(start), generator(seed, "hutchinson"), probes),
        "growing": float((moving < 0).double().mean()) if len(moving) else None,
        "sign_agreement": float(signs.double().mean()) / len(x) if len(signs) else None,
        "gradsign": float(signs.double().sum()),
    }


def kernels_of(context: Context) -> dict[str, float | None]:
    """The sums of NTK-SAP's and PX's scores over what the context's mask keeps; None where one does not work here."""
    values: dict[str, float | None] = {}
    for name, criterion in KERNELS.items():
        try:
            scores = criterion(context)
        except TombolaError:  # of other activations than ReLUs, of tokens
            values[name] = None
            continue
        mask = context.mask
        kept = (score if mask is None else score[mask[layer]] for layer, score in scores.items())
        values[name] = sum(float(score.double().sum()) for score in kept)
    return values


@dataclass(frozen=True)
class _Free:
    """What training moves, as one vector: `keep` (parameter name -> bool, in its shape) says which entries of it.

    `is_weight`: which entries of the vector are weights that the mask is over, bool (n,).
    """

    keep: Mapping[str, Tensor]
    is_weight: Tensor

    @classmethod
    def of(cls, model: nn.Module, mask: Mask) -> _Free:
        keep, weights = {}, []
        for name, parameter in parameters_by_name(model).items():
            if not parameter.requires_grad or not parameter.is_floating_point():
                continue
            keep[name] = mask[name].to("cpu") if name in mask else torch.ones_like(parameter, dtype=torch.bool)
            weights.append(torch.full((int(keep[name].sum()),), name in mask, device="cpu"))
        return cls(keep, torch.cat(weights))

    def values(self, model: nn.Module) -> Tensor:
        """The vector at the model's weights."""
        parameters = parameters_by_name(model)
        return torch.cat([parameters[name].detach()[keep] for name, keep in self.keep.items()])

    def filled(self, model: nn.Module, vector: Tensor) -> dict[str, Tensor]:
        """The parameters with the vector's values; what is pruned is 0."""
        made, at = {}, 0
        for name, keep in self.keep.items():
            count = int(keep.sum())
            index = keep.flatten().nonzero().flatten()
            zeros = vector.new_zeros(keep.numel())
            made[name] = zeros.index_put((index,), vector[at : at + count]).view(keep.shape)
            at += count
        return made


def _summed_signs(mean_loss: Callable[..., Tensor], start: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """sum_i sign(dl_i/dw_k) for every entry of the vector, example by example (vmap, in parts that fit)."""
    one = torch.func.grad(lambda vector, a, b: mean_loss(vector, a[None], b[None]))
    part = max(1, _AT_ONCE // max(1, len(start)))
    total = torch.zeros_like(start)
    for inputs, targets in zip(torch.split(x, part), torch.split(y, part), strict=True):
        try:
            gradients = torch.func.vmap(one, in_dims=(None, 0, 0))(start, inputs, targets)
        except (RuntimeError, NotImplementedError):  # a network that vmap cannot go through
            gradients = torch.stack([one(start, a, b) for a, b in zip(inputs, targets, strict=True)])
        total += gradients.sign().sum(0)
    return total


def sample_seed(seed: int) -> int:
    """The seed of the draws that statistics take, the same for all masks of one network."""
    return derive(seed, "statistics")


def draws_for(seed: int, number: int) -> Generator:
    """A generator of its own for a mask."""
    return generator(seed, "kernels", number)
