"""Supermasks taken off again: their effect made permanent, or dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from tombola.fields import checked
from tombola.mask import Mask
from tombola.parameters import unwrap
from tombola.supermask.attach import FROZEN_BY_US, ORDER
from tombola.supermask.layers import layers, named_layers
from tombola.supermask.masks import read, refresh, warn_if_stale
from tombola.supermask.parametrization import Supermask


@checked
def make_permanent(model: nn.Module) -> Mask:
    """Replace every masked weight by its effective value, take the supermasks off, and return the mask.

    Masks follow the present scores: a stochastic one becomes its p > 0.5 mask, and one that was not refreshed after the
    last step is refreshed, with a `StaleMaskWarning`, as the network was evaluated under another. The model is plain
    afterwards; what `attach` froze is trainable again. To train the weights on under the mask: `hold(model, mask)`.
    """
    warn_if_stale(model, "the mask made permanent is that of the present scores")
    refresh(model, sample=False)
    mask = read(model)
    with torch.no_grad():
        effective = [layer.supermask(layer.weight) for layer in layers(model)]
        for weight, value in zip(_detach(model), effective, strict=True):
            weight.copy_(value)
    return mask


@checked
def detach(model: nn.Module) -> None:
    """Take the supermasks off and leave the latent weights as they are, unmasked."""
    _detach(model)


def _detach(model: nn.Module) -> list[nn.Parameter]:
    """Take the parametrisations off; the latent weights, in the order of `layers`, trainable as they were."""
    masked = named_layers(model)
    bare = unwrap(model)
    parametrised = [
        (module, local)
        for module in bare.modules()
        if parametrize.is_parametrized(module)
        for local, chain in list(module.parametrizations.items())  # type: ignore[union-attr, operator]
        if isinstance(chain[0], Supermask)
    ]
    for module in {id(module): module for module, _ in parametrised}.values():
        _class_of_its_own(module)
    for module, local in parametrised:
        parametrize.remove_parametrizations(module, local, leave_parametrized=False)
    for module in bare.modules():
        _put_in_order(module._parameters, module.__dict__.pop(ORDER, ()))
    for layer in masked:
        layer.weight.requires_grad_(layer.supermask.was_trained)
    for module in bare.modules():
        for parameter in module.__dict__.pop(FROZEN_BY_US, []):
            parameter.requires_grad_(True)
    return [layer.weight for layer in masked]


def _put_in_order(parameters: dict[str, nn.Parameter | None], order: Sequence[str]) -> None:
    """The names of `order` as they follow there, then all others: an optimiser's state goes by position."""
    for name in [*(name for name in order if name in parameters), *(name for name in parameters if name not in order)]:
        parameters[name] = parameters.pop(name)


def _class_of_its_own(module: nn.Module) -> None:
    """Deep copies share the class that holds the parametrised weights; what is taken off here must stay there."""
    shared = type(module)
    own = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own)
