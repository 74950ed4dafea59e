"""Image files of many kinds: scaled to 8 bits by what the file says white is, or refused by name."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data.config import DataSpec
from tombola.data.folder import DepthWarning
from tombola.data.images import ImageFileReader, decode, eight_bits
from tombola.data.registry import load_data
from tombola.data.scan import SkippedFilesWarning
from tombola.data.splits import Resident, Splits, Streamed
from tombola.errors import TombolaError

GREY = np.array([[0, 128, 129, 383], [386, 32768, 65406, 65535]], dtype=np.uint16)
AS_BYTES = [[0, 0, 1, 1], [2, 128, 254, 255]]  # round(v / 257)


def png16(path: Path, colour_type: int, values: np.ndarray[Any, Any]) -> None:
    """A 16-bit PNG of any colour type: Pillow writes grey ones only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def tiff(path: Path, values: np.ndarray[Any, Any], sample_format: int = 1, photometric: int = 1) -> None:
    """A plain TIFF of one channel with any kind of sample (1 unsigned, 2 signed, 3 floating-point)."""
    height, width = values.shape
    data = values.tobytes()
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data), 339: sample_format}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + rows + bytes(4)
    )


def big_endian(path: Path) -> None:
    Image.frombytes("I;16B", (4, 2), GREY.astype(">u2").tobytes()).save(path)


def ascii_pgm(path: Path) -> None:
    path.write_text(f"P2\n4 2\n65535\n{' '.join(map(str, GREY.flatten().tolist()))}\n")


SIXTEEN: dict[str, Callable[[Path], None]] = {
    "a.png": lambda path: Image.fromarray(GREY).save(path),
    "b.tif": lambda path: Image.fromarray(GREY).save(path),
    "c.tiff": big_endian,
    "d.pgm": lambda path: Image.fromarray(GREY).save(path),
    "e.pgm": ascii_pgm,
    "f.tif": lambda path: tiff(path, 65535 - GREY, photometric=0),  # 0 is white
    "g.png": lambda path: png16(path, 4, np.stack((GREY, GREY // 2), -1)),  # with transparency
    "h.png": lambda path: png16(path, 2, np.stack((GREY, GREY, GREY), -1)),
}


@pytest.mark.parametrize("name", SIXTEEN)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_so_that_white_stays_white(tmp_path: Path, name: str, channels: int) -> None:
    SIXTEEN[name](tmp_path / name)
    read = eight_bits(decode(str(tmp_path / name), channels))
    assert read.dtype == torch.uint8
    assert read.shape == (channels, 2, 4)
    for plane in read:
        assert plane.tolist() == AS_BYTES


def test_every_sixteen_bit_value_rounds_to_the_nearest_byte() -> None:
    values = torch.arange(65536, dtype=torch.int32)
    assert torch.equal(eight_bits(values), (values.double() / 257).round().to(torch.uint8))


def test_pgm_of_twelve_bits_is_scaled_by_its_own_white(tmp_path: Path) -> None:
    file = tmp_path / "a.pgm"
    file.write_bytes(b"P5\n4 1\n4095\n" + np.array([0, 16, 2048, 4095], ">u2").tobytes())
    assert eight_bits(decode(str(file), 1)).flatten().tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "sample_format"),
    [
        (np.array([[0, 70000]], np.int32), 2),
        (np.array([[0, 2**32 - 1]], np.uint32), 1),
        (np.array([[0, -5]], np.int16), 2),
        (np.array([[0, 0.5]], np.float32), 3),
    ],
)
def test_samples_without_a_known_white_are_refused_by_name(
    tmp_path: Path, values: np.ndarray[Any, Any], sample_format: int
) -> None:
    tiff(tmp_path / "odd.tif", values, sample_format)
    says = r"image .*odd\.tif has (32-bit or signed|floating-point) samples, .*; save the images with 8 or 16 bits"
    with pytest.raises(TombolaError, match=says):
        decode(str(tmp_path / "odd.tif"), 1)
    with pytest.raises(TombolaError, match=says):
        ImageFileReader(1, 2, 1, resize=False).check(str(tmp_path / "odd.tif"))


def palette(path: Path, **options: Any) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(path, **options)


def mode(kind: str, *values: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.new(kind, (2, 1))
        image.putdata(values)
        image.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))

    return write


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("one.png", mode("1", 0, 255), [[0, 0, 0], [255, 255, 255]]),
        ("one.tif", mode("1", 0, 255), [[0, 0, 0], [255, 255, 255]]),
        ("la.png", mode("LA", (10, 0), (200, 255)), [[10] * 3, [200] * 3]),
        ("rgba.png", mode("RGBA", (1, 2, 3, 0), (4, 5, 6, 128)), [[1, 2, 3], [4, 5, 6]]),
        ("rgba.webp", mode("RGBA", (1, 2, 3, 255), (4, 5, 6, 255)), [[1, 2, 3], [4, 5, 6]]),
        ("palette.png", palette, [[255, 0, 0], [0, 0, 255]]),
        ("clear.png", lambda path: palette(path, transparency=1), [[255, 0, 0], [0, 0, 255]]),
        ("cmyk.tif", mode("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), [[255, 0, 0], [0, 0, 0]]),
        ("grey.bmp", mode("L", 7, 9), [[7] * 3, [9] * 3]),
    ],
)
def test_what_other_kinds_mean(tmp_path: Path, name: str, write: Callable[[Path], None], expected: list[Any]) -> None:
    write(tmp_path / name)
    assert decode(str(tmp_path / name), 3).permute(1, 2, 0).tolist() == [expected]
    grey = decode(str(tmp_path / name), 1)
    assert grey.shape == (1, 1, 2)
    weights = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(grey.flatten().float(), torch.tensor(expected).float() @ weights, atol=1.0, rtol=0)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "a.jpg"])
