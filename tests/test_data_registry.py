"""Data sets by name, data functions by import path."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tombola.data.config import Augment, DataSpec
from tombola.data.registry import load_data, names
from tombola.data.splits import Resident, make_splits
from tombola.errors import TombolaError


def rows(split: Any) -> set[bytes]:
    return {row.numpy().tobytes() for row in split.x}


def own(root: str, seed: int, count: int = 6) -> Any:
    """A data function."""
    data = torch.full((count, 2), float(seed)), torch.arange(count) % 2
    return data, data, data


def own_splits(root: str, seed: int) -> Any:
    return make_splits(*own(root, seed))


def useless(root: str, seed: int) -> Any:
    return None


NOT_A_FUNCTION = 3
HERE = __name__


def test_digits() -> None:
    splits = load_data(DataSpec("digits"))
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1294, 144, 359)
    assert (splits.classes, splits.input_shape, splits.name) == (10, (1, 8, 8), "digits")
    assert splits.augment == Augment()
    train, val, test = rows(splits.train), rows(splits.val), rows(splits.test)
    assert not train & val
    assert not train & test
    assert not val & test
    assert isinstance(splits.train, Resident)
    assert abs(float(splits.train.x.mean())) < 0.02
    assert abs(float(splits.train.x.std()) - 1) < 0.02
    assert splits.normalisation is not None
    assert float(splits.train.x.min()) == pytest.approx(float(splits.normalisation.fill()))


def test_digits_are_the_same_every_time_and_split_by_the_split_seed() -> None:
    base = load_data(DataSpec("digits"))
    assert base.fingerprint == load_data(DataSpec("digits", root="elsewhere", in_memory_limit=0.5)).fingerprint
    assert base.fingerprint != load_data(DataSpec("digits"), split_seed=1).fingerprint
    assert base.fingerprint != load_data(DataSpec("digits", val_size=100)).fingerprint
    assert len(load_data(DataSpec("digits", val_size=100)).val) == 100


def test_augmentation_can_be_asked_for() -> None:
    assert load_data(DataSpec("digits", augment=Augment(crop=1))).augment == Augment(crop=1)


def fake_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 10) -> np.ndarray[Any, Any]:
    """Stands in for torchvision's class: 6000 training and 40 test images, 2x2."""
    pixels = np.random.default_rng(0).integers(0, 256, (6000, 2, 2, 3), dtype=np.uint8)

    class Fake:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            self.data = pixels if train else pixels[:40]
            self.targets = [i % classes for i in range(len(self.data))]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    return pixels


def test_cifar_is_read_as_whole_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = fake_cifar(tmp_path, monkeypatch)
    splits = load_data(DataSpec("cifar10", root=str(tmp_path)))
    assert (len(splits.train), len(splits.val), splits.input_shape) == (1000, 5000, (3, 2, 2))
    assert splits.augment == Augment(flip=True, crop=4)
    assert isinstance(splits.test, Resident)
    expected = (pixels[3, 1, 0, 2] / 255 - 0.4465) / 0.2616
    assert float(splits.test.x[3, 2, 1, 0]) == pytest.approx(expected, abs=1e-6)
    assert splits.test.y[:3].tolist() == [0, 1, 2]


def test_above_the_memory_limit_bytes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar(tmp_path, monkeypatch)
    floats, raw = (load_data(DataSpec("cifar10", in_memory_limit=limit)) for limit in (1.0, 0.0))
    assert isinstance(raw.train, Resident)
    assert isinstance(floats.train, Resident)
    assert raw.train.x.dtype == torch.uint8
    assert raw.normalisation is not None
    assert torch.equal(raw.normalisation(raw.train.x), floats.train.x)
    assert raw.fingerprint == floats.fingerprint


def test_labels_outside_the_published_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar(tmp_path, monkeypatch, classes=11)
    with pytest.raises(TombolaError, match="label 10 in the train split is out of range"):
        load_data(DataSpec("cifar10"))


def test_a_failed_download_says_which_files_go_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", refuse)
    with pytest.raises(TombolaError) as error:
        load_data(DataSpec("mnist", root=str(tmp_path)))
    said = str(error.value)
    assert "\n" not in said
    for part in (
        str(tmp_path / "MNIST" / "raw"),
        "t10k}-images-idx3-ubyte",
        "no route to host",
        "another root",
    ):
        assert part in said


def test_without_torchvision_digits_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert load_data(DataSpec("digits")).classes == 10
    for name in ("mnist", "cifar100", "folder"):
        with pytest.raises(TombolaError, match=f"data set {name} needs torchvision"):
            load_data(DataSpec(name))


@pytest.mark.parametrize("attr", ["own", "own_splits"])
def test_a_data_function_is_called_with_root_and_split_seed(attr: str) -> None:
    splits = load_data(DataSpec(f"{HERE}.{attr}", augment=None), split_seed=7)
    assert isinstance(splits.train, Resident)
    assert splits.train.x.tolist() == [[7.0, 7.0]] * 6
    assert splits.classes == 2


def test_arguments_reach_the_data_function() -> None:
    assert len(load_data(DataSpec(f"{HERE}.own", args={"count": 9})).train) == 9


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (DataSpec("minst"), r"unknown data set 'minst' \(did you mean mnist\?\); allowed: digits, mnist"),
        (DataSpec("x"), "unknown data set 'x'; allowed: "),
        (DataSpec("no_such_module.data"), "No module named 'no_such_module'"),
        (DataSpec(f"{HERE}.missing"), "has no 'missing'"),
        (DataSpec(f"{HERE}.NOT_A_FUNCTION"), "is 3; data must name a function"),
        (DataSpec(f"{HERE}.useless"), "gave a NoneType"),
        (DataSpec(f"{HERE}.own_splits", val_size=3), "splits by itself"),
        (DataSpec("digits", args={"colour": 1}), "digits has no argument 'colour'; it has none"),
        (DataSpec("digits", image_size=8), "image_size is for folder data"),
        (
            DataSpec("digits", val_size=5000),
            "val_size is 5,000, but digits has 1,438 .* to hold them out of; val_size may be 1 to 1,437",
        ),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(spec: DataSpec, says: str) -> None:
    with pytest.raises(TombolaError, match=says) as error:
        load_data(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"val_size": 0}, {"image_size": 0}, {"in_memory_limit": -1.0}])
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(TombolaError, match="must be"):
        DataSpec(**bad)


def test_specs_are_plain_values() -> None:
    spec = DataSpec("folder", augment=Augment(flip=True))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert set(names()) == {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "folder"}


@pytest.mark.real_data
def test_mnist(real_data: Path) -> None:
    splits = load_data(DataSpec("mnist", root=str(real_data)))
    assert isinstance(splits.train, Resident)
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (55000, 5000, 10000)
    assert splits.input_shape == (1, 28, 28)
    assert abs(float(splits.train.x.mean())) < 0.01
    assert abs(float(splits.train.x.std()) - 1) < 0.01


def test_digits_are_scikit_learns_own() -> None:
    from sklearn.datasets import load_digits

    from tombola.data.registry import _bundled_digits

    given, table = load_digits(), _bundled_digits()
    assert np.array_equal(table[:, :-1], given.images.reshape(len(table), -1))
    assert np.array_equal(table[:, -1], given.target)
