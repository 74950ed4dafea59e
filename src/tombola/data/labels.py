"""Checks that labels are class numbers within range, when splits are made and as examples are fetched."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tombola.errors import TombolaError


@dataclass(frozen=True)
class Allowed:
    """The labels that a task knows: 0 to `classes` - 1 (None: 0 and up), and `ignored`, which it leaves out.

    `counted`: the splits whose labels gave the number of classes; empty where it was given or listed.
    """

    classes: int | None
    ignored: int | None = None
    counted: str = ""

    def check(self, labels: Tensor, where: str) -> None:
        """TombolaError for the first label outside; `where` names them."""
        counted = labels if self.ignored is None else labels[labels != self.ignored]
        if counted.numel() == 0:
            return
        low, high = (int(value) for value in torch.aminmax(counted))
        if low >= 0 and (self.classes is None or high < self.classes):
            return
        allowed = "0 and up" if self.classes is None else f"0 to {self.classes - 1} ({self.classes} classes)"
        label = low if low < 0 else high
        also = "" if self.ignored is None or self.ignored in (label, -100) else f", and {self.ignored} for none"
        more = (
            f"; classes were counted by the labels of {self.counted}: give make_splits(..., classes=) if there are more"
        )
        hint = more if self.counted and label == high else ""
        raise TombolaError(f"label {label} in {where} is out of range; allowed are {allowed}{also}{hint}")


def count(labels: Tensor, ignored: int | None) -> int | None:
    """One more than the largest label that is not `ignored`; None where there is none of 0 or more."""
    counted = labels if ignored is None else labels[labels != ignored]
    top = int(counted.max()) if counted.numel() else -1
    return top + 1 if top >= 0 else None


def check_forms(labels: Mapping[str, Tensor], classes: int | None, ignored: int | None) -> None:
    """TombolaError for targets of the parts that are no class numbers, or where an example has only ignored ones."""
    for where, y in labels.items():
        if y.is_floating_point() or y.is_complex():
            raise TombolaError(
                f"{where} targets are {y.dtype} of shape {tuple(y.shape)}; classification needs whole numbers, "
                f"{_whole(y)}or give a task"
            )
        if classes is None and _is_one_hot(y):
            raise TombolaError(
                f"{where} targets of shape {tuple(y.shape)} look one-hot; give class numbers: y.argmax(1) (or, if each"
                " example has so many labels of two classes, say classes=2)"
            )
        _check_counted(y, where, ignored)


def _whole(y: Tensor) -> str:
    if y.is_complex():
        return ""
    if _is_one_hot(y) or (y.dim() == 2 and y.shape[1] > 1 and bool((y.sum(1) - 1).abs().max() < 1e-3)):
        return "such as y.argmax(1), "
    return "such as y.long(), " if bool((y == y.round()).all()) else ""


def _is_one_hot(y: Tensor) -> bool:
    """Whether targets (N, C) hold exactly one 1 among 0s for every example."""
    if y.dim() != 2 or y.shape[1] < 2:
        return False
    return bool(((y == 0) | (y == 1)).all()) and bool((y.sum(1) == 1).all())


def _check_counted(y: Tensor, where: str, ignored: int | None) -> None:
    if ignored is None:
        return
    none = (y == ignored).view(len(y), -1).all(1)
    if where == "train":
        if bool(none.all()):
            raise TombolaError(f"all labels of the train split are {ignored}, which the task leaves out")
    elif bool(none.any()):
        first = int(none.nonzero()[0])
        raise TombolaError(
            f"example {first} of the {where} split has no label but {ignored}, which the task leaves out; leave such "
            "examples out"
        )


def named_classes(dataset: Dataset[Any]) -> int | None:
    """The length of a dataset's own list of classes (torchvision); None where it has none."""
    named = getattr(bare(dataset)[0], "classes", None)
    return len(named) if isinstance(named, Sized) else None


def check_same_names(datasets: Mapping[str, Dataset[Any]]) -> None:
    """TombolaError where two parts list different classes: their label numbers mean different things.

    A list that is a prefix of the other is no contradiction.
    """
    listed = {where: names for where, dataset in datasets.items() if (names := _names(dataset))}
    first = next(iter(listed), "")
    for where, names in listed.items():
        before = listed[first]
        index = next((i for i, pair in enumerate(zip(before, names, strict=False)) if pair[0] != pair[1]), None)
        if index is not None:
            raise TombolaError(
                f"class {index} is {before[index]!r} in the {first} split and {names[index]!r} in the {where} split, "
                "so their labels mean different things; give all splits the same list of classes"
            )


def _names(dataset: Dataset[Any]) -> list[str]:
    """A dataset's own names of its classes, in order; [] where it has none, or numbers them otherwise."""
    whole = bare(dataset)[0]
    named = getattr(whole, "classes", None)
    own = isinstance(named, list | tuple) and getattr(whole, "target_transform", None) is None
    return [str(name) for name in named] if own else []  # type: ignore[union-attr]


class UntaughtLabelsWarning(UserWarning):
    """Labels occur in validation or test that no training example has."""


def warn_of_untaught(labels: Mapping[str, Tensor], ignored: int | None) -> None:
    """Warn of labels that the training split lacks, where its labels are known."""
    if "train" not in labels:
        return
    taught = _occurring(labels["train"], ignored)
    odd = {where: untaught for where, y in labels.items() if (untaught := sorted(_occurring(y, ignored) - taught))}
    if odd:
        listed = " and ".join(f"{_few(untaught)} of the {where} split" for where, untaught in odd.items())
        warnings.warn(
            f"no training example has label {listed}: the network gets outputs for them, but cannot learn them",
            UntaughtLabelsWarning,
            stacklevel=4,
        )


def _occurring(y: Tensor, ignored: int | None) -> set[int]:
    counted = (y if ignored is None else y[y != ignored]).flatten()
    few = counted.numel() > 0 and int(counted.max()) < _COUNTABLE
    return set((torch.bincount(counted).nonzero().flatten() if few else torch.unique(counted)).tolist())


_COUNTABLE = 1 << 16


def _few(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:5])) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def listed_labels(dataset: Dataset[Any]) -> Tensor | None:
    """The labels that a dataset lists as `targets` (torchvision), int64, in its order; None where it lists none.

    None too where it changes them as they are fetched.
    """
    whole, rows = bare(dataset)
    listed = getattr(whole, "targets", None)
    if listed is None or getattr(whole, "target_transform", None) is not None:
        return None
    try:
        labels = torch.as_tensor(listed, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    if labels.dim() != 1 or labels.is_floating_point() or len(labels) != len(whole):  # type: ignore[arg-type]
        return None
    return labels.long() if rows is None else labels.long()[rows]


def bare(dataset: Dataset[Any]) -> tuple[Dataset[Any], Tensor | None]:
    """The dataset beneath nested subsets, and the rows they take (None: all, in order)."""
    rows: Tensor | None = None
    while isinstance(dataset, Subset):
        picked = torch.as_tensor(list(dataset.indices), dtype=torch.int64, device="cpu")
        rows = picked if rows is None else picked[rows]
        dataset = dataset.dataset
    return dataset, rows
