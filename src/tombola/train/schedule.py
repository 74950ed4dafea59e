"""The learning rate as a function of the iteration: a factor in [0, 1] of the recipe's `lr`."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from tombola.train.length import steps
from tombola.train.recipe import Recipe

Factor = Callable[[int], float]


def lr_factor(recipe: Recipe, steps_per_epoch: int) -> Factor:
    """The factor for the step about to be taken, counted from 0.

    Warm-up rises linearly, (step + 1) / warm-up length. Cosine falls from 1 after the warm-up to 0 at the end.
    Milestones and cosine are counted from the beginning of training, warm-up included.
    """
    warmup = steps(recipe.warmup, steps_per_epoch)
    total = steps(recipe.length, steps_per_epoch)
    milestones = sorted(steps(text, steps_per_epoch) for text in recipe.milestones)

    def constant(step: int) -> float:
        return 1.0

    def step_wise(step: int) -> float:
        return recipe.gamma ** bisect_right(milestones, step)

    def cosine(step: int) -> float:
        done = (step - warmup) / max(1, total - warmup)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, done))))

    course: Factor = {"constant": constant, "step": step_wise, "cosine": cosine}[recipe.schedule]

    def factor(step: int) -> float:
        return (step + 1) / warmup * course(step) if step < warmup else course(step)

    return factor if warmup else course
