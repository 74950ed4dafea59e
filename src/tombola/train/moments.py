"""What an optimiser remembers of pruned weights is cleared: nothing reads it, and it slows every step.

A pruned weight has no gradient, so the momentum and moments that it had at a rewind point decay step by step, until
they are subnormal numbers, and stay. Arithmetic on these takes a CPU about ten times as long.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.parameters import parameters_by_name
from tombola.train.hooks import Hook
from tombola.train.state import Loop


class ClearPruned(Hook):
    """Sets the optimiser's state of pruned weights to 0 whenever training begins, is rewound or resumed.

    Only tensors of the weight's own shape are cleared: what an optimiser shares between weights stays.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    def on_start(self, loop: Loop) -> None:
        weights = parameters_by_name(loop.model)
        for name, keep in self.mask.items():
            state = loop.optimizer.state.get(weights[name], {}) if name in weights else {}
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == keep.shape:
                    with torch.no_grad():
                        value.masked_fill_(~keep.to(value.device), 0)
