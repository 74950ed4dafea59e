"""A spurious cue: where it lies, whom it agrees with, and that it goes the whole way from option to ticket."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tombola.cli import main
from tombola.data.config import Augment, Cue, DataSpec
from tombola.data.cue import cued_classes, plant, side_of, stamps_of
from tombola.data.registry import load_data
from tombola.data.splits import Normalisation, Resident, Splits
from tombola.errors import TombolaError
from tombola.search.describe import describe_data
from tombola.study.recorded import data_of
from tombola.ticket.ticket import Ticket
from tombola.train.fabric import make_fabric
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup, run_trial

CORNER = Cue("corner")
GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def squares(images: Tensor, cue: Cue, classes: int, white: int = 255) -> Tensor:
    """The class whose square lies on each image; -1 where none does, and an error where several do."""
    shape = tuple(images.shape[1:])
    side = side_of(cue, shape)
    found = []
    for top, left, brightness in stamps_of(cue, classes, shape):
        expected = (torch.tensor(brightness) * white).round().view(1, -1, 1, 1)
        found.append((images[:, :, top : top + side, left : left + side] == expected).flatten(1).all(1))
    which = torch.stack(found, 1)
    assert int(which.sum(1).max()) <= 1
    return torch.where(which.any(1), which.int().argmax(1), -1)


def bytes_of(part: Any, normalisation: Normalisation | None, white: int = 255) -> Tensor:
    assert isinstance(part, Resident)
    assert normalisation is not None
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(v).view(shape) for v in (normalisation.mean, normalisation.std))
    return ((part.x * std + mean) * white).round()


def test_corner_squares_by_hand() -> None:
    """Four classes on 5x5 images, side 2: the places are the corners."""
    images = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    planted = plant(images, torch.arange(4), Cue("corner", size=2), 4, seed=0, where="train")
    assert planted.dtype == torch.uint8
    for image, (top, left) in zip(planted, [(0, 0), (0, 3), (3, 3), (3, 0)], strict=True):
        expected = torch.zeros(1, 5, 5, dtype=torch.uint8)
        expected[:, top : top + 2, left : left + 2] = 255
        assert torch.equal(image, expected)
    assert not images.any(), "the given images were written to"


def test_colour_squares_by_hand() -> None:
    planted = plant(torch.full((3, 3, 4, 4), 9), torch.arange(3), Cue("colour", 1), 3, seed=0, where="val")
    assert planted[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    planted[:, :, 0, 0] = 9
    assert bool((planted == 9).all())


@pytest.mark.parametrize(
    ("shape", "classes", "size"),
    [(GREY, 10, None), (COLOUR, 10, None), (COLOUR, 100, None), ((1, 8, 8), 10, 3), ((1, 2, 2), 4, 1), (GREY, 100, 3)],
)
def test_every_class_has_its_own_place_on_the_border(shape: tuple[int, int, int], classes: int, size: int) -> None:
    cue = Cue("corner", size)
    side, (_, height, width) = side_of(cue, shape), shape
    stamps = stamps_of(cue, classes, shape)
    assert len({(top, left) for top, left, _ in stamps}) == classes
    for top, left, brightness in stamps:
        assert top in (0, height - side) or left in (0, width - side)
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side
        assert brightness == (1.0,) * shape[0]


def test_mnist_sized_squares_stay_clear_of_the_middle_and_of_each_other() -> None:
    places = [(top, left) for top, left, _ in stamps_of(CORNER, 10, GREY)]
    for top, left in places:
        assert not (top + 3 > 4 and top < 24 and left + 3 > 4 and left < 24), "the digit is in the 20x20 in the middle"
    assert all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 3 for a, b in pairwise([*places, places[0]]))


def test_hues_differ_in_bytes() -> None:
    stamps = stamps_of(Cue("colour"), 1000, COLOUR)
    assert len({tuple(round(255 * part) for part in brightness) for _, _, brightness in stamps}) == 1000


def test_agreement() -> None:
    labels = torch.arange(20_000) % 10

    def told(agreement: float, where: str = "train", seed: int = 0) -> Tensor:
        return cued_classes(labels, Cue("corner", agreement=agreement), 10, seed=seed, where=where)

    assert torch.equal(told(1.0), labels)
    assert not bool((told(0.0) == labels).any())
    assert bool((torch.bincount(told(0.0), minlength=10) > 1800).all())
    some = told(0.7) == labels
    assert float(some.double().mean()) == pytest.approx(0.7, abs=0.015)  # 4.6 standard deviations
    assert bool((told(0.9) == labels)[some].all()), "who agrees at a lower agreement agrees at a higher one"
    test = told(1.0, "test")
    assert float((test == labels).double().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(test, told(0.2, "test"))
    assert torch.equal(told(0.7), told(0.7))
    assert not torch.equal(told(0.7), told(0.7, "val"))
    assert not torch.equal(told(0.7), told(0.7, seed=1))
    assert int(test.min()) == 0
    assert int(test.max()) == 9


def test_nothing_is_planted_by_default() -> None:
    images = torch.zeros(2, 1, 1, 1)
    assert plant(images, torch.zeros(2), Cue(), 1, seed=0, where="train") is images
    assert load_data(DataSpec()).fingerprint == load_data(DataSpec(cue=Cue("none"))).fingerprint


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "border"}, r"unknown cue.kind 'border' .*allowed: none, corner, colour"),
        ({"kind": "corner", "size": 0}, "cue.size is 0"),
        ({"kind": "corner", "agreement": 1.5}, "cue.agreement is 1.5; it must lie in 0 to 1"),
        ({"size": 3}, "set cue.kind to corner or colour"),
        ({"agreement": 0.9}, "set cue.kind to corner or colour"),
    ],
)
def test_a_cue_that_means_nothing_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        Cue(**fields)


@pytest.mark.parametrize(
    ("cue", "classes", "shape", "says"),
    [
        (Cue("colour"), 10, GREY, r"cue.kind is colour, but the images have 1 channel\(s\), not 3; use corner"),
        (Cue("corner", 3), 100, (1, 8, 8), "distinguishes at most 20 classes on images of 8x8; the data has 100"),
        (Cue("corner", 29), 10, GREY, "cue.size is 29, larger than the images of 28x28"),
        (Cue("corner", 8), 10, (1, 8, 8), "at most 1 classes"),
        (Cue("colour"), 2000, COLOUR, "at most 1530 classes"),
    ],
)
def test_a_cue_that_does_not_fit_is_one_clear_line(cue: Cue, classes: int, shape: Any, says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        stamps_of(cue, classes, shape)


def told(splits: Splits, cue: Cue, white: int) -> dict[str, Tensor]:
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    classes = splits.classes or 0
    return {
        name: squares(bytes_of(part, splits.normalisation, white), cue, classes) == part.y  # type: ignore[union-attr]
        for name, part in parts.items()
    }


def test_digits_carry_it() -> None:
    plain, cued = load_data(DataSpec()), load_data(DataSpec(cue=CORNER))
    assert isinstance(plain.train, Resident)
    assert isinstance(cued.train, Resident)
    assert torch.equal(plain.train.y, cued.train.y)
    assert int((plain.train.x != cued.train.x).flatten(1).sum(1).max()) == 1, "one pixel of 8x8, the rest as it was"
    for label, (top, left, _) in enumerate(stamps_of(CORNER, 10, (1, 8, 8))):
        assert bool((cued.train.x[cued.train.y == label, 0, top, left] == plain.train.x.max()).all())
    assert plain.fingerprint != cued.fingerprint
    assert cued.fingerprint == load_data(DataSpec(root="elsewhere", cue=CORNER)).fingerprint
    assert cued.fingerprint != load_data(DataSpec(cue=Cue("corner", 2))).fingerprint
    assert cued.fingerprint != load_data(DataSpec(cue=Cue("corner", agreement=0.9))).fingerprint


def fake_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for torchvision's class: 6000 training and 400 test images, 6x6, none of them saturated."""
    pixels = np.random.default_rng(0).integers(10, 200, (6000, 6, 6, 3), dtype=np.uint8)

    class Fake:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            self.data = pixels if train else pixels[:400]
            self.targets = [i % 10 for i in range(len(self.data))]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)


