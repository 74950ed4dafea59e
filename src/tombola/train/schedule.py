"""The learning rate as a function of the iteration: a factor in [0, 1] of the recipe's `lr`."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence

from tombola.errors import TombolaError
from tombola.train.history import Row
from tombola.train.length import steps
from tombola.train.recipe import Recipe

Factor = Callable[[int], float]

MIN_DELTA = 1e-4
"""How much better the training metric must be to count: the `min_delta` of Keras' ReduceLROnPlateau."""


def lr_factor(recipe: Recipe, steps_per_epoch: int) -> Factor:
    """The factor for the step about to be taken, counted from 0.

    Warm-up rises linearly, (step + 1) / warm-up length. Cosine falls from 1 after the warm-up to 0 at the end.
    Milestones and cosine are counted from the beginning of training, warm-up included. Plateaus follow from what
    was measured, not from the step: here they are constant, and `plateau_factor` comes on top.
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

    courses: dict[str, Factor] = {"step": step_wise, "cosine": cosine}
    course = courses.get(recipe.schedule, constant)

    def factor(step: int) -> float:
        return (step + 1) / warmup * course(step) if step < warmup else course(step)

    return factor if warmup else course


def check_schedule(recipe: Recipe, steps_per_epoch: int) -> None:
    """TombolaError for a warm-up that the training ends in; a warning for milestones that it does not come to."""
    total, warmup = (steps(length, steps_per_epoch) for length in (recipe.length, recipe.warmup))
    if warmup > total:
        raise TombolaError(
            f"warmup is {recipe.warmup}, {warmup:,} iterations, but training has {total:,}: lr would never be reached; "
            "make it shorter, e.g. 0it"
        )
    late = [text for text in recipe.milestones if steps(text, steps_per_epoch) >= total]
    if late and recipe.schedule == "step":
        warnings.warn(
            f"milestones name {late[0]}, but training ends at iteration {total:,}: lr is not cut there", stacklevel=2
        )


def plateau_factor(history: Sequence[Row], recipe: Recipe, higher_is_better: bool) -> float:
    """gamma ** (plateaus so far), or 1 under any other schedule.

    The rule of Keras' ReduceLROnPlateau on the training metric: after `patience` rows in a row that are not better
    than the best so far by more than `MIN_DELTA`, a plateau is counted, and the waiting begins anew. Rows without
    a training metric (the first of a run) count for nothing. A function of the rows alone, so that a resumed run
    cuts where an uninterrupted one does; a run that starts at a rewind point starts with no rows, hence uncut.
    """
    if recipe.schedule != "plateau":
        return 1.0
    best, waited, plateaus = -math.inf, 0, 0
    for row in history:
        metric = row.train_accuracy if higher_is_better else -row.train_accuracy
        if math.isnan(metric):
            continue
        if metric > best + MIN_DELTA:
            best, waited = metric, 0
            continue
        waited += 1
        if waited == recipe.patience:
            plateaus, waited = plateaus + 1, 0
    return recipe.gamma**plateaus
