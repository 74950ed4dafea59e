"""Data sets by name: the field's standard ones, class folders of images, the user's own data functions."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tombola.data.config import Augment, DataSpec
from tombola.data.cue import plant
from tombola.data.fewer import with_train_examples
from tombola.data.label_noise import with_label_noise
from tombola.data.shared import image_split, refuse_args
from tombola.data.splits import Normalisation, Resident, Split, Splits, Streamed, holdout, make_splits, validation_rows
from tombola.errors import TombolaError, in_short
from tombola.fields import described
from tombola.names import imported, is_import_path, unknown

_DIGITS = Normalisation(mean=(0.3053,), std=(0.3761,))
"""Of the 1797 digits over their maximum, 16."""


@dataclass(frozen=True)
class _Published:
    """A data set that torchvision knows, with the mean and standard deviation of its training pixels."""

    dataset: str
    folder: str
    files: str
    normalisation: Normalisation
    augment: Augment
    classes: int = 10


_IDX = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte"
_FLIP_AND_CROP = Augment(flip=True, crop=4)
_PUBLISHED = {
    "mnist": _Published("MNIST", "MNIST/raw", _IDX, Normalisation((0.1307,), (0.3081,)), Augment()),
    "fashion-mnist": _Published(
        "FashionMNIST", "FashionMNIST/raw", _IDX, Normalisation((0.2860,), (0.3530,)), Augment()
    ),
    "cifar10": _Published(
        "CIFAR10",
        "cifar-10-batches-py",
        "data_batch_1 to data_batch_5, test_batch and batches.meta",
        Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        _FLIP_AND_CROP,
    ),
    "cifar100": _Published(
        "CIFAR100",
        "cifar-100-python",
        "train, test and meta",
        Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        _FLIP_AND_CROP,
        classes=100,
    ),
}
_VAL_SIZE = 5000
"""Of the 50,000 or 60,000 training images of the sets above, where nothing else is asked for."""


def names() -> tuple[str, ...]:
    """The names that `load_data` knows; also allowed: the import path of a data function."""
    return ("digits", *_PUBLISHED, "folder")


def load_data(spec: DataSpec, *, split_seed: int = 0) -> Splits:
    """The splits that `spec` describes.

    Args:
        spec: Which data, from where. An import path `pkg.mod.attr` names a data function, called as
            `attr(root, split_seed, **args)`; it gives Splits, or (train, val, test) or
            (train, val, test, task) as `make_splits` takes them. `train_examples` are taken first, then their labels
            get the noise.
        split_seed: Seed of the validation split (and of the test split of digits), of a cue's draws, of fewer training
            examples and of label noise, separate from any run's seed.

    Raises:
        TombolaError: for unknown names, missing or unreadable files, and data that cannot be used.
    """
    splits = _loaded(spec, split_seed)
    if spec.train_examples is not None:
        splits = with_train_examples(splits, spec.train_examples, split_seed=split_seed)
    splits = with_label_noise(splits, spec.label_noise, spec.label_noise_kind, split_seed=split_seed)
    return splits if spec.workers is None else _with_workers(splits, spec.workers)


def _with_workers(splits: Splits, workers: int) -> Splits:
    """The splits, what is streamed of them fetched by so many processes."""

    def fetched(split: Split) -> Split:
        return replace(split, workers=workers) if isinstance(split, Streamed) else split

    test = None if splits.test is None else fetched(splits.test)
    return replace(splits, train=fetched(splits.train), val=fetched(splits.val), test=test)


def _loaded(spec: DataSpec, split_seed: int) -> Splits:
    """All training examples, with the labels they have."""
    if spec.image_size is not None and spec.name != "folder":
        raise TombolaError(f"image_size is for folder data; {spec.name} has its own size, leave image_size out")
    if spec.name == "digits":
        splits = _digits(spec, split_seed)
    elif spec.name in _PUBLISHED:
        splits = _published(spec, _PUBLISHED[spec.name], split_seed)
    elif spec.name == "folder":
        needs_torchvision("folder")
        from tombola.data.folder import load_folder

        return load_folder(spec, split_seed)
    elif is_import_path(spec.name):
        splits = _foreign(spec, split_seed)
    else:
        raise TombolaError(
            unknown("data set", spec.name, names(), ", or an import path such as package.module.function")
        )
    return splits if spec.augment is None else replace(splits, augment=spec.augment)


def needs_torchvision(name: str) -> Any:
    """The module torchvision.datasets; TombolaError with the reason where it cannot be imported."""
    try:
        return importlib.import_module("torchvision.datasets")
    except (ImportError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise TombolaError(
            f"data set {name} needs torchvision, which cannot be imported ({reason}); install the torchvision"
            " that belongs to this torch, or use digits"
        ) from None


def _digits(spec: DataSpec, split_seed: int) -> Splits:
    """scikit-learn's own 8x8 digits: a fifth for testing, then a tenth of the rest for validation."""
    refuse_args(spec)
    table = _bundled_digits()
    sixteenths = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8))
    y = torch.from_numpy(table[:, -1]).long()
    rest, test = holdout(len(y), round(len(y) / 5), split_seed, "test-split")

    def part(rows: Tensor, where: str) -> tuple[Tensor, Tensor]:
        pixels = plant(sixteenths[rows], y[rows], spec.cue, 10, seed=split_seed, where=where, white=16)
        return ((pixels / 16 - _DIGITS.mean[0]) / _DIGITS.std[0]).float(), y[rows]

    return make_splits(
        part(rest, "train"),
        test=part(test, "test"),
        name="digits",
        val_size=spec.val_size,
        classes=10,
        normalisation=_DIGITS,
        split_seed=split_seed,
    )