@pytest.mark.parametrize("cue", [Cue("corner"), Cue("colour", 2)])
def test_published_sets_carry_it_as_floats_and_as_bytes(cue: Cue, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar(monkeypatch)
    spec = DataSpec("cifar10", cue=cue)
    splits = load_data(spec)
    agrees = told(splits, cue, 255)
    assert bool(agrees["train"].all())
    assert bool(agrees["val"].all())
    assert 0.02 < float(agrees["test"].double().mean()) < 0.2
    raw = load_data(replace(spec, in_memory_limit=0.0))
    assert isinstance(raw.train, Resident)
    assert raw.train.x.dtype == torch.uint8
    assert bool((squares(raw.train.x, cue, 10) == raw.train.y).all())
    assert raw.fingerprint == splits.fingerprint != load_data(DataSpec("cifar10")).fingerprint
    partly = told(load_data(replace(spec, cue=replace(cue, agreement=0.5))), cue, 255)
    assert 0.45 < float(partly["val"].double().mean()) < 0.55


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        for label in ("cat", "dog", "eel"):
            place = tmp_path / "images" / part / label
            place.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(draw.integers(10, 200, (9, 9, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return tmp_path / "images"


def test_folders_carry_it_and_streamed_ones_refuse(folder: Path) -> None:
    cue = Cue("colour", 2)
    spec = DataSpec("folder", root=str(folder), cue=cue)
    splits = load_data(spec)
    agrees = told(splits, cue, 255)
    assert bool(agrees["train"].all())
    assert bool(agrees["val"].all())
    assert not bool(agrees["test"].all())
    assert splits.fingerprint != load_data(replace(spec, cue=Cue())).fingerprint
    with pytest.raises(TombolaError, match=r"in_memory_limit is 0; raise it, or leave the cue out"):
        load_data(replace(spec, in_memory_limit=0.0))


def own(root: str, seed: int) -> Any:
    raise AssertionError("it is refused before the function is called")


def test_a_data_function_plants_its_own() -> None:
    with pytest.raises(TombolaError, match="a cue is planted only in digits, mnist"):
        load_data(DataSpec(f"{__name__}.own", cue=CORNER))
    with pytest.raises(TombolaError, match=r"cue\.kind is colour, but the images have 1 channel"):
        load_data(DataSpec("digits", cue=Cue("colour")))


def test_the_description_carries_it() -> None:
    spec = DataSpec(cue=Cue("corner", 2, 0.9))
    splits = load_data(spec)
    assert describe_data(spec, splits)["cue"] == {"kind": "corner", "size": 2, "agreement": 0.9}


def test_from_the_command_line_to_the_ticket_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cue = ["--cue.kind", "corner", "--cue.agreement", "0.95"]
    words = ["find", "imp", "--model", "mlp", "--data", "digits", "--levels", "1", "--length", "10it", *cue]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    ticket = Ticket.load(result["ticket"])
    spec = data_of(ticket, "data")
    assert spec == DataSpec(augment=Augment(), cue=Cue("corner", agreement=0.95))
    assert load_data(spec).fingerprint == ticket.provenance["data"]["fingerprint"]
    old = {key: value for key, value in ticket.provenance["data"].items() if key != "cue"}
    older = replace(ticket, provenance={**ticket.provenance, "data": old})
    assert data_of(older, "data").cue == Cue()


def test_the_cue_misleads_a_network() -> None:
    """Trained with the cue it is right in validation and wrong in the test; without it, right in both."""
    recipe = Recipe(length="10ep", optimizer="adam", lr=2e-3, batch_size=60)
    accuracy = {}
    for cue in (Cue(), Cue("corner", 2)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
        setup = TrainingSetup(load_data(DataSpec(cue=cue)), recipe, make_fabric("cpu", "32"))
        result = run_trial(setup, network, seed=0, label="network").result
        accuracy[cue.kind] = result.val_accuracy, result.test_accuracy
    assert min(accuracy["none"]) > 0.9
    assert accuracy["corner"][0] > 0.97
    assert accuracy["corner"][1] < 0.8
