"""Image files as bytes: how each kind is read, and which kinds are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from tombola.errors import TombolaError

WHITE = 65535
"""White in 16 bits."""

_HEAD = 4096
"""Bytes of a file that are searched for the mark of an animation."""
_ORIENTATION, _QUARTER_TURNS = 274, 5
"""EXIF's orientation tag; from 5 on width and height are swapped (Pillow turns TIFFs itself)."""
_WHITE_IS_ZERO, _PHOTOMETRIC, _BITS = 0, 262, 258
"""TIFF's tags for what 0 means and for the bits of a sample."""


@dataclass(frozen=True)
class ImageFileReader:
    """Reads image files as uint8 (channels, height, width), all of one size.

    `side`: shorter side to which images are resized before their centre is cut out (None: that of the centre).
    """

    height: int
    width: int
    channels: int
    resize: bool
    side: int | None = field(default=None, repr=False)  # names of runs hang on the repr

    @property
    def numbers(self) -> int:
        """Numbers (bytes) in one image."""
        return self.channels * self.height * self.width

    def whole(self, path: str) -> Tensor:
        """The image as it is in the file."""
        return eight_bits(decode(path, self.channels))

    def __call__(self, path: str) -> Tensor:
        """The image, its shorter side resized and its centre cut out where sizes may differ.

        Bilinear and antialiased, as torchvision's v2.Resize and v2.CenterCrop.
        """
        image = self.whole(path)
        if self.side is None and (image.shape[1], image.shape[2]) == (self.height, self.width):
            return image
        self.check_size(path, image.shape[1], image.shape[2])
        side = [self.side or min(self.height, self.width)]
        image = v2.functional.resize(image, side, antialias=True)
        cut: Tensor = v2.functional.center_crop(image, [self.height, self.width])
        return cut

    def check_size(self, path: str, height: int, width: int) -> None:
        """TombolaError if an image of this size would have to be resized, and that was not asked for."""
        if not self.resize and (height, width) != (self.height, self.width):
            sizes = f"{height}x{width} and others {self.height}x{self.width}"
            raise TombolaError(f"images differ in size: {path} is {sizes}; give image_size")

    def check(self, path: str) -> None:
        """TombolaError for a file whose header shows that it cannot be used; the pixels are not read."""
        with _opened(path) as image, _naming(path):
            _depth(image, path)
            width, height = reversed(image.size) if not self.resize and _is_turned(image) else image.size
        self.check_size(path, height, width)


def decode(path: str, channels: int) -> Tensor:
    """The first image of a file, turned upright by its EXIF orientation, (channels, height, width).

    uint8; or int32 from 0 to 65535 where the file has more than 8 bits per channel. Colour becomes grey and grey
    colour as `channels` (1 or 3) asks; palettes are looked up, transparency is dropped. 16-bit colour TIFF and PPM
    give 8 bits, all that Pillow reads of them.

    Raises:
        TombolaError: a damaged file, one with several pages or frames, and 32-bit or signed samples, whose black and
            white the file does not define.
    """
    head = _head(path)
    if head.startswith(b"\x89PNG") and b"acTL" in head.partition(b"IDAT")[0]:
        raise _several(path)
    if not head.startswith(b"RIFF"):  # WebP: torchvision's decoder makes no grey, and turns nothing
        try:
            # Several times faster than Pillow on small images; what it cannot read, Pillow may.
            mode = ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY
            image: Tensor = decode_image(path, mode, apply_exif_orientation=True)
            if image.shape[0] == channels and image.dtype in (torch.uint8, torch.uint16):
                return image if image.dtype == torch.uint8 else image.int()
        except (RuntimeError, ValueError):
            pass
    return _by_pillow(path, channels)


def eight_bits(image: Tensor) -> Tensor:
    """uint8 as it is; int32 values v of 0 to 65535 as round(v / 257), so that white stays white."""
    return image if image.dtype == torch.uint8 else ((image + 128) // 257).to(torch.uint8)


def _by_pillow(path: str, channels: int) -> Tensor:
    with _opened(path) as image, _naming(path):
        white = _depth(image, path)
        upright = ImageOps.exif_transpose(image)
        pixels = np.array(upright if white else upright.convert("RGB" if channels == 3 else "L"))
        inverted = white and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
    if not white:
        planes = torch.from_numpy(pixels)
        return planes.permute(2, 0, 1) if channels == 3 else planes.unsqueeze(0)
    deep = torch.from_numpy(pixels.astype(np.int32))
    deep = (deep.long() * WHITE + white // 2).div(white, rounding_mode="floor").int()
    return (WHITE - deep if inverted else deep).expand(channels, *deep.shape)


def _depth(image: Image.Image, path: str) -> int:
    """The value of white if the image has one channel of more than 8 bits, else 0.

    TombolaError where the file does not define that value.
    """
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # a camera's MPO is a JPEG followed by previews
        raise _several(path)
    if image.mode.startswith("I;16"):
        bits = _tag(image, _BITS) or 16
        return (1 << int(bits)) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return WHITE  # 16 bits, whatever Pillow calls them
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise TombolaError(
            f"image {path} has {kind} samples, and the file does not say which value is white; save the images with"
            " 8 or 16 bits (unsigned), or load them in a data function of your own"
        )
    return 0


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF swaps width and height; PNGs say so before their pixels, which Pillow would read to look behind."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    return bool(image.getexif().get(_ORIENTATION, 1) >= _QUARTER_TURNS)


def _tag(image: Image.Image, number: int) -> Any:
    """The first value of a TIFF tag; None for other files."""
    value = image.tag_v2.get(number) if hasattr(image, "tag_v2") else None
    return value[0] if isinstance(value, tuple) else value


def _head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise _unreadable(path, error) from None


def _opened(path: str) -> Any:
    with _naming(path):
        return Image.open(path)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """What Pillow raises of a damaged file, as a TombolaError that names it."""
    try:
        yield
    except TombolaError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: BaseException) -> TombolaError:
    reason = " ".join(str(error).split())
    return TombolaError(f"cannot read image {path} ({reason}); replace or remove it")


def _several(path: str) -> TombolaError:
    return TombolaError(f"image {path} holds several pages or frames; save each as a file of its own")
