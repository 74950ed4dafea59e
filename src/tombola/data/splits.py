"""Splits: training, validation and test examples with their task, checked once when they are made."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from tombola.data.config import Augment
from tombola.data.digest import Track, dataset_digest, silently
from tombola.errors import TombolaError
from tombola.fingerprint import fingerprint, warn_unseen
from tombola.rng.seeds import generator

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """What is learned: a loss to minimise and a metric to report.

    `loss(output, target)` gives the mean over the batch, a scalar; `metric(output, target)` one float per
    example, shape (N,). `eval_loss` stands in for `loss` outside training (None: the same one).

    Runs are named by what the callables do, as far as it can be read. `name` says it in their stead, for callables
    that cannot be read or differ each time: change it when they change.
    """

    loss: Loss
    metric: Loss
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    eval_loss: Loss | None = None
    name: str | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What names this task in runs and tickets, JSON-able: fields as they are, callables as fingerprints.

        Taken once, at first use: callables may keep a state that training changes.
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        if self.name is not None:
            return {key: None if callable(value) else value for key, value in values.items()}
        found = {key: fingerprint(value) for key, value in values.items() if callable(value)}
        warn_unseen({f"the task's {key}": part for key, part in found.items()}, "name the task: Task(..., name='v1')")
        return {**values, **{key: part.digest for key, part in found.items()}}

    def evaluation_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean loss that is reported on validation and test data, a scalar."""
        return (self.eval_loss or self.loss)(output, target)


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of each example's targets (N, ...) at the largest of `output` (N, classes, ...): float32 (N,)."""
    hits = (output.argmax(1) == target).float()
    return hits if hits.dim() == 1 else hits.flatten(1).mean(1)


