"""A small training split: the first examples of a fixed order in which the classes keep their shares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tombola.data.labels import listed_labels, warn_of_untaught
from tombola.data.splits import Resident, Splits, Streamed, subset
from tombola.errors import TombolaError
from tombola.rng.seeds import generator


def with_train_examples(splits: Splits, count: int, *, split_seed: int = 0) -> Splits:
    """Splits with `count` of the training examples; validation and test stay.

    They are the first of an order drawn with `split_seed`, the same in every run, so that fewer are among more. Where
    each example has a class number (in memory, or listed by the data set), every class keeps its share; other examples
    are drawn uniformly.

    Raises:
        TombolaError: there are not as many.
    """
    have = len(splits.train)
    if not 1 <= count <= have:
        raise TombolaError(
            f"train_examples is {count}, but {splits.name} has {have:,} to train on; allowed are 1 to that"
        )
    if count == have:
        return splits
    known = {where: y for where in ("train", "val", "test") if (y := _classes(getattr(splits, where))) is not None}
    order = stratified_order(known.get("train", torch.zeros(have, dtype=torch.int64, device="cpu")), split_seed)
    rows = order[:count].sort().values
    if "train" in known:
        warn_of_untaught({**known, "train": known["train"][rows]}, splits.task.ignored)
    return replace(splits, train=subset(splits.train, rows))


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """All indices of int64 labels (n,), shuffled such that any first part holds every class in proportion.

    The r-th example of a class with m examples comes at (r + 1/2) / m of the way, ties at random.
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed, "train-examples"), device="cpu")
    ordered = labels[shuffled]
    place = torch.empty(len(labels), dtype=torch.float64, device="cpu")
    for label in torch.unique(ordered):
        rows = (ordered == label).nonzero().flatten()
        place[rows] = (torch.arange(len(rows), dtype=torch.float64, device="cpu") + 0.5) / len(rows)
    return shuffled[torch.sort(place, stable=True).indices]


def _classes(part: Resident | Streamed | None) -> Tensor | None:
    """One class number per example; None where there are none."""
    y = None if part is None else part.y if isinstance(part, Resident) else listed_labels(part.dataset)
    return None if y is None or y.dim() != 1 or y.is_floating_point() or y.is_complex() else y
