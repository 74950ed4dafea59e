"""How the activations of a chunk of images lie in memory, with the zero borders that serve as padding.

A row of W pixels takes `row` >= W + padding positions: those after a row are also the left border of the next. With
`inner` > 1 every position holds that many images side by side ("lanes"); with `inner` 1 every image has maps of its own
("flat"), so that a shift of the window is a shift of the flattened map.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT = 4
_LINE = 16  # floats
_PAGE = 4096  # bytes after which the L1 cache's sets repeat
_SPARE = 8  # channels are rounded up to a multiple of it, for kernels that write several rows at once


@dataclass(frozen=True)
class Layout:
    """Distances in positions; a position is `inner` floats."""

    channels: int
    height: int
    width: int
    row: int
    first: int
    """Of pixel (0, 0) of a channel."""
    channel: int
    """Between channels."""
    inner: int
    images: int
    image: int
    """Between images, where they lie one after the other."""
    size: int
    """Bytes, with room to read beyond the last row."""

    def at(self, c: int = 0, y: int = 0, x: int = 0, image: int = 0) -> int:
        """Bytes from the start to a pixel of an image; with images innermost, of the first one."""
        position = c * self.channel + self.first + y * self.row + x + image * self.image
        return position * self.inner * FLOAT

    @property
    def flat(self) -> bool:
        """Whether images lie one after the other."""
        return self.inner == 1

    @property
    def channel_bytes(self) -> int:
        """Bytes from a channel to the next."""
        return self.channel * self.inner * FLOAT

    @property
    def row_bytes(self) -> int:
        """Bytes from a row to the next."""
        return self.row * self.inner * FLOAT

    @property
    def image_bytes(self) -> int:
        """Bytes from an image to the next, where they lie one after the other."""
        return self.image * FLOAT


def layout(
    shape: tuple[int, int, int], row: int, border: tuple[int, int], images: int, *, flat: bool, spread: bool = False
) -> Layout:
    """The layout of maps (C, H, W) with at least `border` (rows, columns) zeros around each.

    `spread`: the maps are written by whole vectors of neighbouring positions, so that even single pixels are not
    packed.
    """
    channels, height, width = shape
    spare = -(-channels // _SPARE) * _SPARE
    if flat:
        packed = (height, width) == (1, 1) and border == (0, 0) and not spread
        first = 0 if packed else _up(border[0] * row + border[1])
        channel = 1 if packed else _up(first + height * row + max(border[0] * row, 8))
        if channel * FLOAT % _PAGE == 0:
            channel += _LINE
        image = _up(spare * channel + 8)
        size = image * images + 4 * row + 8 * _LINE
        return Layout(channels, height, width, row, first, channel, 1, images, image, size * FLOAT)
    first = border[0] * row + border[1]
    channel = first + height * row + border[0] * row
    if channel > 1 and channel * images * FLOAT % _PAGE == 0:
        channel += 1
    size = (spare * channel + first + 1) * images * FLOAT
    return Layout(channels, height, width, row, first, channel, images, images, 0, size)


def _up(positions: int) -> int:
    return -(-positions // _LINE) * _LINE
