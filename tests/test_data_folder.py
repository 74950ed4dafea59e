"""Class folders of images, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data.config import Augment, DataSpec
from tombola.data.feed import feed
from tombola.data.registry import load_data
from tombola.data.scan import SkippedFilesWarning
from tombola.data.splits import Resident, Splits, Streamed
from tombola.errors import TombolaError

CLASSES = ("ant", "bee")


def draw(path: Path, size: tuple[int, int] = (8, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten training and three test images of each class, 8x8, of several formats."""
    for label, name in enumerate(CLASSES):
        for i in range(10):
            draw(tmp_path / "train" / name / f"{i}.{'bmp' if i == 0 else 'png'}", seed=100 * label + i)
        for i in range(3):
            draw(tmp_path / "test" / name / f"{i}.png", seed=100 * label + 50 + i)
    return tmp_path


def load(root: Path, **fields: Any) -> Splits:
    return load_data(DataSpec("folder", root=str(root), **fields))


def swept(splits: Splits, part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(feed(part, batch_size=4, normalisation=splits.normalisation).sweep())
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_resident_bytes_and_streamed_agree(root: Path) -> None:
    # 26 images of 192 bytes: all as floats, as bytes only, or not at all.
    floats, raw, streamed = (load(root, in_memory_limit=limit / 2**30) for limit in (26 * 768, 26 * 192, 26 * 191))
    assert isinstance(floats.train, Resident)
    assert isinstance(raw.train, Resident)
    assert isinstance(streamed.train, Streamed)
    assert (floats.train.x.dtype, raw.train.x.dtype) == (torch.float32, torch.uint8)
    for splits in (floats, raw, streamed):
        assert splits.test is not None
        assert (len(splits.train), len(splits.val), len(splits.test)) == (18, 2, 6)
        assert (splits.classes, splits.input_shape) == (2, (3, 8, 8))
        assert splits.augment == Augment(flip=True, crop=1)
        for part, expected in zip(
            (splits.train, splits.val, splits.test), (floats.train, floats.val, floats.test), strict=True
        ):
            x, y = swept(splits, part)
            assert isinstance(expected, Resident)
            assert torch.equal(x, expected.x)
            assert torch.equal(y, expected.y)
    assert floats.fingerprint == raw.fingerprint != streamed.fingerprint


def test_pixels_and_labels(root: Path) -> None:
    splits = load(root)
    assert isinstance(splits.test, Resident)
    assert splits.test.y.tolist() == [0, 0, 0, 1, 1, 1]
    pixels = np.asarray(Image.open(root / "test" / "bee" / "1.png"))
    expected = (pixels[2, 5] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(splits.test.x[4, :, 2, 5].numpy(), expected, atol=1e-6)


def test_no_test_folder_and_a_val_folder(root: Path) -> None:
    (root / "test").rename(root / "val")
    splits = load(root)
    assert splits.test is None
    assert (len(splits.train), len(splits.val)) == (20, 6)
    with pytest.raises(TombolaError, match=r"val_size is 2, but .*val exists"):
        load(root, val_size=2)


def test_image_size_resizes_and_crops_the_centre(tmp_path: Path) -> None:
    for i, size in enumerate(((8, 8), (8, 12), (16, 20), (6, 5))):
        draw(tmp_path / "train" / "ant" / f"{i}.png", size, seed=i)
    with pytest.raises(TombolaError, match=r"images differ in size: .*8x12 and others 8x8; give image_size"):
        load(tmp_path)
    splits = load(tmp_path, image_size=8, val_size=1)
    assert splits.input_shape == (3, 8, 8)
    by_name = {len(splits.train): splits.train, len(splits.val): splits.val}
    x = torch.cat([part.x for part in by_name.values() if isinstance(part, Resident)])
    wide = np.asarray(Image.open(tmp_path / "train" / "ant" / "1.png"))[:, 2:10]
    assert splits.normalisation is not None
    expected = splits.normalisation(torch.from_numpy(wide.copy()).permute(2, 0, 1)[None])
    assert any(torch.equal(expected[0], row) for row in x)


def test_grey_images(root: Path) -> None:
    splits = load(root, args={"channels": 1})
    assert splits.input_shape == (1, 8, 8)
    with pytest.raises(TombolaError, match="channels is 2; allowed are 1 and 3"):
        load(root, args={"channels": 2})


def test_streamed_random_crops_come_from_the_seed(root: Path) -> None:
    splits = load(root, image_size=4, in_memory_limit=0.0, augment=Augment(flip=True, zoom=0.3))
    assert splits.augment == Augment(flip=True, zoom=0.3)
    assert isinstance(splits.train, Streamed)
    assert splits.train.crops  # while reading: the feed does not crop again
    source = feed(splits.train, batch_size=4, augment=splits.augment, normalisation=splits.normalisation)
    first = list(source.epoch(1, 0))
    assert first[0][0].shape == (4, 3, 4, 4)
    for start in (0, 2):
        for (x, y), (u, v) in zip(first[start:], source.epoch(1, 0, start), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
    assert not torch.equal(first[0][0], next(source.epoch(2, 0))[0])


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_fingerprint_follows_the_files(root: Path, limit: float) -> None:
    def fingerprint(**fields: Any) -> str:
        return load(root, in_memory_limit=limit, **fields).fingerprint

    base = fingerprint()
    assert fingerprint() == base
    assert fingerprint(val_size=1) != base
    draw(root / "train" / "ant" / "3.png", (4, 16), seed=3)  # shorter rows: another file size
    assert fingerprint(image_size=8) != fingerprint(image_size=4)
    (root / "train" / "ant" / "3.png").unlink()
    assert fingerprint() != base


def odd_class(root: Path) -> None:
    draw(root / "test" / "cat" / "0.png")


def unreadable(root: Path) -> None:
    (root / "train" / "bee" / "5.png").write_bytes(b"not an image")


def no_train(root: Path) -> None:
    (root / "train").rename(root / "training")


def other_size(root: Path) -> None:
    draw(root / "train" / "bee" / "5.png", (8, 9))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (odd_class, "differ in cat; make them agree"),
        (unreadable, r"cannot read image .*5\.png"),
        (no_train, r"no folder .*train; folder data is laid out as"),
        (other_size, r"images differ in size: .*png is 8x\d and others 8x\d; give image_size"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(root: Path, spoil: Any, says: str) -> None:
    spoil(root)
    with pytest.raises(TombolaError, match=says) as error:
        load(root)
    assert "\n" not in str(error.value)


def test_a_streamed_image_that_cannot_be_read_is_named(root: Path) -> None:
    splits = load(root, in_memory_limit=0.0)
    for path in (root / "test" / "bee").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(TombolaError, match=r"^cannot read image [^\n]*\.png \([^\n]*\); replace or remove it$"):
        swept(splits, splits.test)


def test_an_argument_that_folders_do_not_have(root: Path) -> None:
    with pytest.raises(TombolaError, match="no argument 'size'; allowed are channels"):
        load(root, args={"size": 3})


@pytest.mark.parametrize("target", ["train", ".", "train/ant"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_link_to_a_folder_above_brings_no_images_of_other_classes(root: Path, target: str, deep: bool) -> None:
    place = root / "train" / "ant" / "more" if deep else root / "train" / "ant"
    place.mkdir(exist_ok=True)
    (place / "round").symlink_to(root / target, target_is_directory=True)
    with pytest.warns(SkippedFilesWarning, match=r"round \(a link to a folder above\)"):
        splits = load(root)
    assert len(splits.train) + len(splits.val) == 20


def test_a_link_to_images_elsewhere_is_followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    draw(elsewhere / "new.png", seed=7)
    (root / "train" / "bee" / "linked").symlink_to(elsewhere, target_is_directory=True)
    splits = load(root)
    assert len(splits.train) + len(splits.val) == 21
