"""What streamed data is called by: every example and every byte counts, and nothing of the place."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tombola.data import files, kept
from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Streamed, make_splits


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Labelled(Dataset[tuple[Tensor, int]]):
    """1,000 examples; `transform` is applied to x."""

    def __init__(self, labels: list[int], transform: Any = None) -> None:
        self.labels, self.transform = labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = torch.tensor([float(index), 1.0])
        return x if self.transform is None else self.transform(x), self.labels[index]


def digest(labels: list[int], transform: Any = None) -> str:
    return Streamed(Labelled(labels, transform)).digest()


def test_each_label_counts() -> None:
    labels = [i % 2 for i in range(1000)]
    found = {digest(labels)}
    for index in (0, 1, 7, 500, 998, 999):
        found.add(digest([*labels[:index], 1 - labels[index], *labels[index + 1 :]]))
    assert len(found) == 7
    assert digest(list(labels)) in found


def test_order_and_choice_count() -> None:
    labels = [i % 2 for i in range(20)]
    whole = Labelled(labels)
    parts = [Subset(whole, rows) for rows in ([0, 1, 2], [0, 1, 3], [2, 1, 0], [0, 1])]
    assert len({Streamed(part).digest() for part in parts}) == 4
    assert Streamed(Subset(Subset(whole, [4, 5, 6]), [1, 2])).digest() == Streamed(Subset(whole, [5, 6])).digest()


class Rarely:
    """Negates with probability p: torch's, numpy's or Python's generator draws."""

    def __init__(self, p: float, draw: str) -> None:
        self.p, self.draw = p, draw

    def __call__(self, x: Tensor) -> Tensor:
        drawn = {"torch": lambda: float(torch.rand(())), "numpy": np.random.rand, "python": random.random}[self.draw]()
        return -x if drawn < self.p else x


@pytest.mark.parametrize("draw", ["torch", "numpy", "python"])
def test_random_transforms_are_the_same_each_time_and_count_even_if_they_seldom_act(draw: str) -> None:
    labels = [0] * 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert digest(labels, Rarely(1e-9, draw)) == digest(labels, Rarely(1e-9, draw))
    assert digest(labels, Rarely(1e-9, draw)) != digest(labels, Rarely(2e-9, draw))
    assert digest(labels, Rarely(0.5, draw)) == digest(labels, Rarely(0.5, draw))


def test_examples_that_differ_each_time_are_said() -> None:
    own = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="differs each time.*source='v1'"):
        digest([0] * 10, lambda x: x + own.random())


def test_a_given_source_stands_for_the_content() -> None:
    assert Streamed(Labelled([0]), source="v1").digest() == "v1"


def test_bars_say_how_far_the_reading_is() -> None:
    from contextlib import contextmanager

    said: list[Any] = []

    @contextmanager
    def track(text: str, total: int) -> Any:
        said.append((text, total))
        yield said.append

    splits = make_splits(Labelled([0, 1] * 50), Labelled([0, 1]))
    assert splits.identify(track) == splits.fingerprint
    assert said == [("reading examples", 100), 64, 100, ("reading examples", 2), 2]


# -- files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, label in (("ant", 0), ("bee", 1)):
        for index in range(6):
            file = tmp_path / "set" / "train" / name / f"{index}.bmp"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), 16 * index + 100 * label, np.uint8)).save(file)
    return tmp_path / "set"


def of_torchvision(root: Path, **more: Any) -> str:
    return Streamed(ImageFolder(str(root / "train"), **more)).digest()


def of_folder(root: Path) -> str:
    return load_data(DataSpec("folder", root=str(root), in_memory_limit=0.0)).fingerprint


@pytest.mark.parametrize("of", [of_torchvision, of_folder])
def test_each_byte_of_each_file_counts_and_not_the_place(of: Any, root: Path, tmp_path: Path) -> None:
    base = of(root)
    copied = tmp_path / "elsewhere"
    shutil.copytree(root, copied)
    assert of(copied) == base
    file = root / "train" / "bee" / "3.bmp"
    before, times = file.read_bytes(), file.stat()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # as long as before
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert of(root) != base
    file.write_bytes(before)
    assert of(root) == base
    shutil.move(root / "train" / "ant" / "0.bmp", root / "train" / "bee" / "9.bmp")
    assert of(root) != base


