"""What an optimiser remembers of pruned weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tombola.hold.masking import Pruned
from tombola.parameters import parameters_by_name

__all__ = ["clear_moments"]


@torch.no_grad()
def clear_moments(optimizer: Optimizer, model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Set momentum and second moments of pruned weights to 0, in place.

    A pruned weight has no gradient, so what an optimiser remembers of it decays step by step, until it is subnormal
    numbers, and stays. Arithmetic on these takes a CPU about ten times as long. Only floating-point tensors of the
    weight's own shape are cleared: what an optimiser shares between weights stays.
    """
    weights = parameters_by_name(model, tied=True)
    for name, keep in mask.items():
        state = optimizer.state.get(weights[name], {}) if name in weights else {}
        for value in state.values():
            if isinstance(value, Tensor) and value.shape == keep.shape and value.is_floating_point():
                Pruned(keep).write(value)
