"""Training and test examples as two matrices each: inputs as they were before normalisation, targets one-hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola.data.splits import Normalisation, Resident, Split, Splits
from tombola.errors import TombolaError
from tombola.formats import plural
from tombola.results.double_descent import DescentFit, finite

FEWEST = 2
"""Training examples: one is fitted by every model."""


@dataclass(frozen=True, eq=False)
class Part:
    """`x` (n, d) and `y` (n, K) float64; `labels` (n,) int64, None where the targets are no classes."""

    x: Tensor
    y: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.x)

    def loss(self, outputs: Tensor) -> float:
        """Squared loss of outputs (n, K): summed over the outputs, mean over the examples."""
        return float((outputs - self.y).square().sum(1).mean())

    def error(self, outputs: Tensor) -> float | None:
        """Share of examples whose largest output is not that of their class; None where there are no classes."""
        return None if self.labels is None else float((outputs.argmax(1) != self.labels).double().mean())


@dataclass(frozen=True, eq=False)
class Examples:
    """The parts that a curve is fitted and tested on, and the data's name. Images: pixels in [0, 1]."""

    name: str
    train: Part
    test: Part

    @property
    def n(self) -> int:
        """Training examples."""
        return len(self.train)

    @property
    def inputs(self) -> int:
        """Numbers in one input."""
        return self.train.x.shape[1]

    @property
    def outputs(self) -> int:
        """Targets of one example."""
        return self.train.y.shape[1]

    def measured(self, train: Tensor, test: Tensor, norm: float | None, **place: Any) -> DescentFit:
        """A model with these outputs (n, K) on both parts."""
        return DescentFit(
            **place,
            train_loss=finite(self.train.loss(train)),
            test_loss=finite(self.test.loss(test)),
            train_error=self.train.error(train),
            test_error=self.test.error(test),
            norm=finite(norm),
        )


def examples_of(splits: Splits) -> Examples:
    """Both parts as matrices; the validation split is left alone.

    Raises:
        TombolaError: there is no test split, or the data is streamed, of tokens, or has several targets per example.
    """
    if splits.test is None:
        raise TombolaError("the data has no test split, so no model can be tested; give data with a test split")
    if len(splits.train) < FEWEST:
        raise TombolaError(
            f"{splits.name} has {plural(len(splits.train), 'training example')}, and a curve needs at least {FEWEST}; "
            "raise train_examples, or give more data"
        )
    return Examples(splits.name, _part(splits.train, splits, "train"), _part(splits.test, splits, "test"))


def _part(split: Split, splits: Splits, where: str) -> Part:
    if not isinstance(split, Resident):
        raise TombolaError(
            f"the {where} split is read from files as it is needed, but this needs all examples in memory; raise "
            "in_memory_limit, or give tensors"
        )
    x, y = split.x, split.y
    if x.dtype == torch.uint8:
        x = x.double() / 255
    elif not x.is_floating_point():
        raise TombolaError(f"the inputs of the {where} split are {_form(x)}, but this needs pixels or other numbers")
    elif splits.normalisation is not None:
        x = _pixels(x, splits.normalisation)
    labels = None if y.is_floating_point() else y
    if y.dim() > 2 or (labels is not None and y.dim() != 1):
        raise TombolaError(f"the targets of the {where} split are {_form(y)}; allowed are (n,) labels, (n,) or (n, K)")
    if labels is not None and (splits.classes is None or not 0 <= int(y.min()) <= int(y.max()) < splits.classes):
        raise TombolaError(
            f"the labels of the {where} split are not all classes, 0 to K - 1; leave out the examples without a class"
        )
    targets = y.double().reshape(len(y), -1) if labels is None else F.one_hot(y, splits.classes or 0).double()
    return Part(x.double().flatten(1), targets, labels)


def _pixels(x: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalised images (N, C, ...) as float64 pixels in [0, 1]; what was bytes is given exactly."""
    shift, factor = normalisation.scale(x.dim())
    pixels = x.double() / factor.double() + shift.double()
    whole = pixels.round()
    return (whole if bool((pixels - whole).abs().max() < 0.01) else pixels) / 255


def _form(values: Tensor) -> str:
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
