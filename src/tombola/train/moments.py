"""What an optimiser remembers of pruned weights is cleared: nothing reads it, and it slows every step."""

from __future__ import annotations

from tombola.hold.moments import clear_moments
from tombola.mask import Mask
from tombola.train.hooks import Hook
from tombola.train.state import Loop


class ClearPruned(Hook):
    """Sets the optimiser's state of pruned weights to 0 whenever training begins, is rewound or resumed."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    def on_start(self, loop: Loop) -> None:
        clear_moments(loop.optimizer, loop.model, self.mask)
