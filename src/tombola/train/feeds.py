"""The feeds of a training run: batches as the recipe wants them, sweeps for evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tombola.data.feed import Feed, feed
from tombola.data.splits import Loss, Split, Splits, holdout, subset
from tombola.errors import TombolaError
from tombola.machine.ranks import ALONE, Ranks
from tombola.train.recipe import Recipe

EVAL_BATCH = 500


def training_feed(
    splits: Splits, recipe: Recipe, device: torch.device, channels_last: bool, ranks: Ranks = ALONE
) -> Feed:
    """Shuffled, augmented batches of the training split; of several ranks, this one's part of each.

    Raises:
        TombolaError: a batch has too few examples for every rank to have one in each part that it is cut into.
    """
    whole, needed = min(recipe.batch_size, len(splits.train)), ranks.size * recipe.accumulate
    if ranks.size > 1 and whole < needed:
        cut = f" that cut their part into {recipe.accumulate} (accumulate)" if recipe.accumulate > 1 else ""
        raise TombolaError(
            f"a batch has {whole} examples, but {ranks.size} processes{cut} need at least {needed}; raise batch_size, "
            "or start fewer processes"
        )
    return feed(
        splits.train,
        batch_size=recipe.batch_size,
        device=device,
        augment=splits.augment,
        normalisation=splits.normalisation,
        channels_last=channels_last,
        ranks=ranks,
    )


def evaluation_feed(
    splits: Splits, split: Split, device: torch.device, channels_last: bool, ranks: Ranks = ALONE
) -> Feed:
    """One split in order, in batches of a fixed size, so that a score never depends on the recipe.

    Of several ranks, each goes through some of the batches.
    """
    return feed(
        split,
        batch_size=EVAL_BATCH,
        device=device,
        normalisation=splits.normalisation,
        channels_last=channels_last,
        sweep_batch=EVAL_BATCH,
        ranks=ranks,
    )


def evaluated_part(splits: Splits, size: int | str) -> Split:
    """The part of the training split that is evaluated beside the validation split, unaugmented (see `Recipe`).

    Drawn once for the data: the same examples for every seed, arm and method, in the split's order.
    """
    count = len(splits.train)
    wanted = {"val": len(splits.val), "all": count}.get(size, size) if isinstance(size, str) else size
    if not isinstance(wanted, int):
        raise TombolaError(f'train_eval is {size!r}; it must be "val", "all" or a number of examples')
    if wanted >= count:
        return splits.train
    return subset(splits.train, holdout(count, wanted, 0, "train-eval")[1])


def layout(model: nn.Module, recipe: Recipe) -> bool:
    """Whether images are laid out channels-last: as the recipe says, else as suits the network."""
    return wants_channels_last(model) if recipe.channels_last is None else recipe.channels_last


def wants_channels_last(model: nn.Module) -> bool:
    """Whether the network has two-dimensional convolutions, which run faster in that layout."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def training_loss(splits: Splits, recipe: Recipe) -> Loss:
    """The task's loss with the recipe's label smoothing (cross-entropy only)."""
    if recipe.label_smoothing == 0.0:
        return splits.task.loss
    loss = splits.task.loss
    if (loss.func if isinstance(loss, partial) else loss) is not F.cross_entropy:
        raise TombolaError(
            f"label_smoothing is {recipe.label_smoothing}, but this task brings its own loss; "
            "smooth there, or set it to 0"
        )
    return partial(cast(Callable[..., Tensor], loss), label_smoothing=recipe.label_smoothing)
