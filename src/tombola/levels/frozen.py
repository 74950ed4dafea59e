"""A part of a learned mask that stays as it is drawn at random, so that a file need not hold it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tombola.supermask.layers import layers
from tombola.supermask.masks import refresh
from tombola.ticket.frozen import FrozenPart
from tombola.train.hooks import Hook
from tombola.train.state import Loop

FIRST = 1e30
"""The score of a weight that is kept for good, above all that are learned."""


def drawn_parts(model: nn.Module, seed: int, share: float, density: float, spared: set[str]) -> dict[str, FrozenPart]:
    """The frozen part of every masked layer's mask, but for those of `spared` names."""
    return {
        layer.name: FrozenPart.of(seed, layer.name, layer.weight.numel(), share, density)
        for layer in layers(model)
        if layer.name not in spared
    }


class HoldFrozen(Hook):
    """Frozen weights stay kept, or pruned, under a rule that keeps the largest |scores|: they get no gradient.

    Goes before `Refresh`.
    """

    def __init__(self, parts: Mapping[str, FrozenPart]) -> None:
        self.parts = parts
        self._drawn: dict[str, tuple[Tensor, Tensor]] = {}

    def on_start(self, loop: Loop) -> None:
        self.hold(loop.model)

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> None:
        for scores, kept, pruned in self._scores(loop.model):
            if scores.grad is not None:
                scores.grad.masked_fill_(kept, 0).masked_fill_(pruned, 0)

    def after_step(self, loop: Loop) -> None:
        self.hold(loop.model)

    @torch.no_grad()
    def hold(self, model: nn.Module) -> None:
        """Set the scores of all frozen weights."""
        for scores, kept, pruned in self._scores(model):
            scores.masked_fill_(kept, FIRST).masked_fill_(pruned, 0)

    def _scores(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor, Tensor]]:
        held = [(layer.name, layer.supermask.scores) for layer in layers(model) if layer.name in self.parts]
        return [(scores, *self._states(name, scores)) for name, scores in held]

    def _states(self, name: str, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Where weights are frozen and kept, and frozen and pruned."""
        if name not in self._drawn:
            drawn = torch.from_numpy(self.parts[name].drawn(scores.numel())).view(scores.shape).to(scores.device)
            self._drawn[name] = drawn > 0, drawn < 0
        return self._drawn[name]


def freeze(model: nn.Module, parts: Mapping[str, FrozenPart]) -> HoldFrozen:
    """Freeze these parts of an attached model's masks now; what keeps them so while it trains."""
    held = HoldFrozen(parts)
    held.hold(model)
    refresh(model)
    return held
