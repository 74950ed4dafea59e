"""A pressure on the expected density of learned masks, in balance with the task's own gradient (GradBalance)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tombola.supermask.layers import layers
from tombola.train.hooks import Hook
from tombola.train.state import Loop

SLACK, SCALE = 1.1, 100.0


def penalty(logits: Sequence[Tensor], density: float) -> tuple[Tensor, list[Tensor]]:
    """P = 100·(sum of sigmoid(logit) / (1.1·density·n) - 1), a float64 scalar, and dP/dlogit in the logits' form.

    n counts the logits of all layers together.
    """
    allowed = SLACK * density * sum(logit.numel() for logit in logits)
    chances = [torch.sigmoid(logit) for logit in logits]
    kept = torch.stack([chance.sum(dtype=torch.float64) for chance in chances]).sum()
    return SCALE * (kept / allowed - 1), [chance * (1 - chance) * (SCALE / allowed) for chance in chances]


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """Over all tensors together, float64."""
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    return torch.stack(norms).square().sum().sqrt()


class GradBalance(Hook):
    """Adds strength·dP/ds to the scores' gradients (see `penalty`); of Concrete Ticket Search (Arora & Teuscher 2025).

    The strength follows the ratio of the two gradients' norms, |task|/|dP/ds|, or 0 where P <= 0, as a moving mean:

        strength <- (1 - rate)·strength + rate·target

    Args:
        density: the fraction of weights that the masks are to keep; 1.1 times as many are let be.
        rate: of the moving mean.
    """

    def __init__(self, density: float, rate: float = 0.01) -> None:
        self.density, self.rate = density, rate
        self.strength = torch.zeros((), dtype=torch.float64, device="cpu")

    def on_start(self, loop: Loop) -> None:
        self.strength = self.strength.to(loop.device)

    @torch.no_grad()
    def after_backward(self, loop: Loop) -> None:
        scores = [layer.supermask.scores for layer in layers(loop.model)]
        excess, pressure = penalty([s.detach() for s in scores], self.density)
        task = [s.grad for s in scores if s.grad is not None]
        if not task:
            return
        ratio = norm(task) / norm(pressure).clamp(min=1e-12)
        target = torch.where(excess > 0, ratio, torch.zeros_like(ratio))
        self.strength = (1 - self.rate) * self.strength + self.rate * target
        for s, push in zip(scores, pressure, strict=True):
            if s.grad is not None:
                s.grad.add_(push * self.strength.to(push.dtype))

    def state_dict(self) -> Mapping[str, Any]:
        return {"strength": self.strength}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.strength = state["strength"]