def test_transforms_and_labels_of_files_count(root: Path) -> None:
    plain = ImageFolder(str(root / "train"))
    flipped = ImageFolder(str(root / "train"))
    flipped.samples[3] = (flipped.samples[3][0], 1)
    found = {Streamed(plain).digest(), Streamed(flipped).digest()}
    found |= {of_torchvision(root, transform=v2.CenterCrop(size)) for size in (2, 3)}
    found |= {of_torchvision(root, target_transform=lambda label, to=to: to) for to in (2, 3)}
    assert len(found) == 6


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read from now on; what was written a moment ago may be kept."""
    read: list[str] = []
    content = files._content

    def reading(path: Path) -> bytes:
        read.append(path.name)
        return content(path)

    monkeypatch.setattr(kept, "_SETTLED", -60.0)
    monkeypatch.setattr(files, "_content", reading)
    return read


@pytest.mark.parametrize("of", [of_torchvision, of_folder])
def test_each_file_is_read_once_and_again_when_it_is_written(
    of: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counted(monkeypatch)
    base = of(root)
    assert len(read) == 12
    assert of(root) == base
    assert len(read) == 12
    file = root / "train" / "ant" / "1.bmp"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert of(root) != base
    assert read[12:] == ["1.bmp"]
    (root / "train" / "ant" / "new.bmp").write_bytes(file.read_bytes())
    of(root)
    assert read[13:] == ["new.bmp"]


def test_a_moved_file_is_not_read_again_but_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, base = counted(monkeypatch), of_folder(root)
    before = len(read)
    root.rename(root.with_name("moved"))  # as when a disk is mounted elsewhere: then all are read, to the same end
    assert of_folder(root.with_name("moved")) == base
    root.with_name("moved").rename(root)
    (root / "train" / "ant" / "1.bmp").rename(root / "train" / "ant" / "01.bmp")
    assert of_folder(root) != base
    assert read[2 * before :] in ([], ["01.bmp"])  # a file system may count a new name as a change


def test_times_alone_change_no_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, base = counted(monkeypatch), of_folder(root)
    os.utime(root / "train" / "ant" / "1.bmp", (1, 1))
    assert of_folder(root) == base
    assert read[12:] == ["1.bmp"]


def test_a_reading_that_breaks_off_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch)
    monkeypatch.setattr(files, "_CHUNK", 4)
    monkeypatch.setattr(files, "_SAVED", -1.0)
    reading = files._content

    def failing(path: Path) -> bytes:
        if len(read) == 8:
            raise KeyboardInterrupt
        return reading(path)

    monkeypatch.setattr(files, "_content", failing)
    with pytest.raises(KeyboardInterrupt):
        of_torchvision(root)
    monkeypatch.setattr(files, "_content", reading)
    found = of_torchvision(root)
    assert 12 <= len(read) < 20
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    assert of_torchvision(root) == found


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b""])
def test_a_damaged_cache_is_not_believed(
    damage: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, base = counted(monkeypatch), of_torchvision(root)
    (cached,) = (tmp_path / "cache" / "tombola" / "files").iterdir()
    cached.write_bytes(damage(cached.read_bytes()))
    assert of_torchvision(root) == base
    assert len(read) == 24


def test_what_has_just_been_written_is_not_remembered(root: Path, tmp_path: Path) -> None:
    of_torchvision(root)
    assert not (tmp_path / "cache").exists()


def test_no_place_for_the_cache_is_no_mistake(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch)
    (tmp_path / "cache").write_text("a file in its place")
    assert of_torchvision(root) == of_torchvision(root)


def test_the_name_is_the_sum_of_names_and_bytes(root: Path) -> None:
    # names of runs hang on it: it is what it always was
    paths = sorted(str(path) for path in root.rglob("*.bmp"))
    lines = (f"{os.path.relpath(p, root)}\0{hashlib.sha256(Path(p).read_bytes()).hexdigest()}\n" for p in paths)
    assert files.files_digest(paths, root) == hashlib.sha256("".join(lines).encode()).hexdigest()
