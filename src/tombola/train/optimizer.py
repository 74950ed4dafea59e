"""Optimisers by name, fused where torch has a fused kernel (about three times faster on small networks)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tombola.errors import TombolaError, in_short
from tombola.names import imported, is_import_path, unknown
from tombola.train.recipe import Recipe

ParamGroups = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


def build_optimizer(parameters: ParamGroups, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over parameters or parameter groups; a group may set its own `lr` and so on.

    Every group keeps its peak learning rate as `initial_lr`; the loop sets `lr` from it before each step.
    """
    groups = list(parameters)
    if not groups:
        raise TombolaError("the network has no parameter to train; unfreeze some, or choose another network")
    kind, settings = _kind(recipe)
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **settings, fused=True)
    except Exception:  # no fused kernel for this optimiser, device or dtype
        try:
            optimizer = kind(groups, **settings)
        except Exception as error:  # of a user's own it may be anything
            raise TombolaError(
                f"optimizer {recipe.optimizer!r} does not take {', '.join(settings)} ({in_short(error)}); "
                "choose another"
            ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TombolaError(f"optimizer {recipe.optimizer!r} gave a {type(optimizer).__name__}, not a torch optimiser")
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient."""
    return [p for p in model.parameters() if p.requires_grad]


OPTIMIZERS: Mapping[str, tuple[type[torch.optim.Optimizer], tuple[str, ...]]] = {
    "sgd": (torch.optim.SGD, ("momentum", "nesterov")),
    "adam": (torch.optim.Adam, ()),
    "adamw": (torch.optim.AdamW, ()),
}
"""Name -> class, and the recipe's fields that it takes besides the learning rate and weight decay."""


def is_foreign(recipe: Recipe) -> bool:
    """Whether the recipe names its optimiser by import path."""
    return recipe.optimizer not in OPTIMIZERS


def optimizer_class(recipe: Recipe) -> Any:
    """The class of the recipe's optimiser.

    Raises:
        TombolaError: no optimiser has that name, and nothing lies at that import path.
    """
    if not is_foreign(recipe):
        return OPTIMIZERS[recipe.optimizer][0]
    if not is_import_path(recipe.optimizer):
        more = ", or the import path of an optimiser class such as torch.optim.RMSprop"
        raise TombolaError(unknown("optimizer", recipe.optimizer, OPTIMIZERS, more))
    optimizer = imported("optimizer", recipe.optimizer)
    if not callable(optimizer) or (isinstance(optimizer, type) and not issubclass(optimizer, torch.optim.Optimizer)):
        what = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else f"a {type(optimizer).__name__}"
        raise TombolaError(f"optimizer {recipe.optimizer!r} is {what}; name a torch optimiser's class")
    return optimizer


def _kind(recipe: Recipe) -> tuple[Any, Mapping[str, Any]]:
    more = () if is_foreign(recipe) else OPTIMIZERS[recipe.optimizer][1]
    return optimizer_class(recipe), {name: getattr(recipe, name) for name in ("lr", "weight_decay", *more)}
