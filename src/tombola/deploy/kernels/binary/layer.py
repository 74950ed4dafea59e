"""A layer on packed activations: its weights as sign and mask words, its positions, and its sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.deploy.jit.program import Step
from tombola.deploy.kernels.binary.emitted import FOUR, compare_kernel, count_kernel, pack_kernel, pack_planes_kernel
from tombola.deploy.kernels.binary.lookup import BLOCK, MAX_WORDS, disagreements, lookup_kernel, nibbles, room
from tombola.machine.memory import array_address

WORD = 64
_EIGHT = 8
_MIN_POSITIONS = 32  # positions; fewer are counted faster than looked up
_LINE = 64  # bytes of a cache line


@dataclass(frozen=True)
class Maps:
    """Packed activations of one image: pixels of `channels` bits in whole words, with a border of zeros around."""

    channels: int
    height: int
    width: int
    border: tuple[int, int] = (0, 0)

    @property
    def words(self) -> int:
        """Of one pixel."""
        return -(-self.channels // WORD)

    @property
    def rows(self) -> tuple[int, int]:
        """Height and width with the border."""
        return self.height + 2 * self.border[0], self.width + 2 * self.border[1]

    @property
    def has_planes(self) -> bool:
        """Whether float images of this shape can be read channel by channel, eight pixels of eight at once."""
        return self.channels % _EIGHT == 0 and self.height * self.width >= _EIGHT

    def empty(self, batch: int) -> NDArray[np.int64]:
        """(batch, rows, columns, words), all bits 0."""
        return np.zeros((batch, *self.rows, self.words), np.int64)

    def pixel_offsets(self, batch: int) -> NDArray[np.int64]:
        """(batch · height · width): byte offsets of the pixels inside the border."""
        high, wide = self.rows
        image, y, x = np.ogrid[:batch, : self.height, : self.width]
        pixel = (image * high + y + self.border[0]) * wide + x + self.border[1]
        return np.ascontiguousarray(pixel.reshape(-1) * (8 * self.words), np.int64)


@dataclass(frozen=True, eq=False)
class Weights:
    """Signs and masks of a binary layer.

    `words`: int64 (groups, windows, 2, 4): by group of 4 outputs and word of the window, sign words and mask words.
    `kept`: int64 (out, kh · kw): the sum of the signs at each kernel position, `total`: int64 (out): kept weights.
    `scale`: float32 (out); `shift`: the bias or None.
    """

    words: NDArray[np.int64]
    signs: NDArray[np.int64]
    total: NDArray[np.int64]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32] | None

    @property
    def nbytes(self) -> int:
        """Bytes of signs, masks, scales and shifts."""
        looked_up = self.nibbles.nbytes if "nibbles" in vars(self) else 0
        shift = 0 if self.shift is None else self.shift.nbytes
        return self.words.nbytes + looked_up + self.scale.nbytes + shift

    @cached_property
    def nibbles(self) -> NDArray[np.uint8]:
        """`words` in the layout of the look-up; made at first use."""
        return nibbles(self.words)


def pack_weights(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Weights:
    """Of a weight (out, channels, kh, kw) whose rows hold 0 and ± one magnitude, and the magnitudes (out)."""
    out, channels, high, wide = weight.shape
    signs = torch.sign(weight.detach()).to(torch.int8).permute(0, 2, 3, 1).reshape(out, high * wide, channels).numpy()
    words = -(-channels // WORD)
    rows = -(-out // _EIGHT) * _EIGHT
    planes = np.zeros((2, rows, high * wide, words * WORD), np.bool_)
    planes[0, :out, :, :channels], planes[1, :out, :, :channels] = signs > 0, signs != 0
    packed = np.packbits(planes, axis=-1, bitorder="little").view(np.int64)  # (2, rows, positions, words)
    grouped = packed.reshape(2, rows // FOUR, FOUR, high * wide * words).transpose(1, 3, 0, 2)
    return Weights(
        np.ascontiguousarray(grouped),
        signs.sum(2, dtype=np.int64),
        np.abs(signs).sum((1, 2), dtype=np.int64),
        _wide(scale.detach().numpy(), rows),
        None if bias is None else _wide(bias.detach().numpy(), rows),
    )


def _wide(values: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    wide = np.zeros(rows, np.float32)
    wide[: len(values)] = values
    return wide


@dataclass(frozen=True)
class ConvWindow:
    """How a layer's kernel moves over its input."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def out(self, maps: Maps) -> tuple[int, int]:
        """Height and width of the result."""
        high, wide = (
            (size + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i, size in enumerate((maps.height, maps.width))
        )
        return high, wide

    def reach(self, axis: int, size: int) -> NDArray[np.int64]:
        """(out, kernel): which input row or column each kernel position reads, the border counted from below 0."""
        starts = np.arange(size) * self.stride[axis] - self.padding[axis]
        return starts[:, None] + np.arange(self.kernel[axis]) * self.dilation[axis]


class Sums:
    """The sums of a layer for one batch size: int32 (positions, channels up to a multiple of 8), or scaled float32.

    `bits` is read from the address given to `run`; the result lies in `out`.
    """

    def __init__(
        self,
        weights: Weights,
        window: ConvWindow,
        maps: Maps,
        batch: int,
        threads: int,
        *,
        floats: bool,
        look_up: bool,
    ) -> None:
        high, wide = window.out(maps)
        rows = len(weights.scale)
        self.shape = (batch, high, wide, rows)
        self.out = np.zeros(self.shape, np.float32 if floats else np.int32)
        kinds, bases = _bases(weights, window, maps, (high, wide), rows)
        shifts = weights.scale if weights.shift is None else weights.shift
        positions, inside, kinds = _positions(window, maps, batch), _window(window, maps), np.tile(kinds, batch)
        look_up = look_up and len(positions) >= _MIN_POSITIONS and len(inside) <= MAX_WORDS
        groups = len(weights.words)
        bounds = _bounds(len(positions), groups, threads, BLOCK if look_up else 1)
        words: NDArray[Any] = weights.nibbles if look_up else weights.words
        kept: list[Any] = [positions, inside, bases, kinds, bounds, words, weights, self.out]
        args = [
            0, array_address(positions), array_address(inside), len(inside), array_address(words), groups,
            array_address(bases), array_address(kinds), array_address(self.out), 4 * rows, array_address(bounds),
            array_address(weights.scale), array_address(shifts),
        ]  # fmt: skip
        if look_up:
            space = room(len(inside))
            scratch = np.zeros(threads * space + _LINE, np.uint8)
            tables, start = disagreements(), array_address(scratch)
            args += [array_address(tables), start + -start % _LINE, space]
            kept += [tables, scratch]
        kernel = lookup_kernel if look_up else count_kernel
        code = kernel(floats=floats, shifts=floats and weights.shift is not None)
        self.step = Step(code.address("step"), np.array(args, np.int64), (*kept, code))


class Bits:
    """The bits of sums for one batch size: the largest of each pooling window against the channel's threshold."""

    def __init__(
        self, sums: Sums, pool: ConvWindow | None, thresholds: NDArray[np.int32], flips: NDArray[np.uint8], maps: Maps
    ) -> None:
        batch, high, wide, rows = sums.shape
        moved = pool or ConvWindow((1, 1))
        y, x = moved.reach(0, maps.height), moved.reach(1, maps.width)
        image = np.arange(batch)[:, None, None] * (high * wide)
        windows = (image + y[:, :1] * wide + x[:, 0]).reshape(-1) * (4 * rows)
        reach = ((y[0] - y[0, 0])[:, None] * wide + (x[0] - x[0, 0])).reshape(-1) * (4 * rows)
        self.maps, self.out = maps, maps.empty(batch)
        offsets = maps.pixel_offsets(batch)
        kept = [np.ascontiguousarray(a, np.int64) for a in (windows, reach, offsets)]
        args = [
            array_address(sums.out), array_address(kept[0]), array_address(kept[1]), len(reach),
            array_address(thresholds), array_address(flips), array_address(self.out), array_address(kept[2]),
            rows // _EIGHT, len(windows), 0,
        ]  # fmt: skip
        code = compare_kernel()
        self.step = Step(
            code.address("step"), np.array(args, np.int64), (kept, sums, thresholds, flips, self.out, code)
        )


class Packing:
    """Packed signs of float32 images for one batch size.

    `planes`: whether they are read channel by channel (N, C, H, W); else the channels of a pixel are contiguous, in
    eights. The addresses of source and target are the step's first two words.
    """

    def __init__(self, maps: Maps, batch: int, *, planes: bool) -> None:
        offsets = maps.pixel_offsets(1 if planes else batch)
        eights = -(-maps.channels // _EIGHT)
        args = [0, 0, array_address(offsets), eights]
        if planes:
            code = pack_planes_kernel()
            args += [batch, len(offsets), 8 * maps.rows[0] * maps.rows[1] * maps.words]
        else:
            code = pack_kernel()
            args += [len(offsets), 4 * _EIGHT * eights]
        self.step = Step(code.address("step"), np.array(args, np.int64), (offsets, code))


def _positions(window: ConvWindow, maps: Maps, batch: int) -> NDArray[np.int64]:
    """Byte offsets of the windows of all positions."""
    high, wide = window.out(maps)
    down, across = maps.rows
    y, x = window.reach(0, high)[:, 0] + maps.border[0], window.reach(1, wide)[:, 0] + maps.border[1]
    image = np.arange(batch)[:, None, None] * down
    pixel = (image + y[:, None]) * across + x
    return np.ascontiguousarray(pixel.reshape(-1) * (8 * maps.words), np.int64)


def _window(window: ConvWindow, maps: Maps) -> NDArray[np.int64]:
    """Byte offsets of the words of a window from its first."""
    y = np.arange(window.kernel[0]) * window.dilation[0]
    x = np.arange(window.kernel[1]) * window.dilation[1]
    pixel = y[:, None] * maps.rows[1] + x
    words = pixel[..., None] * maps.words + np.arange(maps.words)
    return np.ascontiguousarray(words.reshape(-1) * 8, np.int64)


def _bases(
    weights: Weights, window: ConvWindow, maps: Maps, out: Sequence[int], rows: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(kind of each position of an image, bases of each kind): kinds differ in the kernel positions over the border."""
    y, x = window.reach(0, out[0]), window.reach(1, out[1])
    over_y, over_x = (y < 0) | (y >= maps.height), (x < 0) | (x >= maps.width)
    over = (over_y[:, None, :, None] | over_x[None, :, None, :]).reshape(out[0] * out[1], -1)
    patterns, kinds = np.unique(over, axis=0, return_inverse=True)
    bases = np.zeros((len(patterns), rows), np.int32)
    bases[:, : len(weights.total)] = weights.total + patterns.astype(np.int64) @ weights.signs.T
    return kinds.reshape(-1).astype(np.int32), bases


def _bounds(positions: int, groups: int, threads: int, block: int) -> NDArray[np.int64]:
    """(threads, 4): shares of the positions in whole blocks, or of the groups where there are few blocks."""
    blocks = -(-positions // block)
    edges = [min(i * blocks // threads * block, positions) for i in range(threads + 1)]
    cuts = [i * groups // threads for i in range(threads + 1)]
    if blocks >= 16 * threads:
        return np.array([[edges[i], edges[i + 1], 0, groups] for i in range(threads)], np.int64)
    return np.array([[0, positions, cuts[i], cuts[i + 1]] for i in range(threads)], np.int64)
