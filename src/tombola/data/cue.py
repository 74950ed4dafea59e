"""A spurious cue: a square in every image that encodes a class, the right one only in training data.

The question: does a training method avoid learning what is correlated with the label by accident? (Compare the
coloured digits of Arjovsky et al., "Invariant Risk Minimization", arXiv:1907.02893.)
"""

from __future__ import annotations

import colorsys
from typing import TypeAlias

import torch
from torch import Tensor

from tombola.data.config import Cue
from tombola.errors import TombolaError
from tombola.rng.seeds import generator

Stamp: TypeAlias = tuple[int, int, tuple[float, ...]]
"""Top row, left column, and brightness per channel in [0, 1], of one class's square."""

_HUES = 6 * 255
"""Fully saturated colours that differ in 8 bits per channel."""


def plant(images: Tensor, labels: Tensor, cue: Cue, classes: int, *, seed: int, where: str, white: int = 255) -> Tensor:
    """The images with a cue on each; the same tensor if there is none to plant.

    Args:
        images: Stored pixels (N, C, H, W) of any dtype, from 0 to `white`; not written to.
        labels: int64 (N,), from 0 to `classes` - 1.
        seed: The split seed, so that the cues are the same in every run on this data.
        where: Which part this is. In "test" the cue is independent of the label; elsewhere it follows the label.

    Returns:
        A tensor like `images`.

    Raises:
        TombolaError: the cue does not fit the images, or there are not as many different ones as classes.
    """
    if not cue.active:
        return images
    stamps = stamps_of(cue, classes, tuple(images.shape[1:]))
    cued = cued_classes(labels, cue, classes, seed=seed, where=where)
    side = side_of(cue, tuple(images.shape[1:]))
    out = images.clone()
    for label, (top, left, brightness) in enumerate(stamps):
        paint = (
            (torch.tensor(brightness, dtype=torch.float32, device="cpu") * white)
            .round()
            .to(out.dtype)
            .view(1, -1, 1, 1)
        )
        out[cued == label, :, top : top + side, left : left + side] = paint
    return out


def cued_classes(labels: Tensor, cue: Cue, classes: int, *, seed: int, where: str) -> Tensor:
    """The class that each image's cue encodes: int64 (N,).

    The images that agree at a lower `agreement` are among those that agree at a higher one.
    """
    if classes < 2:
        raise TombolaError(f"the data has {classes} class; a cue needs at least 2 classes")
    draw = generator(seed, "cue", where)
    if where == "test":
        return torch.randint(classes, labels.shape, generator=draw, device=draw.device)
    agrees = torch.rand(labels.shape, generator=draw, dtype=torch.float64, device=draw.device) < cue.agreement
    other = (labels + 1 + torch.randint(classes - 1, labels.shape, generator=draw, device=draw.device)) % classes
    return torch.where(agrees, labels, other)


def stamps_of(cue: Cue, classes: int, shape: tuple[int, ...]) -> list[Stamp]:
    """The square of each class on images of `shape` (C, H, W), all different."""
    channels, height, width = shape
    side = side_of(cue, shape)
    if side > min(height, width):
        raise TombolaError(f"cue.size is {side}, larger than the images of {height}x{width}; make it smaller")
    if cue.kind == "colour" and channels != 3:
        raise TombolaError(f"cue.kind is colour, but the images have {channels} channel(s), not 3; use corner")
    positions = _positions(height - side, width - side)
    known = _HUES if cue.kind == "colour" else len(positions)
    if known < classes:
        raise TombolaError(
            f"a cue of kind {cue.kind} and size {side} distinguishes at most {known} classes on images of"
            f" {height}x{width}; the data has {classes}: take a smaller size or another kind"
        )
    if cue.kind == "colour":
        return [(0, 0, colorsys.hsv_to_rgb(label / classes, 1.0, 1.0)) for label in range(classes)]
    return [(*positions[label * len(positions) // classes], (1.0,) * channels) for label in range(classes)]


def side_of(cue: Cue, shape: tuple[int, ...]) -> int:
    """The side of the square in pixels, on images of `shape` (C, H, W)."""
    return max(1, round(min(shape[1:]) / 10)) if cue.size is None else cue.size


def _positions(bottom: int, right: int) -> list[tuple[int, int]]:
    """(top, left) of squares along the border, clockwise from the top left, each position once."""
    top_row = [(0, left) for left in range(right)]
    right_column = [(top, right) for top in range(bottom)]
    bottom_row = [(bottom, left) for left in range(right, 0, -1)]
    left_column = [(top, 0) for top in range(bottom, 0, -1)]
    # where the square is as long as a side, opposite sides of the border coincide
    return list(dict.fromkeys([(0, 0), *top_row, *right_column, *bottom_row, *left_column]))