def _bundled_digits() -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 (1797, 65): 64 pixels from 0 to 16, and the label.

    Read from scikit-learn's file: importing scikit-learn takes half as long as importing torch.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")  # decompresses
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])


def _published(spec: DataSpec, about: _Published, split_seed: int) -> Splits:
    refuse_args(spec)
    make = getattr(needs_torchvision(spec.name), about.dataset)
    (x, y), (test_x, test_y) = (_read(make, spec, about, train) for train in (True, False))
    x = plant(x, y, spec.cue, about.classes, seed=split_seed, where="train")
    test_x = plant(test_x, test_y, spec.cue, about.classes, seed=split_seed, where="test")
    kept, held = validation_rows(len(y), spec.val_size, split_seed, spec.name, _VAL_SIZE)
    # The limit is on all splits together; what is over it keeps to bytes.
    as_floats = 4 * (x.numel() + test_x.numel()) <= spec.in_memory_limit * 2**30

    def part(pixels: Tensor, labels: Tensor) -> Resident:
        return image_split(pixels, labels, about.normalisation, as_floats=as_floats)

    return make_splits(
        part(x[kept], y[kept]),
        part(x[held], y[held]),
        part(test_x, test_y),
        name=spec.name,
        classes=about.classes,
        normalisation=about.normalisation,
        augment=about.augment,
    )


def _read(make: Callable[..., Any], spec: DataSpec, about: _Published, train: bool) -> tuple[Tensor, Tensor]:
    """(uint8 (N, C, H, W), int64 (N,)), read as whole arrays; fetched only where the files are missing."""
    try:
        given = make(spec.root, train=train, download=False)
    except (RuntimeError, OSError):
        given = _download(make, spec, about, train)
    pixels = torch.as_tensor(given.data, device="cpu")
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.as_tensor(given.targets, device="cpu").long()


def _download(make: Callable[..., Any], spec: DataSpec, about: _Published, train: bool) -> Any:
    try:
        return make(spec.root, train=train, download=True)
    except Exception as error:  # whatever the network, the disk or the archive raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TombolaError(
            f"no usable {spec.name} under {Path(spec.root) / about.folder}, and no download ({reason});"
            f" put the files {about.files} there, name another root, or run again with a network"
        ) from None


def _foreign(spec: DataSpec, split_seed: int) -> Splits:
    """What the data function at an import path gives."""
    if spec.cue.active:
        raise TombolaError(
            f"cue.kind is {spec.cue.kind}, but a cue is planted only in {', '.join(names())}; leave it out, or plant"
            f" one in {spec.name} itself"
        )
    function = imported("data", spec.name)
    if not callable(function):
        raise TombolaError(f"{spec.name} is {described(function)}; data must name a function (root, seed) -> Splits")
    try:
        given = function(spec.root, split_seed, **spec.args)
    except TombolaError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise TombolaError(
            f"data function {spec.name} failed on (root, seed): {in_short(error)}; fix it, or its args"
        ) from error
    if isinstance(given, Splits):
        if spec.val_size is not None:
            raise TombolaError(f"val_size is {spec.val_size}, but {spec.name} splits by itself; leave val_size out")
        return given
    if not isinstance(given, tuple) or len(given) not in (3, 4):
        raise TombolaError(
            f"{spec.name} gave a {type(given).__name__}; a data function gives Splits or a tuple"
            " (train, val, test) or (train, val, test, task)"
        )
    return make_splits(*given, name=spec.name, val_size=spec.val_size, split_seed=split_seed)
