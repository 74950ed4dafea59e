"""What a learned mask does while its network trains: refresh, log, change density, rest, redraw, freeze out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tombola.mask import Mask
from tombola.nn.modes import only_norms_train
from tombola.results.trial import Utilisation
from tombola.rng import philox
from tombola.rng.seeds import derive
from tombola.select.select import select
from tombola.supermask.layers import layers
from tombola.supermask.masks import finalize_masks, refresh, set_rule
from tombola.supermask.rules import MaskRule
from tombola.train.hooks import Hook

if TYPE_CHECKING:
    from tombola.train.state import Loop


class Refresh(Hook):
    """New masks after every step of the optimiser; drawn ones are reported as their p > 0.5 masks."""

    stacks = True

    def after_step(self, loop: Loop) -> None:
        refresh(loop.model)

    def before_eval(self, loop: Loop) -> Callable[[], None]:
        return finalize_masks(loop.model)


class OnlyNormsTrain(Hook):
    """Trains the network in evaluation mode (nothing is dropped), but its norms by the statistics of each batch."""

    def before_step(self, loop: Loop) -> None:
        only_norms_train(loop.model)


class LogUtilisation(Hook):
    """The density of every layer's mask at each evaluation."""

    def __init__(self) -> None:
        self.rows: list[Utilisation] = []

    def after_eval(self, loop: Loop) -> None:
        masks = {layer.name: layer.supermask.mask for layer in layers(loop.model)}
        densities = {name: int(torch.count_nonzero(mask)) / mask.numel() for name, mask in masks.items()}
        self.rows.append(Utilisation(step=loop.step, densities=densities))

    def state_dict(self) -> Mapping[str, Any]:
        return {"rows": [{"step": row.step, "densities": row.densities} for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = [Utilisation(**row) for row in state["rows"]]


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
        scores = {id(p) for p in self._scores}
        every = [p for group in loop.optimizer.param_groups for p in group["params"]]
        self._weights = [p for p in every if id(p) not in scores]

    def before_step(self, loop: Loop) -> None:
        for parameters, learn in zip((self._scores, self._weights), self.learns(loop.step), strict=True):
            if parameters and parameters[0].requires_grad != learn:
                for parameter in parameters:
                    parameter.requires_grad_(learn)


class MaskDecay(Hook):
    """Adds strength·d(sum of sigmoid(s))/ds to the scores' gradients: a pressure towards sparser masks."""

    stacks = True

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def after_backward(self, loop: Loop) -> None:
        for layer in layers(loop.model):
            scores = layer.supermask.scores
            if scores.grad is not None:
                p = torch.sigmoid(scores.detach())
                scores.grad.add_(p * (1 - p), alpha=self.strength)


class MaskSum(Hook):
    """Adds strength·d(sum of M)/ds to the scores' gradients, M the soft mask that the step was trained under."""

    stacks = True

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> None:
        for layer in layers(loop.model):
            scores, mask = layer.supermask.scores, layer.supermask.mask
            if scores.grad is not None:
                scores.grad.add_(layer.supermask.rule.slope(scores.detach(), mask), alpha=self.strength)


class Redraw(Hook):
    """Every `every` iterations each pruned weight is drawn anew with a probability (Chijiwa et al. 2021, IteRand).

    Kept weights never change here, and which pruned ones do depends on the seed, the weight's name and the step
    alone, so that a resumed run draws the same.

    Args:
        draw: step -> fresh weights by name, in the weights' shapes, on the CPU
    """

    stacks = True

    def __init__(
        self, draw: Callable[[int], Mapping[str, Tensor]], *, every: int, probability: float, seed: int
    ) -> None:
        self.draw, self.every, self.probability, self.seed = draw, every, probability, seed

    @torch.no_grad()
    def before_step(self, loop: Loop) -> None:
        if loop.step == 0 or loop.step % self.every:
            return
        fresh = self.draw(loop.step)
        for name, supermask, weight in layers(loop.model):
            uniform = philox.uniform(derive(self.seed, "redrawn", name, loop.step), weight.numel())
            hit = torch.from_numpy(uniform < self.probability).reshape(weight.shape).to(weight.device)
            weight.copy_(torch.where(hit & (supermask.mask == 0), fresh[name].to(weight), weight))


class FreezeOut(Hook):
    """At given steps the lowest of the scores in [0, 1] that still take part leave for good (Gem-Miner).

    From then on they are exactly 0 and their gradients too; goes before `Refresh`.

    Args:
        densities: step -> fraction of all weights that still take part from then on, falling
        scope: layer or global
        keep_all_at: step at which every score that still takes part is raised to 0.5 at lowest; None for never
    """

    stacks = True

    def __init__(self, densities: Mapping[int, float], scope: str, keep_all_at: int | None = None) -> None:
        self.densities, self.scope, self.keep_all_at = densities, scope, keep_all_at
        self._active: Mask | None = None

    def on_start(self, loop: Loop) -> None:
        if self._active is not None:  # a checkpoint's masks come on the CPU
            self._active = Mask({name: self._active[name].to(s.device) for name, s in _scores(loop).items()})

    def after_backward(self, loop: Loop) -> None:
        for name, scores in _scores(loop).items():
            if self._active is not None and scores.grad is not None:
                scores.grad.mul_(self._active[name])

    @torch.no_grad()
    def after_step(self, loop: Loop) -> None:
        present = _scores(loop)
        if loop.step in self.densities:
            self._active = select(
                {name: scores.detach().clamp(0, 1) for name, scores in present.items()},
                density=self.densities[loop.step],
                scope=self.scope,
                candidates=self._active,
            )
        for name, scores in present.items():
            if self._active is not None:
                scores.mul_(self._active[name])  # momentum goes on for a while
            if loop.step == self.keep_all_at:
                lowest = torch.full_like(scores, 0.5) if self._active is None else 0.5 * self._active[name]
                scores.copy_(torch.maximum(scores, lowest))

    def state_dict(self) -> Mapping[str, Any]:
        return {"active": dict(self._active or {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._active = Mask(state["active"]) if state["active"] else None


def _scores(loop: Loop) -> dict[str, torch.nn.Parameter]:
    return {layer.name: layer.supermask.scores for layer in layers(loop.model)}