def classification(label_smoothing: float = 0.0) -> Task:
    """Cross-entropy and accuracy. Labels are smoothed in the training loss only."""
    if not 0.0 <= label_smoothing < 1.0:
        raise TombolaError(f"label_smoothing is {label_smoothing}; it must be at least 0 and below 1")
    plain = cast(Loss, F.cross_entropy)
    if label_smoothing == 0.0:
        return Task(plain, accuracy)
    return Task(partial(F.cross_entropy, label_smoothing=label_smoothing), accuracy, eval_loss=plain)


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scale(self, dims: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(shift, factor) such that (byte - shift) * factor is normalised; channels on axis 1 of `dims` axes.

        Two separately rounded operations, so that CPU and GPU agree to the bit.
        """
        form = (1, -1, *(1,) * (dims - 2))
        shift = torch.tensor([255.0 * m for m in self.mean]).view(form)
        factor = torch.tensor([1.0 / (255.0 * s) for s in self.std]).view(form)
        return shift.to(device), factor.to(device)

    def fill(self, device: torch.device | str = "cpu") -> Tensor:
        """What a black pixel becomes: float32 (channels,)."""
        shift, factor = self.scale(2, device)
        return ((0 - shift) * factor).flatten()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Bytes (N, C, ...) uint8 to normalised float32 of the same shape."""
        shift, factor = self.scale(pixels.dim(), pixels.device)
        return pixels.float().sub_(shift).mul_(factor)


@dataclass(frozen=True, eq=False)
class Resident:
    """Examples held as tensors.

    `x` (N, ...) is float32, already normalised; or uint8 pixels, normalised batch by batch; or int64 tokens.
    `y` (N, ...) is int64 labels or float32 targets. `source`: digest of the stored form, where that is known.
    """

    x: Tensor
    y: Tensor
    source: str = ""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's input."""
        return tuple(self.x.shape[1:])

    def digest(self, track: Track = silently) -> str:
        """sha256 over shapes, dtypes and bytes."""
        return self.source or tensor_digest(self.x, self.y)


@dataclass(frozen=True, eq=False)
class Streamed:
    """Examples fetched one by one from a map-style dataset of (x, y) pairs.

    `plain` gives the same examples without random changes, for evaluation (None: `dataset` serves both).
    `workers`: processes that fetch; their number never changes what is fetched. `source` names the content, and must
    change with it; where it is left empty every example (or file) is read once to name the runs on it.
    """

    dataset: Dataset[Any]
    plain: Dataset[Any] | None = None
    workers: int = 0
    source: str = ""

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example's input."""
        return tuple(fetch(self.plain or self.dataset, 0, 0)[0].shape)

    def digest(self, track: Track = silently) -> str:
        """Digest of the source; where unknown, of every example or of the files (see `dataset_digest`)."""
        if self.source:
            return self.source
        parts = [part for part in (self.dataset, self.plain) if part is not None]
        found = [dataset_digest(part, fetch, tensor_digest, self.workers, track) for part in parts]
        return hashlib.sha256("\n".join([str(len(self)), *found]).encode()).hexdigest()


Split: TypeAlias = Resident | Streamed


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set and what is learned from it. `test` may be None."""

    train: Split
    val: Split
    test: Split | None
    task: Task
    name: str = "data"
    classes: int | None = None
    input_shape: tuple[int, ...] = ()
    normalisation: Normalisation | None = None
    augment: Augment = field(default_factory=Augment)

    @property
    def fingerprint(self) -> str:
        """sha256 of the contents of every split and of the normalisation; computed at first use."""
        return self.identify()

    def identify(self, track: Track = silently) -> str:
        """The fingerprint, with bars where examples or files must be read for it."""
        if "_fingerprint" not in self.__dict__:
            parts = [part.digest(track) if part else "none" for part in (self.train, self.val, self.test)]
            whole = hashlib.sha256("\n".join([*parts, repr(self.normalisation)]).encode()).hexdigest()
            object.__setattr__(self, "_fingerprint", whole)
        return str(self.__dict__["_fingerprint"])


def tensor_digest(*tensors: Tensor) -> str:
    """sha256 over the shapes, dtypes and bytes of tensors."""
    out = hashlib.sha256()
    for tensor in tensors:
        out.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().flatten()
        out.update(raw.view(torch.uint8).numpy().data)
    return out.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), numpy and random; put them back afterwards."""
    # A dataset's own transforms draw from these, whether the user or torchvision wrote them.
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def fetch(dataset: Dataset[Any], index: int, seed: int) -> tuple[Tensor, Tensor]:
    """One example of a map-style dataset, its random transforms drawing from `seed` alone.

    The global generators of torch, numpy and random are put back as they were.
    """
    with seeded(seed):
        item = dataset[index]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TombolaError(f"example {index} is a {type(item).__name__}; a dataset must give (x, y) pairs")
    try:
        return torch.as_tensor(item[0]), torch.as_tensor(item[1])
    except (TypeError, ValueError, RuntimeError):
        kinds = " and ".join(type(part).__name__ for part in item)
        raise TombolaError(
            f"example {index} holds {kinds}; x and y must be tensors, arrays or numbers (add a transform)"
        ) from None


def holdout(count: int, size: int, seed: int, label: str) -> tuple[Tensor, Tensor]:
    """(kept, held out): sorted int64 indices of `count` examples, `size` of them drawn uniformly."""
    if not 0 < size < count:
        raise TombolaError(f"cannot hold out {size} of {count} examples; allowed are 1 to {count - 1}")
    order = torch.randperm(count, generator=generator(seed, label))
    return order[size:].sort().values, order[:size].sort().values


def make_splits(
    train: Any,
    val: Any = None,
    test: Any = None,
    task: Task | None = None,
    *,
    name: str = "data",
    val_size: int | None = None,
    classes: int | None = None,
    normalisation: Normalisation | None = None,
    augment: Augment | None = None,
    split_seed: int = 0,
    workers: int = 0,
) -> Splits:
    """Splits from (x, y) tuples of tensors or arrays, TensorDatasets, or any map-style torch dataset.

    Where `val` is None, `val_size` examples (a tenth by default) are drawn from `train` with `split_seed`.
    Float inputs become float32 and are taken as already normalised; uint8 inputs are pixels, scaled to [0, 1]
    unless `normalisation` says more; other integers stay int64 (tokens). `classes` is read off the training
    labels where it is None. `workers` processes fetch the examples of datasets that are not tensors.

    Raises:
        TombolaError: for an empty split, NaN or infinite values, labels out of range, shapes that disagree.
    """
    parts = {"train": _split(train, "train", workers)}
    if val is None:
        whole = parts["train"]
        size = val_size if val_size is not None else max(1, round(len(whole) / 10))
        kept, held = holdout(len(whole), size, split_seed, "val-split")
        parts = {"train": subset(whole, kept), "val": subset(whole, held)}
    elif val_size is not None:
        raise TombolaError(f"val_size is {val_size}, but there is a validation split already; leave val_size out")
    else:
        parts["val"] = _split(val, "val", workers)
    if test is not None:
        parts["test"] = _split(test, "test", workers)
    shape = _same_shape(parts)
    if task is None or task.metric is accuracy or classes is not None:
        classes = _check_labels(parts, classes)
    if normalisation is None and isinstance(parts["train"], Resident) and parts["train"].x.dtype == torch.uint8:
        normalisation = Normalisation((0.0,), (1.0,))
    return Splits(
        parts["train"],
        parts["val"],
        parts.get("test"),
        task or classification(),
        name=name,
        classes=classes,
        input_shape=shape,
        normalisation=normalisation,
        augment=augment or Augment(),
    )


def subset(split: Split, indices: Tensor) -> Split:
    """The examples of `split` at int64 `indices`, in that order."""
    picked = indices.tolist()
    # A part of a known source is named by that source and the indices.
    source = f"{split.source}[{tensor_digest(indices)}]" if split.source else ""
    if isinstance(split, Resident):
        return Resident(split.x.index_select(0, indices), split.y.index_select(0, indices), source)
    plain = None if split.plain is None else Subset(split.plain, picked)
    return Streamed(Subset(split.dataset, picked), plain, split.workers, source)


def _split(given: Any, where: str, workers: int) -> Split:
    """One part as the user gave it, made a Split and checked on its own."""
    if isinstance(given, TensorDataset):
        given = given.tensors
    if isinstance(given, (tuple, list)):
        if len(given) != 2:
            raise TombolaError(f"the {where} split has {len(given)} tensors; it must be a pair (x, y)")
        split: Split = _resident(given[0], given[1], where)
    elif isinstance(given, (Resident, Streamed)):
        split = given
    elif isinstance(given, IterableDataset) or not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise TombolaError(
            f"the {where} split is a {type(given).__name__}; allowed are (x, y), a TensorDataset,"
            " or a map-style dataset with a length"
        )
    else:
        split = Streamed(given, workers=workers)
    if len(split) == 0:
        raise TombolaError(f"the {where} split is empty; it must hold at least 1 example")
    if isinstance(split, Resident):
        _check_finite(split.x, f"inputs of the {where} split")
        _check_finite(split.y, f"targets of the {where} split")
    return split


def _resident(x: Any, y: Any, where: str) -> Resident:
    try:
        x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach()
    except (TypeError, ValueError, RuntimeError):
        kinds = f"{type(x).__name__} and {type(y).__name__}"
        raise TombolaError(f"the {where} split holds {kinds}; x and y must be tensors or arrays of numbers") from None
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y):
        raise TombolaError(
            f"the {where} split has inputs {tuple(x.shape)} and targets {tuple(y.shape)}; lengths must agree"
        )
    if x.is_floating_point():
        x = x.float()
    elif x.dtype != torch.uint8:
        x = x.long()
    return Resident(x.contiguous(), (y.float() if y.is_floating_point() else y.long()).contiguous())


