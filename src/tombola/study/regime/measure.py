"""What is measured of a trained network: its errors, what it has memorised, and how far training moved it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from tombola.data.config import NOISES, DataSpec
from tombola.data.label_noise import mislabelled
from tombola.data.splits import Split, Splits
from tombola.search.request import loaded
from tombola.study.regime.place import distance
from tombola.train.evaluate import Score


@dataclass(frozen=True)
class Measured:
    """One network: losses and errors on all training and test examples; see `PlacedTicket`."""

    train_loss: float
    test_loss: float | None
    train_error: float
    test_error: float | None
    memorised: float | None
    distance: float | None
    relative_distance: float | None


def measured(
    network: nn.Module,
    first: nn.Module | None,
    splits: Splits,
    wrong: Tensor | None,
    score: Callable[[nn.Module, Split], Score],
) -> Measured:
    """Evaluate a network, whose metric is accuracy, on the training and the test split.

    Args:
        first: the same network before training; None: not known.
        wrong: which training examples are mislabelled, bool (n,); None: not known.
        score: evaluates a network on a split, on whatever device; the network may be moved there.
    """
    moved = (None, None) if first is None else distance(network, first)
    train = score(network, splits.train)
    test = None if splits.test is None else score(network, splits.test)
    return Measured(
        train_loss=train.loss,
        test_loss=None if test is None else test.loss,
        train_error=_error(train),
        test_error=None if test is None else _error(test),
        memorised=memorised(train.values, wrong),
        distance=moved[0],
        relative_distance=moved[1],
    )


def _error(score: Score) -> float:
    return min(1.0, max(0.0, 1.0 - score.metric))


def memorised(hits: Tensor | None, wrong: Tensor | None) -> float | None:
    """Share of the mislabelled training examples that a network gives the wrong label of; None where none are known.

    Args:
        hits: 1 where the label is predicted, else 0, for every training example: float32 (n,).
        wrong: which are mislabelled, bool (n,).
    """
    if hits is None or wrong is None or not bool(wrong.any()):
        return None
    return float(hits[wrong].double().mean())


def wrong_labels(data: Splits | DataSpec, splits: Splits) -> Tensor | None:
    """Which training examples `label_noise` has mislabelled; None without it, and of splits that the caller made."""
    if not isinstance(data, DataSpec) or data.label_noise == 0:
        return None
    return mislabelled(splits, loaded(replace(data, label_noise=0.0, label_noise_kind=NOISES[0])))
