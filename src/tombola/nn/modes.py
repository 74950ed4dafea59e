"""Networks in training or evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from tombola.nn.init import NORMS


def only_norms_train(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, but its norms in training mode, in which those with statistics take the batch's."""
    model.eval()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.train()
    return model


@contextmanager
def in_mode(model: nn.Module, *, train: bool) -> Iterator[None]:
    """Training or evaluation mode; afterwards every module is in the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.train(train)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
