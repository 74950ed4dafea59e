"""Wrong labels in the training split: how a network that memorises is told from one that learns.

Symmetric noise redraws the labels of a share p of the examples uniformly among the other classes; pairflip moves each
of them to the next class, c -> c + 1 mod K (Han et al. 2018). He et al. 2022 ("Sparse Double Descent") train on 20 to
40 % of either. Exactly round(p * n) labels are wrong, whichever class they are of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tombola.data.config import NOISES, check_share
from tombola.data.splits import Resident, Splits, tensor_digest
from tombola.errors import TombolaError
from tombola.names import unknown
from tombola.rng.seeds import generator


def with_label_noise(splits: Splits, fraction: float, kind: str = "symmetric", *, split_seed: int = 0) -> Splits:
    """Splits whose training labels are wrong in exactly round(fraction * n) of n examples; the other parts stay clean.

    Args:
        splits: Of classes, with a training split in memory. Labels that the task leaves out stay as they are, and do
            not count among the n.
        fraction: Share of training labels that are made wrong, from 0 to 1.
        kind: symmetric (redrawn uniformly among the other classes) or pairflip (class c becomes c + 1, the last 0).
        split_seed: Of the draws. Every run on these splits sees the same labels; those wrong at a smaller fraction are
            wrong in the same way at a larger one.

    Raises:
        TombolaError: the labels are no classes, or the examples are not in memory.
    """
    check_share("label_noise", fraction)
    if kind not in NOISES:
        raise TombolaError(unknown("label_noise_kind", kind, NOISES))
    if fraction == 0:
        return splits
    train, allowed = _labelled(splits)
    rows = (train.y != splits.task.ignored).nonzero().flatten() if splits.task.ignored is not None else None
    y = train.y if rows is None else train.y[rows]
    if not round(fraction * len(y)):
        raise TombolaError(
            f"label_noise {fraction:g} makes none of the {len(y):,} training labels wrong; give more, or leave it out"
        )
    position = torch.full((max(allowed) + 1,), -1, dtype=torch.int64, device="cpu")
    position[allowed] = torch.arange(len(allowed), device="cpu")
    noisy = torch.tensor(allowed, device="cpu")[noisy_classes(position[y], len(allowed), fraction, kind, split_seed)]
    labels = noisy if rows is None else train.y.index_copy(0, rows, noisy)
    source = f"{train.source}[labels {tensor_digest(labels)}]" if train.source else ""
    return replace(splits, train=Resident(train.x, labels, source))


def noisy_classes(labels: Tensor, classes: int, fraction: float, kind: str, seed: int) -> Tensor:
    """Labels int64 (n,) from 0 to `classes` - 1, exactly round(fraction * n) of them wrong."""
    count = len(labels)
    order = torch.randperm(count, generator=generator(seed, "label-noise", "examples"), device="cpu")
    wrong = order[: round(fraction * count)]
    moved = (labels + _SHIFTS[kind](count, classes, seed)) % classes
    return labels.index_copy(0, wrong, moved[wrong])


def mislabelled(noisy: Splits, clean: Splits) -> Tensor:
    """Which training examples have a wrong label, bool (n,): those whose labels differ between the two."""
    if not (isinstance(noisy.train, Resident) and isinstance(clean.train, Resident)):
        raise TombolaError("the training examples are not in memory; wrong labels are known only of those that are")
    if noisy.train.y.shape != clean.train.y.shape:
        raise TombolaError("the two training splits differ in length; give the same data with and without noise")
    return noisy.train.y != clean.train.y


def _symmetric(count: int, classes: int, seed: int) -> Tensor:
    draw = generator(seed, "label-noise", "classes")
    return 1 + torch.randint(classes - 1, (count,), generator=draw, device="cpu")


def _pairflip(count: int, classes: int, seed: int) -> Tensor:
    return torch.ones(count, dtype=torch.int64, device="cpu")


_SHIFTS: Mapping[str, Callable[[int, int, int], Tensor]] = dict(zip(NOISES, (_symmetric, _pairflip), strict=True))
"""How far each label moves if it is made wrong, int64 (count,), from 1 to classes - 1."""


def _labelled(splits: Splits) -> tuple[Resident, list[int]]:
    """The training split, and the classes that its labels may be of."""
    train = splits.train
    if not isinstance(train, Resident):
        raise TombolaError(
            f"label_noise needs training examples in memory, but those of {splits.name} are fetched one by one; raise "
            "in_memory_limit, or make the labels wrong in the data set itself"
        )
    if train.y.dim() != 1 or train.y.is_floating_point() or train.y.is_complex() or splits.classes is None:
        raise TombolaError(
            f"label_noise needs one class number per example, but the targets of {splits.name} are {train.y.dtype} of "
            f"shape {tuple(train.y.shape)} and no such labels; leave it out"
        )
    allowed = [label for label in range(splits.classes) if label != splits.task.ignored]
    if len(allowed) < 2:
        raise TombolaError(f"label_noise needs at least 2 classes; {splits.name} has {len(allowed)}")
    return train, allowed
