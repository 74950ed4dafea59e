"""A small training split: the first examples of a fixed order in which the classes keep their shares."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tombola.data.labels import listed_labels
from tombola.data.splits import Resident, Splits, subset
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
    rows = stratified_order(_classes(splits), split_seed)[:count].sort().values
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


def _classes(splits: Splits) -> Tensor:
    """One class number per training example; zeros where there are none."""
    train = splits.train
    y = train.y if isinstance(train, Resident) else listed_labels(train.dataset)
    if y is None or y.dim() != 1 or y.is_floating_point() or y.is_complex():
        return torch.zeros(len(train), dtype=torch.int64, device="cpu")
    return y
