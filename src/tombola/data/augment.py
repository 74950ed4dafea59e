"""Augmentation of whole batches, every example with its own draws.

The functional transforms of torchvision change all images of a batch alike, and its transform classes draw
from the global generator. Here the draws are an argument, one row per example, so that an image's change
depends only on (seed, epoch, index): the same on every device, after a resume, and for any batch size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola.data.config import Augment
from tombola.errors import TombolaError

# Columns of the draws: each change has its own, whether or not the others are on.
_FLIP, _CROP, _SHIFT, _TURN, _ZOOM, _END = 0, 1, 3, 5, 6, 10


def draws_needed(augment: Augment) -> int:
    """How many uniform draws an example takes (columns of the `draws` of `augment_batch`)."""
    ends = (
        (augment.flip, _CROP),
        (augment.crop > 0, _SHIFT),
        (augment.translate > 0, _TURN),
        (augment.rotate > 0, _ZOOM),
        (augment.zoom > 0, _END),
    )
    return max((end for used, end in ends if used), default=0)


def augment_batch(x: Tensor, draws: Tensor, augment: Augment, fill: Tensor | None = None) -> Tensor:
    """Change each image of a batch by its own draws.

    Args:
        x: Images, float (N, C, H, W), normalised; or uint8 where nothing is interpolated.
        draws: Uniform in [0, 1), float32 (N, at least `draws_needed(augment)`), on the device of `x`.
        augment: What may be changed.
        fill: Value of the padding per channel, float (C,) or (1,): a black pixel's; None for 0.

    Returns:
        Images of the same shape. `x` is not written to.
    """
    if x.dim() != 4 or not (x.is_floating_point() or (x.dtype == torch.uint8 and not augment.interpolates)):
        raise TombolaError(f"augmentation needs float images (N, C, H, W); found {x.dtype} of shape {tuple(x.shape)}")
    padding = (x.new_zeros(1) if fill is None else fill.to(x)).view(1, -1, 1, 1)
    if augment.interpolates:
        grid = F.affine_grid(_affine(draws, augment, x.shape), list(x.shape), align_corners=False).to(x.dtype)
        # Zero padding after taking the fill away is padding with the fill.
        x = F.grid_sample(x - padding, grid, mode="bilinear", align_corners=False) + padding
    if augment.flip:
        # Whole images are picked from (as they were, mirrored): several times faster than a choice per pixel.
        rows = torch.arange(len(x), device=x.device) + len(x) * (draws[:, _FLIP] < 0.5)
        x = torch.cat((x, x.flip(-1))).index_select(0, rows)
    if augment.crop:
        x = _crop(x, draws[:, _CROP:_SHIFT], augment.crop, padding)
    return x


def _crop(x: Tensor, draws: Tensor, pad: int, padding: Tensor) -> Tensor:
    """Pad by `pad`, then cut the window at floor(draw * (2 pad + 1)) rows and columns from the top left."""
    n, c, h, w = x.shape
    wide = padding.expand(n, c, h + 2 * pad, w + 2 * pad).clone()
    wide[:, :, pad : pad + h, pad : pad + w] = x
    at = (draws * (2 * pad + 1)).long().clamp_(max=2 * pad)
    # A view of every window; indexing it copies one per image, without a loop and without an index per pixel.
    windows = wide.unfold(2, h, 1).unfold(3, w, 1)
    return windows[torch.arange(n, device=x.device), :, at[:, 0], at[:, 1]]


def _affine(draws: Tensor, augment: Augment, shape: torch.Size) -> Tensor:
    """Matrices (N, 2, 3) that take output to input coordinates, both in [-1, 1]."""
    height, width = shape[2:]
    n = len(draws)
    zero = draws.new_zeros(n)
    turn = (2 * draws[:, _TURN] - 1) * math.radians(augment.rotate) if augment.rotate else zero
    shift = (4 * draws[:, _SHIFT:_TURN] - 2) * augment.translate if augment.translate else zero.new_zeros(n, 2)
    span, centre = zero.new_ones(n, 2), zero.new_zeros(n, 2)
    if augment.zoom:
        span, centre = _window(draws[:, _ZOOM:_END], augment.zoom, math.log(augment.aspect))
    cos, sin = turn.cos(), turn.sin()
    # Turning is rigid in pixels, and coordinates are in half sides: hence the ratio of the sides.
    rows = (
        torch.stack((cos * span[:, 0], -sin * span[:, 1] * (height / width), centre[:, 0] - shift[:, 0]), 1),
        torch.stack((sin * span[:, 0] * (width / height), cos * span[:, 1], centre[:, 1] - shift[:, 1]), 1),
    )
    return torch.stack(rows, 1)


def _window(draws: Tensor, smallest: float, longest: float) -> tuple[Tensor, Tensor]:
    """Random resized crop: (span, centre) of the window, each (N, 2) as (x, y) in half sides.

    The area is uniform in [smallest, 1], the logarithm of the aspect in [-longest, longest]; a window too long for a
    side is cut to it.
    """
    area = smallest + (1 - smallest) * draws[:, 0]
    aspect = ((2 * draws[:, 1] - 1) * longest).exp()
    span = torch.stack(((area * aspect).sqrt(), (area / aspect).sqrt()), 1).clamp_(max=1.0)
    return span, (2 * draws[:, 2:4] - 1) * (1 - span)
