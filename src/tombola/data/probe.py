"""Parts of a split that are checked before the whole: its first examples, its extreme targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from tombola.data.feed import feed
from tombola.data.labels import listed_labels
from tombola.data.splits import Resident, Split, Splits, subset

Track = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(description, total) -> a progress bar, called with the number done."""

_READ = "_targets"
_PER_END = 3
MAX_EXTREMES = 2 * _PER_END
"""The most examples that `extremes` returns."""
_SORTED = 1 << 24
"""Whole numbers of which all distinct values are computed; of more, those of each example's ends."""


def chosen(split: Split, indices: Sequence[int]) -> Split:
    """The examples at `indices`, in that order; few, so that this process fetches them."""
    part = subset(split, torch.tensor(indices, dtype=torch.int64, device="cpu"))
    return part if isinstance(part, Resident) else replace(part, workers=0)


def first_of(split: Split, count: int) -> Split:
    """The first `count` examples, or as many as there are."""
    return chosen(split, range(min(count, len(split))))


def targets_of(split: Split) -> Tensor | None:
    """All targets (N, ...) of a split that holds or lists them, or once read; None where they must be read first."""
    if isinstance(split, Resident):
        return split.y
    read: Tensor | None = vars(split).get(_READ)
    return listed_labels(split.plain or split.dataset) if read is None else read


def read_targets(split: Split, track: Track, where: str) -> Tensor:
    """All targets (N, ...), fetched with their inputs one by one; the split caches them."""
    targets, done = [], 0
    with track(f"reading labels of {where}", len(split)) as update:
        for _, y in feed(split, batch_size=64, sweep_batch=64).sweep():
            targets.append(y)
            done += len(y)
            update(done)
    vars(split)[_READ] = torch.cat(targets)
    return torch.cat(targets)


def extremes(targets: Tensor) -> list[int]:
    """Examples that hold the extreme targets: of whole numbers, the three largest and three smallest values that
    occur; of others, the largest, the smallest, and the nearest to 0. A label that is out of range is among them.

    Args:
        targets: (N, ...), N > 0.

    Returns:
        Indices without repetition, at most `MAX_EXTREMES`.
    """
    rows = targets.flatten(1) if targets.dim() > 1 else targets.unsqueeze(1)
    if targets.is_floating_point():
        values_wanted = [rows.max(), rows.min(), rows.flatten()[rows.abs().argmin()]]
    else:
        values = rows if rows.numel() <= _SORTED else torch.cat([rows.amin(1), rows.amax(1)])
        distinct = torch.unique(values)
        values_wanted = [*distinct[:_PER_END], *distinct[-_PER_END:]]
    return list(dict.fromkeys(int((rows == value).any(1).int().argmax()) for value in values_wanted))


def some_batch(splits: Splits, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` validation examples (or all, if there are fewer), normalised, on the CPU."""
    return next(feed(splits.val, batch_size=count, normalisation=splits.normalisation, sweep_batch=count).sweep())


def some_inputs(splits: Splits, count: int = 16) -> Tensor:
    """A few validation inputs, as the network sees them."""
    return some_batch(splits, count)[0]
