"""What a learned mask does while its network trains: refresh, log, change density, rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from tombola.supermask.attach import layers, refresh, set_rule
from tombola.supermask.rules import MaskRule
from tombola.train.hooks import Hook

if TYPE_CHECKING:
    from tombola.train.state import Loop


class Refresh(Hook):
    """New masks after every step of the optimiser."""

    def after_step(self, loop: Loop) -> None:
        refresh(loop.model)


class LogUtilisation(Hook):
    """The density of every layer's mask at each evaluation: [{"step": .., "densities": {layer: density}}]."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def after_eval(self, loop: Loop) -> None:
        masks = {layer.name: layer.supermask.mask for layer in layers(loop.model)}
        densities = {name: int(torch.count_nonzero(mask)) / mask.numel() for name, mask in masks.items()}
        self.rows.append({"step": loop.step, "densities": densities})

    def state_dict(self) -> Mapping[str, Any]:
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = list(state["rows"])


class Anneal(Hook):
    """The mask rule as a function of the step; goes before `Refresh`."""

    def __init__(self, rule: Callable[[int], MaskRule]) -> None:
        self.rule = rule

    def on_start(self, loop: Loop) -> None:
        set_rule(loop.model, self.rule(loop.step))
        if loop.step == 0:
            refresh(loop.model)

    def after_step(self, loop: Loop) -> None:
        set_rule(loop.model, self.rule(loop.step))


class Phases(Hook):
    """Which parameters learn at a step: scores and weights (with all the rest that is trained) by turns.

    Args:
        learns: step -> (scores learn, weights learn)
    """

    def __init__(self, learns: Callable[[int], tuple[bool, bool]]) -> None:
        self.learns = learns
        self._scores: list[torch.nn.Parameter] = []
        self._weights: list[torch.nn.Parameter] = []

    def on_start(self, loop: Loop) -> None:
        self._scores = [layer.supermask.scores for layer in layers(loop.model)]
        ours = {id(p) for p in self._scores}
        every = [p for group in loop.optimizer.param_groups for p in group["params"]]
        self._weights = [p for p in every if id(p) not in ours]

    def before_step(self, loop: Loop) -> None:
        for parameters, learn in zip((self._scores, self._weights), self.learns(loop.step), strict=True):
            if parameters and parameters[0].requires_grad != learn:
                for parameter in parameters:
                    parameter.requires_grad_(learn)


class MaskDecay(Hook):
    """Adds strength·d(sum of sigmoid(s))/ds to the scores' gradients: a pressure towards sparser masks."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def after_backward(self, loop: Loop) -> None:
        for layer in layers(loop.model):
            scores = layer.supermask.scores
            if scores.grad is not None:
                p = torch.sigmoid(scores.detach())
                scores.grad.add_(p * (1 - p), alpha=self.strength)
