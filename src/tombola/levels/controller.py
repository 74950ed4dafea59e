"""Pressing a learned mask to a density, where the rule has none of its own (in the manner of Hyperflux, 2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tombola.select.select import select
from tombola.supermask.layers import layers
from tombola.train.hooks import Hook

if TYPE_CHECKING:
    from tombola.train.state import Loop

_STEEPEST = 0.25
"""p(1 - p) at p = 0.5, where weights leave the mask and enter it."""
_MOST = 0.9
"""Of the size of whole gradients, that of the pressure's part at most: near 1 it would feed on itself."""
_FRESH = 0.3
"""Weight of the newest measurement in the running means."""


def planned(begin: float, density: float, share: float) -> float:
    """The density to have after a share of the way: the same factor at every step, down or up."""
    return begin * float((density / begin) ** min(share, 1.0))


class PressDensity(Hook):
    """Adds gamma·d(sum of p)/ds = gamma·p(1 - p) to the scores' gradients, p = sigmoid(s), and steers gamma.

    The density of the p > 0.5 mask, of all masked weights together, is to fall (or rise) by the same factor in every
    step, from what it is at first to `density` at `reached_at` of the training, and to stay there. The error is taken
    on the scores: how far all of them would have to move for the density to be right now. A proportional and an
    integral part ask for a speed, and gamma is that speed over what gradients do to scores, which is measured on the
    optimiser's own steps: so that it is the same for SGD at lr 100 and Adam at 0.01. Where the pressure would make up
    more than 0.9 of the gradients' root mean square it is cut off there, and the density lags behind.

    After the last step all scores move by one amount, so that the mask keeps exactly round(density·N) of N weights.

    Goes before `Refresh`. Args:
        density: fraction of all masked weights
        reached_at: share of the training
    """

    def __init__(self, density: float, reached_at: float) -> None:
        self.density, self.reached_at = density, reached_at
        self.gamma = 0.0
        self._begin: float | None = None
        self._speed = 0.0  # the integral part, in score per step
        self._step_size = self._gradient_size = 0.0  # root mean squares, running
        self._before: dict[str, Tensor] = {}
        self._size_now = self._slope_now = 0.0

    def on_start(self, loop: Loop) -> None:
        if self._begin is None:
            self._begin = begin_density(_scores(loop))

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> None:
        scores = {name: s for name, s in _scores(loop).items() if s.grad is not None}
        gradients = [s.grad for s in scores.values() if s.grad is not None]
        slopes = [p * (1 - p) for p in map(torch.sigmoid, scores.values())]
        for gradient, slope in zip(gradients, slopes, strict=True):
            gradient.add_(slope, alpha=self.gamma)
        if scores and loop.step % self._every(loop) == 0:
            self._size_now, self._slope_now = root_mean_square(gradients), root_mean_square(slopes)
            self._before = {name: s.detach().clone() for name, s in scores.items()}

    @torch.no_grad()
    def after_step(self, loop: Loop) -> None:
        scores = _scores(loop)
        if self._before:
            self._measure([scores[name] - before for name, before in self._before.items()])
            self._before = {}
            share = loop.step / (self.reached_at * loop.total)
            assert self._begin is not None
            self._steer(excess(scores, planned(self._begin, self.density, share)), loop)
        if loop.step == loop.total:
            settle(scores, self.density)

    def _every(self, loop: Loop) -> int:
        """Iterations between two measurements; ten within the time constant."""
        return max(1, self._patience(loop) // 10)

    def _patience(self, loop: Loop) -> int:
        """Iterations in which an error is to fall to 1/e: more than momentum remembers, few of the whole way."""
        return max(20, round(self.reached_at * loop.total / 20))

    def _measure(self, moved: list[Tensor]) -> None:
        size = root_mean_square(moved)
        first = self._gradient_size == 0.0
        keep = 0.0 if first else 1 - _FRESH
        self._step_size = keep * self._step_size + (1 - keep) * size
        self._gradient_size = keep * self._gradient_size + (1 - keep) * self._size_now

    def _steer(self, error: float, loop: Loop) -> None:
        """`error`: by how much all scores are too large."""
        if self._step_size == 0.0 or self._gradient_size == 0.0:  # a warm-up from 0
            return
        patience, most = self._patience(loop), _MOST * self._step_size * _STEEPEST / max(self._slope_now, 1e-30)
        asked = error / patience
        speed = asked + self._speed
        if abs(speed) <= most or speed * asked < 0:  # what is cut off is not summed up
            self._speed += asked * self._every(loop) / (4 * patience)
        speed = min(max(speed, -most), most)
        self.gamma = speed * self._gradient_size / (self._step_size * _STEEPEST)

    def state_dict(self) -> Mapping[str, Any]:
        return {
            "gamma": self.gamma,
            "begin": self._begin,
            "speed": self._speed,
            "step_size": self._step_size,
            "gradient_size": self._gradient_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gamma, self._begin, self._speed = state["gamma"], state["begin"], state["speed"]
        self._step_size, self._gradient_size = state["step_size"], state["gradient_size"]


def begin_density(scores: Mapping[str, Tensor]) -> float:
    """The fraction of scores above 0, those at 0 counted by half: a fair coin begins at 0.5."""
    total = sum(s.numel() for s in scores.values())
    above = sum(int(torch.count_nonzero(s > 0)) for s in scores.values())
    at = sum(int(torch.count_nonzero(s == 0)) for s in scores.values())
    return max(above + at / 2, 1) / total


def excess(scores: Mapping[str, Tensor], density: float) -> float:
    """By how much all scores are too large for the density (too small: below 0); 0 where it is right."""
    every = torch.cat([s.detach().flatten() for s in scores.values()])
    keep, above = max(round(density * len(every)), 1), int(torch.count_nonzero(every > 0))
    if above == keep:
        return 0.0
    rank = keep + 1 if above > keep else keep  # the first that must go, the last that must come
    return float(every.kthvalue(len(every) - rank + 1).values)


@torch.no_grad()
def settle(scores: Mapping[str, Tensor], density: float) -> None:
    """Move all scores by one amount, so that exactly round(density·N) of N lie above 0; ties are parted by order."""
    mask = select(scores, density=density, scope="global")
    kept = min(float(s[mask[name]].min()) for name, s in scores.items() if bool(mask[name].any()))
    pruned = [float(s[~mask[name]].max()) for name, s in scores.items() if not bool(mask[name].all())]
    middle = (kept + max(pruned)) / 2 if pruned else kept - abs(kept) - 1
    for name, s in scores.items():
        moved, least = s - middle, torch.finfo(s.dtype).tiny
        s.copy_(torch.where(mask[name], moved.clamp(min=least), moved.clamp(max=0)))


def root_mean_square(tensors: list[Tensor]) -> float:
    """Over all elements together."""
    count = sum(t.numel() for t in tensors)
    return math.sqrt(sum(float(t.detach().float().square().sum()) for t in tensors) / count)


def _scores(loop: Loop) -> dict[str, torch.nn.Parameter]:
    return {layer.name: layer.supermask.scores for layer in layers(loop.model)}