def _check_finite(values: Tensor, where: str) -> None:
    if not values.is_floating_point():
        return
    # The sum is finite unless something is not (or it overflows): one cheap pass settles the usual case.
    if bool(torch.isfinite(values.sum())):
        return
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise TombolaError(f"the {where} hold {bad} values that are NaN or infinite; remove or replace them")


def _same_shape(parts: dict[str, Split]) -> tuple[int, ...]:
    shapes = {where: split.shape for where, split in parts.items()}
    for where, shape in shapes.items():
        if shape != shapes["train"]:
            raise TombolaError(
                f"{where} examples have shape {shape}, train examples {shapes['train']}; make them equal"
            )
    return shapes["train"]


def _check_labels(parts: dict[str, Split], classes: int | None) -> int | None:
    """The number of classes, every label that is in memory being below it and none negative.

    None where it is neither given nor known from the training labels or the dataset's own list of classes.
    """
    known = {where: split.y for where, split in parts.items() if isinstance(split, Resident)}
    for where, labels in known.items():
        if labels.is_floating_point():
            raise TombolaError(
                f"{where} targets are {labels.dtype}; classification needs whole numbers, or give a task"
            )
    train = parts["train"]
    if classes is None and isinstance(train, Streamed):
        dataset = train.dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        named = getattr(dataset, "classes", None)
        classes = None if named is None else len(named)
    elif classes is None:
        classes = int(known["train"].max()) + 1
    for where, labels in known.items():
        low, high = (int(value) for value in torch.aminmax(labels))
        if low < 0 or (classes is not None and high >= classes):
            allowed = "0 and up" if classes is None else f"0 to {classes - 1} ({classes} classes)"
            found = low if low < 0 else high
            raise TombolaError(f"label {found} in the {where} split is out of range; allowed are {allowed}")
    return classes
