"""What detectors look at that is no mask: how far weights have moved, and how like the dense network a network is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from tombola.data.probe import some_batch
from tombola.data.splits import Splits
from tombola.data.task import Loss
from tombola.nn.forward import Batch, leaves, typed, widened
from tombola.nn.modes import in_mode
from tombola.parameters import holders, parameters_by_name

if TYPE_CHECKING:
    from tombola.train.state import Loop

EXAMPLES = 500
"""Of the validation split, its first ones: the batch that networks are compared on."""

Likeness: TypeAlias = Callable[[nn.Module, Batch, Loss, Mapping[str, Tensor]], Tensor]
"""A number per layer, float64 on the CPU, of (network, batch, loss, mask)."""


def displacement(values: Callable[[Loop], Mapping[str, Tensor]]) -> Callable[[Loop, dict[str, Tensor]], float]:
    """||theta_1 - theta|| / ||theta_1||, theta_1 being `values` when it is first read (EarlyCroP); sums are float64."""

    def measure(loop: Loop, memory: dict[str, Tensor]) -> float:
        present = {name: value.detach().to("cpu", copy=True) for name, value in values(loop).items()}
        if not memory:
            memory.update(present)
        moved = sum(_squares(memory[name].double() - value.double()) for name, value in present.items())
        whole = sum(_squares(first.double()) for first in memory.values())
        return float((moved / whole) ** 0.5) if whole else float("nan")

    return measure


def unlikeness(
    likeness: Likeness, reference: nn.Module, full: Mapping[str, Tensor], mask: Mapping[str, Tensor], splits: Splits
) -> Callable[[Loop, dict[str, Tensor]], float]:
    """The Euclidean distance of the network's `likeness` under `mask` from that of `reference` under `full`."""
    batch = some_batch(splits, EXAMPLES)
    wanted = likeness(reference, batch, splits.task.loss, full)

    def measure(loop: Loop, memory: dict[str, Tensor]) -> float:
        present = likeness(loop.model, batch, splits.task.loss, mask)
        return float(torch.linalg.vector_norm(present - wanted))

    return measure


def mean_correlations(model: nn.Module, batch: Batch, loss: Loss, mask: Mapping[str, Tensor]) -> Tensor:
    """For every layer and the next, the mean over all pairs of their outputs' channels of Pearson's correlation.

    In evaluation mode, over the examples of the batch; a channel's value is its mean over the positions of an image. As
    in InfCoP's code it is the mean of signed correlations, of convolutions and linear layers before their activation;
    the next layer is the one that computes next. A channel that does not vary has correlation 0.

    Returns:
        float64 (layers - 1,).
    """
    owners = {id(owner): owner for owner in _owners(model, mask).values()}
    found: list[Tensor] = []
    seen: set[int] = set()

    def note(layer: nn.Module, _: object, output: Tensor) -> None:
        if id(layer) not in seen:
            seen.add(id(layer))
            found.append(_standardised(output, isinstance(layer, nn.Linear)))

    hooks = [owner.register_forward_hook(note) for owner in owners.values()]
    try:
        with torch.no_grad(), in_mode(model, train=False):
            model(_on_device(model, batch)[0])
    finally:
        for hook in hooks:
            hook.remove()
    # the mean over pairs of z_i z_j is the product of the means over channels
    pairs = pairwise(found)
    return (
        torch.stack([(a * b).mean() for a, b in pairs]).cpu()
        if len(found) > 1
        else torch.zeros(0, dtype=torch.float64, device="cpu")
    )


def mean_gradients(model: nn.Module, batch: Batch, loss: Loss, mask: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean norm of the loss's gradient by the kept weights of every layer, from a real backward pass.

    In evaluation mode, of the mean loss over the batch; the gradients of the training are left as they are. InfCoP's
    code asks for gradients without a backward pass; which norm it means is not said, so that this one is ours.

    Returns:
        float64 (layers,).
    """
    weights = {name: weight for name, weight in parameters_by_name(model).items() if name in mask}
    learns = [weight.requires_grad for weight in weights.values()]
    x, y = _on_device(model, batch)
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad(), in_mode(model, train=False):
            value = loss(widened(model(x)), y)
            gradients = torch.autograd.grad(value, list(weights.values()), materialize_grads=True)
    finally:
        for weight, learn in zip(weights.values(), learns, strict=True):
            weight.requires_grad_(learn)
    kept = (gradient * mask[name].to(gradient) for name, gradient in zip(weights, gradients, strict=True))
    return torch.stack([torch.linalg.vector_norm(gradient.double()) for gradient in kept]).cpu()


LIKENESS: Mapping[str, Likeness] = {"correlation": mean_correlations, "gradient": mean_gradients}


def _squares(values: Tensor) -> float:
    return float(values.square().sum())


def _standardised(output: Tensor, channels_last: bool) -> Tensor:
    """(N,): the mean over the channels of each one's value, less its mean, over its standard deviation; float64."""
    values = leaves(output)[0].detach().double()
    if values.dim() > 2:
        values = (values if channels_last else values.movedim(1, -1)).flatten(1, -2).mean(1)
    centred = values - values.mean(0)
    spread = centred.square().mean(0).sqrt()
    return (centred / spread.clamp(min=1e-12)).mean(1)


def _owners(model: nn.Module, names: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """The layer of every weight."""
    there = holders(model)
    return {name: there[name][0][0] for name in names}


def _on_device(model: nn.Module, batch: Batch) -> Batch:
    device = next(model.parameters()).device
    x, y = next(typed([batch], model))
    return x.to(device), y.to(device)
