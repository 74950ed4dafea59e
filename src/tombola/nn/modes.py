"""Networks in training or evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
