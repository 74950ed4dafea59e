"""A model's effective weights as plain parameters, whatever is attached to it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from tombola.compact.compare import outputs
from tombola.errors import TombolaError
from tombola.hold import release


def plain_copy(model: nn.Module, example: Sequence[Tensor]) -> nn.Module:
    """A copy in eval mode without parametrisations and torch.nn.utils.prune masks: its parameters are the effective
    weights.

    The model is called once, in eval mode: a held mask is enforced by a call, if the weights were changed since.

    Raises:
        TombolaError: it is no module, or cannot run on the example.
    """
    if not isinstance(model, nn.Module):
        raise TombolaError(f"{type(model).__name__} cannot be deployed; give a Ticket or an nn.Module")
    outputs(model, example)
    with torch.no_grad():
        plain = copy.deepcopy(model).eval()
        release(plain)
        _bake(plain)
    return plain


def _bake(model: nn.Module) -> None:
    """Not by parametrize.remove_parametrizations: a copy shares its class with the model, and that would break it."""
    made: dict[int, nn.Parameter] = {}  # parametrisation -> parameter: tied weights stay tied
    for module in [module for module in model.modules() if parametrize.is_parametrized(module)]:
        for name, chain in module.parametrizations.items():  # type: ignore[union-attr, operator]
            if id(chain) not in made:
                made[id(chain)] = nn.Parameter(getattr(module, name).detach().clone(), requires_grad=False)
        chains = dict(module.parametrizations.items())  # type: ignore[union-attr, operator]
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module.parametrizations
        for name, chain in chains.items():
            module.register_parameter(name, made[id(chain)])
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