def test_images_stand_upright_as_their_camera_said(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[274] = 6  # shown after a quarter turn clockwise
    stored = Image.new("L", (16, 8))
    stored.paste(255, (0, 0, 8, 8))  # the left half is white: shown at the top
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
    stored.convert("RGB").save(tmp_path / name, exif=exif, **options)
    image = decode(str(tmp_path / name), 1)
    assert image.shape == (1, 16, 8)
    assert image[0, :7].min() > 250
    assert image[0, 9:].max() < 5
    ImageFileReader(16, 8, 1, resize=False).check(str(tmp_path / name))
    with pytest.raises(TombolaError, match="is 16x8 and others 8x16"):
        ImageFileReader(8, 16, 1, resize=False).check(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_several_pages_or_frames_are_refused_by_name(tmp_path: Path, name: str) -> None:
    first, second = (Image.new("RGB", (4, 4), (value, 0, 0)) for value in (10, 200))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    for read in (lambda path: decode(path, 3), ImageFileReader(4, 4, 3, resize=False).check):
        with pytest.raises(TombolaError, match=rf"image .*{name} holds several pages or frames; save each"):
            read(str(tmp_path / name))


def test_previews_behind_a_camera_image_do_not_matter(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (8, 8), (value, value, value)) for value in (10, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert int(decode(str(tmp_path / "a.jpg"), 3).max()) < 20
    ImageFileReader(8, 8, 3, resize=False).check(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    whole = file.read_bytes()
    for damaged in (b"", b"no image", whole[:30], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(TombolaError, match=rf"^cannot read image .*{name} \([^\n]*\); replace or remove it$"):
            decode(str(file), 3)
    file.unlink()
    with pytest.raises(TombolaError, match="cannot read image"):
        decode(str(file), 3)


@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"])
def test_a_header_is_checked_without_the_pixels(tmp_path: Path, name: str, resize: bool) -> None:
    file, reader = tmp_path / name, ImageFileReader(40, 40, 3, resize=resize)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    whole = file.read_bytes()
    for damaged in (b"", b"no image", whole[:30]):
        file.write_bytes(damaged)
        with pytest.raises(TombolaError, match=rf"^cannot read image .*{name} \([^\n]*\); replace or remove it$"):
            reader.check(str(file))
    if name != "a.webp":  # which is opened as a whole
        file.write_bytes(whole[:-500])
        reader.check(str(file))


# ---- in folders --------------------------------------------------------------------------------------------


def fill(root: Path, pixels: np.ndarray[Any, Any], name: str = "{}.png") -> Path:
    for label in ("ant", "bee"):
        for part, count in (("train", 4), ("test", 2)):
            (root / part / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(pixels).save(root / part / label / name.format(i))
    return root


def load(root: Path, **fields: Any) -> Splits:
    return load_data(DataSpec("folder", root=str(root), args={"channels": 1}, **fields))


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_a_folder_of_sixteen_bits_holds_what_eight_bits_would(tmp_path: Path, limit: float) -> None:
    eight = load(fill(tmp_path / "8", np.array(AS_BYTES, np.uint8)), in_memory_limit=limit)
    with pytest.warns(DepthWarning, match=r"16 bits, such as .*\.png, are reduced to 8: 0 to 65535 becomes 0 to 255"):
        deep = load(fill(tmp_path / "16", GREY), in_memory_limit=limit)
    for part, expected in ((deep.train, eight.train), (deep.test, eight.test)):
        if isinstance(part, Resident):
            assert isinstance(expected, Resident)
            assert torch.equal(part.x, expected.x)
        else:
            assert isinstance(part, Streamed)
            assert isinstance(expected, Streamed)
            assert torch.equal(part.dataset[1][0], expected.dataset[1][0])


def test_dark_sixteen_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=r"no brighter than 4095 of 65535 .* leaves 16 of 256 levels; stretch"):
        load(fill(tmp_path, GREY // 16))


@pytest.mark.parametrize("limit", [1.0, 0.0])
@pytest.mark.parametrize("where", ["train", "test"])
def test_one_odd_file_is_found_before_training(tmp_path: Path, limit: float, where: str) -> None:
    fill(tmp_path, np.array(AS_BYTES, np.uint8))
    for i in range(4, 150):  # more than are looked at first
        Image.fromarray(np.array(AS_BYTES, np.uint8)).save(tmp_path / where / "ant" / f"{i:03}.png")
    odd = tmp_path / where / "ant" / "077.tif"
    tiff(odd, np.array([[0.0, 1.0]], np.float32), 3)
    with pytest.raises(TombolaError, match=r"image .*077\.tif has floating-point samples"):
        load(tmp_path, in_memory_limit=limit)
    odd.write_bytes(b"")
    with pytest.raises(TombolaError, match=r"cannot read image .*077\.tif"):
        load(tmp_path, in_memory_limit=limit)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(odd)
    with pytest.raises(TombolaError, match=r"077\.tif is 3x3 and others 2x4; give image_size"):
        load(tmp_path, in_memory_limit=limit)


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_what_is_no_class_and_no_image_is_left_out_and_said(tmp_path: Path, limit: float) -> None:
    clean = load(fill(tmp_path, np.array(AS_BYTES, np.uint8)), in_memory_limit=limit)
    for stray in (".ipynb_checkpoints", "__MACOSX/ant", "__pycache__", ".git/objects", "ant/.ipynb_checkpoints"):
        (tmp_path / "train" / stray).mkdir(parents=True)
        Image.fromarray(GREY).save(tmp_path / "train" / stray / "copy.png")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "test" / "notes").mkdir()
    (tmp_path / "test" / "notes" / "read.txt").write_text("no image")
    (tmp_path / "validation").mkdir()
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._1.png"):
        (tmp_path / "train" / "bee" / name).write_bytes(b"no image")
    Image.fromarray(GREY).save(tmp_path / "train" / "lost.png")
    with pytest.warns(SkippedFilesWarning) as caught:
        found = load(tmp_path, in_memory_limit=limit)
    (said,) = [str(one.message) for one in caught if one.category is SkippedFilesWarning]
    assert "\n" not in said
    for part in ("train/empty (no images)", "test/notes (no images)", "validation (read are", "4 more", "6 files"):
        assert part in said
    assert found.classes == 2
    assert found.fingerprint == clean.fingerprint


def test_a_clean_folder_says_nothing(tmp_path: Path) -> None:
    fill(tmp_path, np.array(AS_BYTES, np.uint8), "{}.PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)  # torchvision's own
        assert len(load(tmp_path).train) == 7


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    fill(tmp_path, np.array(AS_BYTES, np.uint8))
    (tmp_path / "train" / "ant" / "again").symlink_to(tmp_path / "train" / "ant", target_is_directory=True)
    assert len(load(tmp_path).train) + len(load(tmp_path).val) == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("test", "bee", "cat"), r"differ in bee, cat; make them agree \(test lacks bee, train lacks cat\)"),
        (("test", "bee", ".bee"), r"differ in bee; make them agree \(test lacks bee\)"),
        (("train", "bee", ".bee"), r"differ in bee; make them agree \(train lacks bee\)"),
    ],
)
def test_parts_must_have_the_same_classes(tmp_path: Path, change: tuple[str, str, str], says: str) -> None:
    fill(tmp_path, np.array(AS_BYTES, np.uint8))
    where, old, new = change
    (tmp_path / where / old).rename(tmp_path / where / new)
    with pytest.raises(TombolaError, match=says):
        load(tmp_path)


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_part_without_images(tmp_path: Path, where: str) -> None:
    fill(tmp_path, np.array(AS_BYTES, np.uint8))
    for file in (tmp_path / where).glob("*/*"):
        file.rename(file.with_suffix(".gif"))
    with pytest.raises(TombolaError, match=rf"{where} has no class folder with images in it; .*\.webp"):
        load(tmp_path)
