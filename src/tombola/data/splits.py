"""Splits: training, validation and test examples with their task, checked once when they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from tombola.data.config import Augment
from tombola.data.digest import Track, dataset_digest, silently
from tombola.data.examples import Form, as_inputs, as_pair, as_targets, check_finite, fetch, fetch_checked
from tombola.data.labels import (
    Allowed,
    check_forms,
    check_same_names,
    count,
    listed_labels,
    named_classes,
    warn_of_untaught,
)
from tombola.data.task import Loss, Task, accuracy, classification, is_cross_entropy
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.formats import plural
from tombola.rng.seeds import generator

__all__ = [
    "Loss",
    "Normalisation",
    "Resident",
    "Split",
    "Splits",
    "Streamed",
    "Task",
    "accuracy",
    "classification",
    "fetch",
    "holdout",
    "make_splits",
    "subset",
    "tensor_digest",
    "validation_rows",
]

_MAX_CLASSES = 10_000_000
"""The most classes that are inferred from labels."""
_NO_EXAMPLES = (IterableDataset, Tensor, np.ndarray, Mapping)
"""Types with a length and items that are no examples."""


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
        shift = torch.tensor([255.0 * m for m in self.mean], dtype=torch.float32, device="cpu").view(form)
        factor = torch.tensor([1.0 / (255.0 * s) for s in self.std], dtype=torch.float32, device="cpu").view(form)
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

    def __repr__(self) -> str:
        form = str(self.x.dtype).removeprefix("torch.")
        return f"Resident({plural(len(self), 'example')} of shape {self.shape}, {form})"

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
    change with it; where it is left empty every example (or file) is read once to name the runs on it. `form`: what
    every example must be like, checked as they are fetched (None: not checked). `crops`: `dataset` makes the random
    resized crop itself, from the whole image.
    """

    dataset: Dataset[Any]
    plain: Dataset[Any] | None = None
    workers: int = 0
    source: str = ""
    form: Form | None = None
    crops: bool = False

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
        read = partial(fetch_checked, form=self.form)
        contents: dict[int, str] = {}  # with and without random changes the files are the same ones
        digests = [dataset_digest(part, read, tensor_digest, self.workers, track, contents) for part in parts]
        return hashlib.sha256("\n".join([str(len(self)), *digests]).encode()).hexdigest()


