"""A user's inputs and targets as tensors; what cannot become one is an error of one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from tombola.data.digest import OfFiles
from tombola.data.labels import Allowed
from tombola.errors import TombolaError
from tombola.rng.guard import seeded, seeded_torch


def as_inputs(x: Tensor, floats: torch.dtype | None) -> Tensor:
    """Inputs in the dtypes of networks: floating-point ones in `floats` (None: as they are), booleans as such.

    uint8 stays (pixels), other integers become int64 (tokens), complex numbers stay.
    """
    if x.dtype == torch.bool:
        return x.to(floats or torch.float32)
    if x.is_floating_point():
        return x if floats is None else x.to(floats)
    return x if x.dtype == torch.uint8 or x.is_complex() else x.long()


def as_targets(y: Tensor, floats: torch.dtype | None) -> Tensor:
    """Targets: floating-point ones in `floats` (None: as they are), but at least float32; all others int64."""
    if not y.is_floating_point():
        return y if y.is_complex() else y.long()
    return y.to(torch.promote_types(floats or y.dtype, torch.float32))


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, device="cpu")


def as_pair(x: Any, y: Any, whose: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets as detached tensors of whatever dtype.

    Raises:
        TombolaError: one of them is no tensor, array or number; `whose` begins the line.
    """
    try:
        pair = _tensor(x).detach(), _tensor(y).detach()
    except (TypeError, ValueError, RuntimeError):
        kinds = " and ".join(_kind(part) for part in (x, y))
        hints = list(dict.fromkeys(filter(None, (_hint(x, "inputs"), _hint(y, "targets")))))
        raise TombolaError(
            f"{whose} holds {kinds}; x and y must be tensors or arrays of numbers" + "".join(f"; {h}" for h in hints)
        ) from None
    for what, tensor in zip(("inputs", "targets"), pair, strict=True):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
            kind = str(tensor.layout).removeprefix("torch.") if tensor.layout != torch.strided else "not plain"
            raise TombolaError(
                f"{whose} has {what} that are {kind}; give dense tensors with values, e.g. by to_dense()"
            )
    return pair


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} of {value.dtype}"
    if isinstance(value, list | tuple) and value:
        return f"{type(value).__name__} of {type(value[0]).__name__}"
    return type(value).__name__


def _hint(value: Any, what: str) -> str:
    """How to turn a value into numbers; "" where nothing is known about it, or nothing is wrong."""
    first = value
    while isinstance(first, list | tuple | np.ndarray) and len(first):
        first = first[0]
    if isinstance(first, str | bytes):
        return f"number the {what} that are text, from 0 on"
    if first is None:
        return f"give {what}, or leave out the examples that have none"
    if isinstance(first, Mapping):
        return f"put the {what} into one tensor, and take it apart in the {'network' if what == 'inputs' else 'task'}"
    if isinstance(value, list | tuple) and isinstance(value[0], Tensor | np.ndarray):
        return f"put the {what} into one tensor, e.g. with torch.stack"
    if hasattr(value, "to_numpy"):
        return f"give {what}.to_numpy()"
    if hasattr(first, "convert") or hasattr(first, "getpixel"):
        return "images need a transform such as torchvision's ToImage"
    return ""


def fetch(dataset: Dataset[Any], index: int, seed: int) -> tuple[Tensor, Tensor]:
    """One example of a map-style dataset, its random transforms drawing from `seed` alone; dtypes as `as_inputs` and
    `as_targets` make them.

    The global generators of torch, numpy and random are put back as they were.
    """
    with seeded_torch(seed) if _draws_from_torch_alone(dataset) else seeded(seed):
        item = dataset[index]
    if not isinstance(item, tuple | list) or len(item) != 2:
        form = _kind(item)
        if isinstance(item, Mapping):
            form += f" with keys {', '.join(map(str, list(item)[:4]))}"
        elif isinstance(item, tuple | list):
            form = f"{type(item).__name__} of {len(item)}"
        raise TombolaError(
            f"example {index} is a {form}; a dataset must give (x, y) pairs: wrap it in one whose __getitem__ does"
        )
    x, y = as_pair(item[0], item[1], f"example {index}")
    return as_inputs(x, None), as_targets(y, None)


def _draws_from_torch_alone(dataset: Dataset[Any]) -> bool:
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return isinstance(dataset, OfFiles)


@dataclass(frozen=True)
class Form:
    """The form of every example of a streamed split: `where` names the split, `shape` is that of one input, `labels`
    are those that the task knows (None: its targets are no labels)."""

    where: str
    shape: tuple[int, ...]
    labels: Allowed | None = None

    def check(self, x: Tensor, y: Tensor, index: int) -> None:
        """TombolaError if example `index` is of another form, or holds NaN or infinite values."""
        whose = f"example {index} of the {self.where} split"
        if tuple(x.shape) != self.shape:
            raise TombolaError(f"{whose} has shape {tuple(x.shape)}, the first one {self.shape}; make them equal")
        check_finite(x, f"inputs of {whose}")
        check_finite(y, f"targets of {whose}")
        if self.labels is not None and not y.is_floating_point():
            self.labels.check(y, whose)


def fetch_checked(dataset: Dataset[Any], index: int, seed: int, form: Form | None) -> tuple[Tensor, Tensor]:
    """`fetch`; TombolaError if the example is not of that form."""
    x, y = fetch(dataset, index, seed)
    if form is not None:
        form.check(x, y, index)
    return x, y


def check_finite(values: Tensor, where: str) -> None:
    """TombolaError if floating-point values are NaN or infinite; `where` names them."""
    if not values.is_floating_point():
        return
    # The sum is finite unless something is not (or it overflows): one cheap pass decides the usual case.
    if bool(torch.isfinite(values.sum())):
        return
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        values_text = "1 value that is" if bad == 1 else f"{bad} values that are"
        raise TombolaError(f"the {where} hold {values_text} NaN or infinite; remove or replace them")
