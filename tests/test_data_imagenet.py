"""What ImageNet needs: crops and evaluation as torchvision makes them, workers, resume within an epoch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from tombola.data import feed as feeds
from tombola.data.config import Augment, DataSpec
from tombola.data.examples import fetch
from tombola.data.feed import feed
from tombola.data.images import decode
from tombola.data.registry import load_data
from tombola.data.splits import Splits, Streamed, subset
from tombola.errors import TombolaError
from tombola.machine.ranks import Ranks
from tombola.search.describe import describe_data
from tombola.train.checkpoint import CheckpointStore
from tombola.train.loop import train
from tombola.train.recipe import Recipe


def photo(path: Path, seed: int) -> None:
    """A JPEG of some size between 12 and 31 pixels a side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    size = draw.integers(12, 32, 2)
    Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, quality=90)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """52 training and 6 validation images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    for part, count in (("train", 26), ("val", 3)):
        for label in range(2):
            for index in range(count):
                photo(folder / part / f"n{label}" / f"{index:03}.JPEG", 1000 * label + index + 10 * count)
    return folder


def load(root: Path, **fields: Any) -> Splits:
    chosen = {"image_size": 8, "in_memory_limit": 0.0, "workers": 0, **fields}
    return load_data(DataSpec("folder", root=str(root), **chosen))


def train_batches(splits: Splits, seed: int = 3, epoch: int = 1, start: int = 0) -> list[torch.Tensor]:
    source = feed(splits.train, batch_size=8, augment=splits.augment, normalisation=splits.normalisation)
    return [x for x, _ in source.epoch(seed, epoch, start)]


@pytest.mark.parametrize("augment", [Augment(zoom=0.08), Augment(zoom=0.1, aspect=1.25), Augment(zoom=1.0, aspect=1.0)])
def test_crops_are_torchvisions(root: Path, augment: Augment) -> None:
    splits = load(root, augment=augment)
    assert isinstance(splits.train, Streamed)
    ratio = (1 / augment.aspect, augment.aspect)
    crop = v2.RandomResizedCrop(8, scale=(augment.zoom, 1.0), ratio=ratio, antialias=True)
    before = torch.get_rng_state()
    for index in range(len(splits.train)):
        found, _ = fetch(splits.train.dataset, index, 40 + index)
        assert torch.equal(torch.get_rng_state(), before)
        with torch.random.fork_rng():
            torch.manual_seed(40 + index)
            expected = crop(decode(splits.train.dataset.samples[index][0], 3))  # type: ignore[attr-defined]
        assert torch.equal(found, expected)


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_evaluation_resizes_and_cuts_the_centre_as_torchvision_does(root: Path, limit: float) -> None:
    splits = load(root, resize=10, in_memory_limit=limit)
    source = feed(splits.val, batch_size=4, normalisation=splits.normalisation)
    found = torch.cat([x for x, _ in source.sweep()])
    change = v2.Compose([v2.Resize(10, antialias=True), v2.CenterCrop(8)])
    paths = sorted((root / "val").rglob("*.JPEG"))
    pixels = torch.stack([change(decode(str(path), 3)) for path in paths])
    assert splits.normalisation is not None
    assert torch.equal(found, splits.normalisation(pixels))
    plain = feed(load(root).val, batch_size=4, normalisation=splits.normalisation)
    assert not torch.equal(found, torch.cat([x for x, _ in plain.sweep()]))


def test_an_image_of_the_size_asked_for_is_resized_too(tmp_path: Path) -> None:
    for index in range(4):
        path = tmp_path / "train" / "a" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(path)
    found, _ = fetch(load(tmp_path, resize=16, augment=Augment()).train.dataset, 0, 0)  # type: ignore[union-attr]
    image = decode(str(path), 3)
    expected = v2.functional.center_crop(v2.functional.resize(image, [16], antialias=True), [8])
    assert torch.equal(found, expected)
    assert not torch.equal(found, image)


def test_crops_do_not_depend_on_workers_order_or_part(root: Path) -> None:
    augment = Augment(flip=True, zoom=0.2)
    alone = load(root, augment=augment)
    assert len(train_batches(alone)) == 6
    for workers in (1, 2):
        splits = load(root, augment=augment, workers=workers)
        assert isinstance(splits.train, Streamed)
        assert splits.train.workers == workers
        pairs = zip(train_batches(alone, start=2), train_batches(splits, start=2), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(train_batches(alone)[0], train_batches(alone, epoch=2)[0])
    assert isinstance(alone.train, Streamed)
    part = subset(alone.train, torch.tensor([5, 9]))
    assert isinstance(part, Streamed)
    assert torch.equal(fetch(part.dataset, 1, 77)[0], fetch(alone.train.dataset, 9, 77)[0])


def test_ranks_crop_as_one_process_does(root: Path) -> None:
    splits = load(root, augment=Augment(flip=True, zoom=0.2))
    options: dict[str, Any] = {"batch_size": 8, "augment": splits.augment, "normalisation": splits.normalisation}
    halves = [feed(splits.train, ranks=Ranks(rank, 2), **options).epoch(3, 1) for rank in range(2)]
    for whole, *parts in zip(train_batches(splits), *halves, strict=True):
        assert torch.equal(whole, torch.cat([x for x, _ in parts]))


def test_the_feed_does_not_crop_a_second_time(root: Path) -> None:
    splits = load(root, augment=Augment(zoom=0.2))
    assert isinstance(splits.train, Streamed)
    order = torch.randperm(52, generator=feeds.generator(3, "order", 1))[:8].tolist()
    base = feeds.derive(3, "transform", 1)
    pixels = torch.stack([fetch(splits.train.dataset, i, feeds.derive(base, i))[0] for i in order])
    assert splits.normalisation is not None
    assert torch.equal(train_batches(splits)[0], splits.normalisation(pixels))


def test_options_left_alone_leave_no_trace_in_names(root: Path) -> None:
    spec = DataSpec("folder", root=str(root), image_size=8, in_memory_limit=0.0)
    described = describe_data(spec, load_data(spec))
    assert "resize" not in described
    assert "workers" not in described
    assert described["augment"] == {"flip": True, "crop": 1, "translate": 0.0, "rotate": 0.0, "zoom": 0.0}
    names = {load(root, **fields).fingerprint for fields in ({}, {"workers": 2}, {"augment": Augment(flip=True)})}
    assert len(names) == 1
    others = ({"resize": 9}, {"augment": Augment(zoom=0.1)}, {"augment": Augment(zoom=0.1, aspect=1.25)})
    assert len(names | {load(root, **fields).fingerprint for fields in others}) == 4
    asked = DataSpec("folder", image_size=8, resize=9, augment=Augment(zoom=0.1, aspect=1.25))
    described = describe_data(asked, load(root, resize=9, augment=asked.augment))
    assert (described["resize"], described["augment"]["zoom"], described["augment"]["aspect"]) == (9, 0.1, 1.25)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"resize": 256}, r"data\.resize is 256; it must be given with image_size"),
        ({"resize": 200, "image_size": 224}, r"data\.resize is 200; it must be 224 \(image_size\) to 16384"),
        ({"workers": -1}, r"data\.workers is -1; it must be 0 to 1024"),
    ],
)
def test_impossible_sizes(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(TombolaError, match=says):
        DataSpec("folder", **fields)


def test_impossible_aspects() -> None:
    with pytest.raises(TombolaError, match=r"augment\.aspect is 1\.5, but there is no resized crop; set augment\.zoom"):
        Augment(aspect=1.5)
    with pytest.raises(TombolaError, match=r"augment\.aspect is 0\.5; it must lie in 1 to 100"):
        Augment(zoom=0.1, aspect=0.5)


# -- files that a folder of this size is bound to have


def test_extensions_in_capitals_and_nested_folders_count(tmp_path: Path) -> None:
    photo(tmp_path / "train" / "a" / "x.JPEG", 0)
    photo(tmp_path / "train" / "a" / "deep" / "y.JpG", 1)
    photo(tmp_path / "train" / "b" / "z.jpeg", 2)
    assert load(tmp_path, val_size=1).classes == 2


def _raise(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["empty", "link", "folder", "forbidden"])
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, kind: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(4):
        photo(tmp_path / "train" / "a" / f"{index}.jpg", index)
    bad = tmp_path / "train" / "a" / "bad.jpg"
    if kind == "empty":
        bad.touch()
    elif kind == "link":
        bad.symlink_to(tmp_path / "gone.jpg")
    elif kind == "folder":
        bad.mkdir()
        (bad / "x.jpg").write_bytes(b"\xff\xd8\xff")  # the head of a JPEG
    else:
        photo(bad, 9)
        opened = Path.open
        denied = PermissionError(13, "Permission denied", str(bad))  # root, for one, may read what has no permissions
        monkeypatch.setattr(
            Path, "open", lambda path, *a, **k: _raise(denied) if path == bad else opened(path, *a, **k)
        )
    with pytest.raises(TombolaError, match=r"^cannot read image [^\n]*bad\.jpg[^\n]*$"):
        load(tmp_path, in_memory_limit=limit)


def test_a_file_that_breaks_off_is_named_when_it_is_fetched(tmp_path: Path) -> None:
    for index in range(300):  # more than are looked at before
        photo(tmp_path / "train" / "a" / f"{index:03}.jpg", index % 7)
    broken = tmp_path / "train" / "a" / "299.jpg"
    splits = load(tmp_path, workers=2, val_size=1)
    broken.write_bytes(broken.read_bytes()[:-40])
    source = feed(splits.train, batch_size=299, augment=splits.augment, normalisation=splits.normalisation)
    with pytest.raises(TombolaError, match=r"^cannot read image [^\n]*299\.jpg \([^\n]*\); replace or remove it$"):
        next(source.epoch(0, 0))


# -- training


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def trained(root: Path, folder: Path | None, update: Any = None, precision: str = "32") -> dict[str, torch.Tensor]:
    splits = load(root, augment=Augment(flip=True, zoom=0.2), workers=2)
    model = network()
    model(torch.zeros(2, 3, 8, 8))
    recipe = Recipe(length="2ep", batch_size=2, lr=0.05, precision=precision, eval_every="1ep")
    store = None if folder is None else CheckpointStore(folder, every_seconds=0.0)
    return train(model, splits, recipe, seed=5, store=store, update=update).state


def kill_at_step_38(root: str, folder: str) -> None:
    def update(step: int, figures: Any = None) -> None:
        if step == 38:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(Path(root), Path(folder), update)


def test_an_epoch_killed_in_the_middle_goes_on_at_the_same_image(root: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = trained(root, None)
    code = f"import test_data_imagenet as t; t.kill_at_step_38({str(root)!r}, {str(tmp_path / 'run')!r})"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL
    saved = CheckpointStore(tmp_path / "run").load()
    assert saved is not None
    assert saved.snapshot.step == 32  # of 26 in an epoch
    steps: list[int] = []
    resumed = trained(root, tmp_path / "run", lambda step, figures=None: steps.append(step))
    assert steps == list(range(33, 53))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_mixed_precision_takes_streamed_images(root: Path) -> None:
    full, mixed = trained(root, None), trained(root, None, precision="bf16-mixed")
    assert all(tensor.dtype == full[name].dtype for name, tensor in mixed.items())
    for tensor in mixed.values():
        if tensor.is_floating_point():
            assert torch.isfinite(tensor).all()
    assert any(not torch.equal(mixed[name], full[name]) for name in full)
