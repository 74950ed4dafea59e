"""Splits made from tensors and datasets, their fingerprint, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tombola.data.splits import (
    Normalisation,
    Resident,
    Streamed,
    Task,
    accuracy,
    classification,
    fetch,
    holdout,
    make_splits,
)
from tombola.errors import TombolaError


def pair(count: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count * 4).view(count, 4), torch.arange(count) % classes


def numpy_state() -> Any:
    return np.random.get_state()


class Noisy(Dataset[Any]):
    """Examples that draw from every global generator."""

    classes = ("a", "b", "c")

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(2).sum() + np.random.rand() + random.random()
        return torch.full((4,), float(index)) + noise, index % 3


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


def test_accuracy_is_per_example() -> None:
    output = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert accuracy(output, torch.tensor([1, 1])).tolist() == [1.0, 0.0]
    dense = torch.stack((output, output), 2)  # (N, classes, 2)
    assert accuracy(dense, torch.tensor([[1, 0], [0, 0]])).tolist() == [0.5, 1.0]


def test_labels_are_smoothed_in_the_training_loss_only() -> None:
    task = classification(0.1)
    output, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert task.evaluation_loss(output, target) == F.cross_entropy(output, target)
    assert task.loss(output, target) == F.cross_entropy(output, target, label_smoothing=0.1)
    assert classification().loss is F.cross_entropy
    with pytest.raises(TombolaError, match=r"label_smoothing is 1\.0"):
        classification(1.0)


def test_normalisation_of_bytes() -> None:
    norm = Normalisation((0.5, 0.0), (0.25, 1.0))
    pixels = torch.tensor([[[[0]], [[255]]], [[[255]], [[51]]]], dtype=torch.uint8)
    torch.testing.assert_close(norm(pixels).flatten(), torch.tensor([-2.0, 1.0, 2.0, 0.2]))
    assert norm.fill().tolist() == [-2.0, 0.0]
    assert torch.equal(norm(torch.zeros(1, 2, 1, 1)).flatten(), norm.fill())


def test_holdout_is_a_sorted_partition_that_depends_on_the_seed_alone() -> None:
    kept, held = holdout(50, 7, 0, "val-split")
    assert (len(kept), len(held)) == (43, 7)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(50))
    assert kept.tolist() == sorted(kept.tolist())
    assert torch.equal(held, holdout(50, 7, 0, "val-split")[1])
    assert not torch.equal(held, holdout(50, 7, 1, "val-split")[1])
    with pytest.raises(TombolaError, match="allowed are 1 to 49"):
        holdout(50, 50, 0, "val-split")


def test_tuples_arrays_and_tensor_datasets() -> None:
    x, y = pair(6)
    splits = make_splits((x.double(), y), (x.numpy().astype(np.float64), y.numpy()), TensorDataset(x.float(), y.int()))
    assert splits.classes == 3
    assert splits.input_shape == (4,)
    assert splits.task.metric is accuracy
    for part in (splits.train, splits.val, splits.test):
        assert isinstance(part, Resident)
        assert (part.x.dtype, part.y.dtype) == (torch.float32, torch.int64)


def test_tokens_stay_integers_and_bytes_are_pixels() -> None:
    x, y = pair(6)
    assert make_splits((x, y), (x, y)).train.x.dtype == torch.int64  # type: ignore[union-attr]
    pixels = make_splits((x.byte(), y), (x.byte(), y))
    assert pixels.train.x.dtype == torch.uint8  # type: ignore[union-attr]
    assert pixels.normalisation == Normalisation((0.0,), (1.0,))


def test_validation_is_drawn_from_train_where_there_is_none() -> None:
    splits = make_splits(pair(20))
    assert (len(splits.train), len(splits.val), splits.test) == (18, 2, None)
    assert len(make_splits(pair(20), val_size=5).val) == 5
    with pytest.raises(TombolaError, match="val_size is 5, but there is a validation split"):
        make_splits(pair(20), pair(3), val_size=5)


@pytest.mark.parametrize(
    ("examples", "val_size", "says"),
    [
        (20, 20, "val_size is 20, but mine has 20 training examples .*; val_size may be 1 to 19"),
        (20, 0, "val_size is 0, but .*1 to 19"),
        (20, -3, "val_size is -3, but .*1 to 19"),
        (20, True, "val_size is True; give a number of examples"),
        (20, 0.1, "val_size is 0.1; give a number of examples"),
        (1, None, "mine has 1 training example, and one at least is held out .*; give at least 2, or a validation"),
    ],
)
def test_a_validation_split_that_cannot_be_drawn_names_the_option(examples: int, val_size: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        make_splits(pair(examples), name="mine", val_size=val_size)


def test_own_task_with_float_targets() -> None:
    x, _ = pair(6)
    task = Task(F.mse_loss, lambda o, t: -(o - t).square().flatten(1).mean(1), "negative error")
    splits = make_splits((x.float(), x.double()), (x.float(), x.float()), task=task)
    assert splits.classes is None
    assert splits.train.y.dtype == torch.float32  # type: ignore[union-attr]
    assert not splits.train.x.requires_grad  # type: ignore[union-attr]


def test_map_style_datasets_are_streamed() -> None:
    splits = make_splits(Noisy(), Noisy())
    assert isinstance(splits.train, Streamed)
    assert (splits.classes, splits.input_shape, len(splits.val)) == (3, (4,), 12)
    assert make_splits(Noisy(), val_size=3).classes == 3
    assert len(make_splits(Noisy(), val_size=3).train) == 9
    assert splits.fingerprint == make_splits(Noisy(), Noisy()).fingerprint


def test_fetching_is_seeded_and_leaves_the_global_generators_alone() -> None:
    states = torch.get_rng_state(), random.getstate(), numpy_state()[1]
    first, again, other = (fetch(Noisy(), 2, seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], numpy_state()[1])


def test_fingerprint_follows_values_and_split() -> None:
    x, y = pair(20)
    x = x.float()
    base = make_splits((x, y)).fingerprint
    assert base == make_splits((x.clone(), y.clone())).fingerprint
    changed = x.clone()
    changed[7, 3] += 1
    relabelled = y.clone()
    relabelled[0] = 1
    variants = [
        make_splits((changed, y)),
        make_splits((x, relabelled)),
        make_splits((x, y), val_size=3),
        make_splits((x, y), split_seed=1),
        make_splits((x, y), test=(x[:2], y[:2])),
        make_splits((x, y), normalisation=Normalisation((0.5,), (0.5,))),
    ]
    found = {base, *(splits.fingerprint for splits in variants)}
    assert len(found) == 7
    assert all(len(text) == 64 for text in found)


def broken(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = pair(4)
    x = x.float()
    x[1, :2] = value
    return x, y


@pytest.mark.parametrize(
    ("train", "val", "says"),
    [
        (pair(4), broken(float("nan")), "inputs of the val split hold 2 values that are NaN or infinite"),
        (broken(float("inf")), pair(4), "inputs of the train split hold 2 values"),
        ((pair(4)[0], -pair(4)[1]), pair(4), "label -2 in the train split is out of range"),
        (pair(0), pair(4), "the train split is empty"),
        ((pair(4)[0], pair(3)[1]), pair(4), "lengths must agree"),
        ((pair(4)[0], pair(4)[1].float()), pair(4), "classification needs whole numbers"),
        (pair(4), (pair(4)[0][:, :3], pair(4)[1]), r"val examples have shape \(3,\), train examples \(4,\)"),
        ((pair(4)[0],), pair(4), "it must be a pair"),
        (("cats", "dogs"), pair(4), "x and y must be tensors or arrays"),
        (Stream(), pair(4), "the train split is a Stream; allowed are"),
        ([1, 2, 3], pair(4), "it must be a pair"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(train: Any, val: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as error:
        make_splits(train, val)
    assert "\n" not in str(error.value)


def test_datasets_of_images_need_a_transform() -> None:
    class Raw(Noisy):
        def __getitem__(self, index: int) -> Any:
            return (object(), 0) if index == 0 else object()

    with pytest.raises(TombolaError, match="example 0 holds object and int"):
        make_splits(Raw(), Raw())
    with pytest.raises(TombolaError, match="must give"):
        fetch(Raw(), 1, 0)