Split: TypeAlias = Resident | Streamed


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set and the task. `test` may be None."""

    train: Split
    val: Split
    test: Split | None
    task: Task
    name: str = "data"
    classes: int | None = None
    input_shape: tuple[int, ...] = ()
    normalisation: Normalisation | None = None
    augment: Augment = field(default_factory=Augment)

    @cached_property
    def outputs(self) -> int | None:
        """How many outputs a network built for this data gets; None where that is unknown.

        As many as there are classes. Where the task is of something else: K for float targets (N, K), 1 for (N,);
        one more than the largest of whole-number targets, in any split.
        """
        if self.classes is not None:
            return self.classes
        if isinstance(self.train, Streamed):
            y = fetch(self.train.plain or self.train.dataset, 0, 0)[1].unsqueeze(0)
            if not y.is_floating_point():
                return named_classes(self.train.dataset)
        else:
            y = self.train.y
        if y.is_floating_point():
            return {1: 1, 2: y.shape[-1]}.get(y.dim())
        known = (part.y for part in (self.train, self.val, self.test) if isinstance(part, Resident))
        counts = [count(part, self.task.ignored) for part in known if not part.is_floating_point()]
        return None if y.is_complex() else max((number for number in counts if number is not None), default=None)

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


def holdout(count: int, size: int, seed: int, label: str) -> tuple[Tensor, Tensor]:
    """(kept, held out): sorted int64 indices of `count` examples, `size` of them drawn uniformly."""
    if not 0 < size < count:
        raise TombolaError(f"cannot hold out {size} of {count} examples; allowed are 1 to {count - 1}")
    order = torch.randperm(count, generator=generator(seed, label), device="cpu")
    return order[size:].sort().values, order[:size].sort().values


def validation_rows(
    count: int, size: int | None, split_seed: int, name: str, usual: int | None = None
) -> tuple[Tensor, Tensor]:
    """(kept, held out): `size` of the `count` training examples of a data set drawn for validation.

    Where `size` is None, `usual`, or a tenth.

    Raises:
        TombolaError: at least one example must be held out, and one be left; `name` is the data's.
    """
    if count < 2:
        raise TombolaError(
            f"{name} has {plural(count, 'training example')}, and one at least is held out for validation; give at "
            "least 2, or a validation split"
        )
    if isinstance(size, bool) or not isinstance(size, int | None):
        raise TombolaError(f"val_size is {described(size)}; give a number of examples, or None for a tenth")
    wanted = size if size is not None else max(1, round(count / 10)) if usual is None else usual
    if not 0 < wanted < count:
        given = f"val_size is {wanted:,}" if size is not None else f"{wanted:,} are held out unless val_size says so"
        raise TombolaError(
            f"{given}, but {name} has {plural(count, 'training example')} to hold them out of; "
            f"val_size may be 1 to {count - 1:,}"
        )
    return holdout(count, wanted, split_seed, "val-split")


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
    floats: torch.dtype = torch.float32,
) -> Splits:
    """Splits from (x, y) tuples of tensors or arrays, TensorDatasets, or any map-style torch dataset.

    Where `val` is None, `val_size` examples (a tenth by default) are drawn from `train` with `split_seed`.
    Float inputs are taken as already normalised; uint8 inputs are pixels, scaled to [0, 1] unless `normalisation`
    is given; other integers become int64 (tokens), booleans floats. Floats are held as `floats`, whatever precision
    they come in, and a network gets them in its own: give torch.float64 for one in double precision. Targets are
    int64, or floats likewise. Where the task is of class numbers (`Task.takes_class_numbers`), `classes` is read off
    the labels of all splits or the datasets' own lists if it is None; the label that the task leaves out
    (`Task.ignored`) is none of them. Labels that no training example has are warned of. `workers` processes fetch the
    examples of datasets that are not tensors.

    Raises:
        TombolaError: for an empty split, NaN or infinite values, labels out of range or one-hot, shapes that
            disagree, and what is not numeric.
    """
    if task is not None and not isinstance(task, Task):
        raise TombolaError(f"the task is {described(task)}; give a Task with a loss and a metric")
    if not floats.is_floating_point:
        raise TombolaError(f"floats is {floats}; it must be a floating-point dtype, such as torch.float64")
    parts = {"train": _split(train, "train", workers, floats)}
    if val is None:
        whole = parts["train"]
        kept, held = validation_rows(len(whole), val_size, split_seed, name)
        parts = {"train": subset(whole, kept), "val": subset(whole, held)}
    elif val_size is not None:
        raise TombolaError(f"val_size is {val_size}, but there is a validation split already; leave val_size out")
    else:
        parts["val"] = _split(val, "val", workers, floats)
    if test is not None:
        parts["test"] = _split(test, "test", workers, floats)
    shape = _same_shape(parts)
    classes, task, allowed = _check_labels(parts, classes, task)
    for where, split in parts.items():
        if isinstance(split, Streamed):
            parts[where] = replace(split, form=Form(where, shape, allowed))
    if normalisation is None and isinstance(parts["train"], Resident) and parts["train"].x.dtype == torch.uint8:
        normalisation = Normalisation((0.0,), (1.0,))
    return Splits(
        parts["train"],
        parts["val"],
        parts.get("test"),
        task,
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
    return replace(split, dataset=Subset(split.dataset, picked), plain=plain, source=source)


def _split(given: Any, where: str, workers: int, floats: torch.dtype) -> Split:
    """One part as the user gave it, made a Split and checked on its own."""
    if isinstance(given, TensorDataset):
        given = given.tensors
    if isinstance(given, (tuple, list)):
        if len(given) != 2:
            raise TombolaError(f"the {where} split has {len(given)} tensors; it must be a pair (x, y)")
        split: Split = _resident(given[0], given[1], where, floats)
    elif isinstance(given, Resident):
        split = replace(given, x=as_inputs(given.x, None), y=as_targets(given.y, None))
    elif isinstance(given, Streamed):
        split = given
    elif isinstance(given, _NO_EXAMPLES) or not (hasattr(given, "__getitem__") and hasattr(given, "__len__")):
        raise TombolaError(
            f"the {where} split is {described(given)}; allowed are (x, y), a TensorDataset,"
            " or a map-style dataset with a length"
        )
    else:
        split = Streamed(given, workers=workers)
    if len(split) == 0:
        raise TombolaError(f"the {where} split is empty; it must hold at least 1 example")
    if isinstance(split, Resident):
        check_finite(split.x, f"inputs of the {where} split")
        check_finite(split.y, f"targets of the {where} split")
    return split


def _resident(x: Any, y: Any, where: str, floats: torch.dtype) -> Resident:
    x, y = as_pair(x, y, f"the {where} split")
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y):
        raise TombolaError(
            f"the {where} split has inputs {tuple(x.shape)} and targets {tuple(y.shape)}; lengths must agree"
        )
    return Resident(as_inputs(x, floats).contiguous(), as_targets(y, floats).contiguous())


def _same_shape(parts: dict[str, Split]) -> tuple[int, ...]:
    shapes = {where: split.shape for where, split in parts.items()}
    for where, shape in shapes.items():
        if shape != shapes["train"]:
            raise TombolaError(
                f"{where} examples have shape {shape}, train examples {shapes['train']}; make them equal"
            )
    return shapes["train"]


def _check_inferred(classes: int | None, where: str) -> None:
    if classes is not None and classes > _MAX_CLASSES:
        raise TombolaError(
            f"the largest label of {where} is {classes - 1}, and no network can have as many outputs; number "
            "the classes from 0, e.g. by torch.unique(y, return_inverse=True)"
        )


def _check_labels(
    parts: dict[str, Split], classes: int | None, task: Task | None
) -> tuple[int | None, Task, Allowed | None]:
    """The number of classes, the task, and the labels that it knows (None: it is of something else).

    The number is None where it is neither given nor known from the labels of all splits or the datasets' own lists of
    classes, or where the task is of something else. Labels are checked where they are in memory, or listed by the
    dataset; others when they are fetched.
    """
    chosen = task or classification()
    known = {where: s.y if isinstance(s, Resident) else listed_labels(s.dataset) for where, s in parts.items()}
    labels = {where: y for where, y in known.items() if y is not None}
    whole = not any(y.is_floating_point() or y.is_complex() for y in labels.values())
    wanted = chosen.takes_class_numbers or (whole and (classes is not None or is_cross_entropy(chosen.loss)))
    if not wanted:
        return classes, chosen, None
    check_forms(labels, classes, chosen.ignored)
    counted = ""
    if classes is None:
        streamed = {where: split.dataset for where, split in parts.items() if isinstance(split, Streamed)}
        check_same_names(streamed)
        if "train" in streamed and named_classes(streamed["train"]) is not None:
            classes = max(named_classes(dataset) or 0 for dataset in streamed.values())
        elif "train" in labels:
            counts = [count(y, chosen.ignored) for y in labels.values()]
            classes = max((number for number in counts if number is not None), default=None)
            counted = " and ".join(labels)
            _check_inferred(classes, counted)
    allowed = Allowed(classes, chosen.ignored, counted)
    for where, y in labels.items():
        allowed.check(y, f"the {where} split")
    warn_of_untaught(labels, chosen.ignored)
    ignored = chosen.ignored
    may_occur = ignored is not None and any(y is None or bool((y == ignored).any()) for y in known.values())
    if chosen.metric is accuracy and may_occur:
        chosen = replace(chosen, metric=partial(accuracy, ignore_index=ignored))  # takes a little longer
    return classes, chosen, allowed
