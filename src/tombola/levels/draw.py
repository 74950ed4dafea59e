"""What runs while a ticket of channels is searched for: pressure on the norms' scales, and the moment it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from tombola.nn.init import NORMS
from tombola.train.checkpoint import Snapshot
from tombola.train.hooks import Hook
from tombola.train.snapshots import snapshot

if TYPE_CHECKING:
    from tombola.levels.stability import WatchMasks
    from tombola.train.state import Loop


class ScalePressure(Hook):
    """Adds strength·sign(scale) to the gradient of every norm's scale: the subgradient of an L1 penalty on them.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming".
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> None:
        for module in loop.model.modules():
            scale = module.weight if isinstance(module, NORMS) else None
            if scale is not None and scale.grad is not None:
                scale.grad.add_(scale.sign().to(scale.grad.dtype), alpha=self.strength)


class Draw(Hook):
    """Keeps the state at the moment at which the ticket is drawn; goes after the hook that watches.

    Args:
        watch: the ticket is drawn when its mask has become stable, or else at the end of the training.
        at: the iteration at which it is drawn instead, whatever the mask does.
        stop: whether the training ends there.
    """

    def __init__(self, watch: WatchMasks, at: int | None, *, stop: bool) -> None:
        self.watch, self.at, self.stop = watch, at, stop
        self.drawn: Snapshot | None = None

    def after_step(self, loop: Loop) -> None:
        if self.drawn is not None or not (loop.step == loop.total or self._is_due(loop)):
            return
        self.drawn = replace(snapshot(loop, ()), hooks=())
        if self.stop and loop.step < loop.total:
            loop.stop(loop.stopped or f"ticket drawn at iteration {loop.step:,}")

    def _is_due(self, loop: Loop) -> bool:
        if self.at is not None:
            return loop.step == self.at
        return loop.step % loop.steps_per_epoch == 0 and self.watch.emerged == loop.step

    def state_dict(self) -> Mapping[str, Any]:
        drawn = self.drawn
        if drawn is None:
            return {}
        return {
            "step": drawn.step,
            "model": drawn.model,
            "optimizer": dict(drawn.optimizer),
            "generators": list(drawn.generators),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = None
        if state:
            self.drawn = Snapshot(state["step"], state["model"], state["optimizer"], (), tuple(state["generators"]))
