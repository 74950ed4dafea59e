"""How accurate a network is, on examples that neither trained nor calibrated it where there are such."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tombola.data.splits import Splits
from tombola.data.task import IGNORED, Loss, accuracy
from tombola.errors import TombolaError
from tombola.prune.calibration import Calibration, Data, read
from tombola.prune.watch import watching


class Validation:
    """Examples with labels; `of` gives a network's accuracy on them.

    Args:
        data: the examples.
        metric: accuracy of each example, of (output, labels).

    Raises:
        TombolaError: there are no labels.
    """

    def __init__(self, data: Calibration, metric: Loss = accuracy) -> None:
        if not labelled(data):
            raise TombolaError("there are no labels to be accurate on; give batches (x, y), or a data set")
        if floats := [kind for batch in data.batches if (kind := _kind(batch.target)).is_floating_point]:
            raise TombolaError(f"labels are {str(floats[0])[6:]}, and accuracy compares classes; give whole numbers")
        self._data, self._metric = data, metric

    def of(self, model: nn.Module) -> float:
        """The share of examples, a fraction."""
        hits, count = 0.0, 0
        with watching(model):
            for batch in self._data.batches:
                assert batch.target is not None
                scores = _scores(batch.call(model))
                if self._metric is accuracy:
                    _check_classes(scores, batch.target)
                values = torch.as_tensor(self._metric(scores, batch.target), device="cpu")
                hits += float(values.double().mean()) * batch.size
                count += batch.size
        return hits / count


def validation_of(given: Data, model: nn.Module, calibration: Calibration) -> Validation:
    """The validation examples of a data set; else the examples of the calibration.

    Args:
        given: as `opened` gives it.
        model: whose device and dtype they get.
        calibration: what was read of it.

    Raises:
        TombolaError: there are no labels, or the data set's metric is another one.
    """
    if not isinstance(given, Splits):
        return Validation(calibration)
    if given.task.metric_name != "accuracy":
        raise TombolaError(f"the data set's metric is {given.task.metric_name}; accuracy is needed here")
    own = replace(given, train=given.val)  # what is read is what it would be calibrated on
    return Validation(read(own, model, len(given.val), None, 0), given.task.metric)


def labelled(data: Calibration) -> bool:
    """Whether every batch has labels."""
    return all(batch.target is not None for batch in data.batches)


def has_classes(data: Calibration) -> bool:
    """Whether every batch has labels that are whole numbers."""
    return labelled(data) and not any(_kind(batch.target).is_floating_point for batch in data.batches)


def _check_classes(scores: Tensor, target: Tensor) -> None:
    """TombolaError for labels that no score stands for, which would be taken for mistakes of the network."""
    if scores.dim() < 2 or target.dim() != scores.dim() - 1 or not target.numel():
        return
    labels = target if target.dim() == 1 else target[target != IGNORED]
    low, high = (int(labels.min()), int(labels.max())) if labels.numel() else (0, 0)
    if low < 0 or high >= scores.shape[1]:
        raise TombolaError(
            f"labels go from {low} to {high}, and the network gives scores for classes 0 to {scores.shape[1] - 1}; "
            "give labels among these"
        )


def _kind(target: Tensor | None) -> torch.dtype:
    assert target is not None
    return target.dtype


def _scores(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise TombolaError(f"the network gives a {type(output).__name__}, and accuracy needs one tensor of scores")
    return output.float()
