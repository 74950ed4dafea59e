"""Convolution and linear layers → the sparse kernel with its lists, tiles and masks."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tombola.deploy.jit.emitter import LANES
from tombola.deploy.kernels import gemv
from tombola.deploy.kernels.gemv import Form
from tombola.deploy.kernels.sparse.assemble import Assembly, Compute, Held, conv_taps, held_by, phases_of
from tombola.deploy.kernels.sparse.choices import Choice, Flat, Lanes
from tombola.deploy.kernels.sparse.emitted import SparseKernel, sparse_kernel
from tombola.deploy.kernels.sparse.layout import FLOAT
from tombola.deploy.kernels.sparse.lists import Lists, make_lists
from tombola.deploy.kernels.sparse.template import Arg, Template
from tombola.deploy.ops import Conv, Linear
from tombola.errors import TombolaError

_VECTOR = LANES * FLOAT


def layer_template(
    op: Conv | Linear, node: Compute, assembly: Assembly, choice: Choice, *, images: int, shares: int
) -> Template:
    """The step of a layer.

    Raises:
        TombolaError: the choice does not fit the layer.
    """
    out = op.weight.shape[0]
    groups = op.groups if isinstance(op, Conv) else 1
    if isinstance(choice, Form):
        return _gemv_template(op, node, assembly, choice)
    if choice.rows > 1 and out // groups % choice.rows and groups > 1:
        raise TombolaError(f"the choice for {op.name} shares lists between rows of different groups; measure again")
    flat = isinstance(choice, Flat)
    if choice.panels > op.weight.shape[1] or (flat and isinstance(op, Linear)):
        raise TombolaError(f"the choice for {op.name} does not fit its weight; measure again")
    lists = _lists(op, node.source, assembly, choice)
    bias = np.zeros(lists.groups * lists.rows, np.float32)
    if op.bias is not None:
        bias[:out] = op.bias.detach().to("cpu", torch.float32).numpy()
    tiles, kinds, masks = tiles_of(op, node, assembly, choice, images)
    rest = assembly.layouts[node.residual] if node.residual else None
    args = (
        *(lists.entries, lists.starts, lists.bounds(shares), lists.groups, lists.panels, bias, tiles, len(tiles)),
        *(assembly.address(node.source), assembly.address(node.target)),
        *(assembly.address(node.residual) if node.residual else 0, masks),
        *(assembly.layouts[node.target].channel_bytes, rest.channel_bytes if rest else 0),
    )
    nbytes = lists.nbytes + bias.nbytes
    read, write, add = kinds
    kernel = SparseKernel(lists.rows, read, write, None if rest is None else add, op.activation, flat, lists.panels > 1)
    return Template(sparse_kernel(kernel), args, op.target, nbytes)


def _gemv_template(op: Conv | Linear, node: Compute, assembly: Assembly, form: Form) -> Template:
    held = held_by(node)
    addresses = map(assembly.address, held)
    if not isinstance(op, Linear) or any(assembly.layouts[one].channel != 1 for one in held):
        raise TombolaError(f"the choice for {op.name} is for linear layers of vectors; measure again")
    made = gemv.build(op.nonzeros, op.bias, form, activation=op.activation, residual=node.residual is not None)
    args: tuple[Arg, ...] = (*addresses, *(0,) * (3 - len(held)), *made.args)
    return Template(made.code, args, op.target, made.nbytes)


# ---- lists ---------------------------------------------------------------------------------------------------------


def _lists(op: Conv | Linear, source: Held, assembly: Assembly, choice: Lanes | Flat) -> Lists:
    kind = assembly.layouts[source]
    weight = op.nonzeros.matrix
    shift = np.zeros(-(-len(weight) // choice.rows) * choice.rows, np.int64)
    if isinstance(op, Linear):
        c, h, w = assembly.shapes[op.source]
        channels = np.arange(c)
        within = np.array([kind.at(0, y, x) for y in range(h) for x in range(w)]) - kind.at()
        per_channel = kind.channel_bytes
    else:
        channels = np.arange(op.weight.shape[1])
        within, phases = window_of(op, source, assembly)
        per_channel = phases * kind.channel_bytes
        group = np.arange(len(weight)) // (len(weight) // op.groups)
        shift[: len(weight)] = group * (len(channels) * per_channel)
    offsets = (channels[:, None] * per_channel + within).reshape(-1).astype(np.int64)
    panel_of = np.arange(len(offsets)) // len(within) * choice.panels // len(channels)
    return make_lists(weight, offsets, panel_of, shift, panels=choice.panels, rows=choice.rows)


def window_of(op: Conv, source: Held, assembly: Assembly) -> tuple[NDArray[np.int64], int]:
    """(bytes from a tile's base to each kernel position, of channel 0, how many phases a channel has)."""
    kind = assembly.layouts[source]
    high, wide = op.weight.shape[2:]
    if source.phases_for is None:
        reach = [[k * op.dilation[i] - op.padding[i] for k in range(n)] for i, n in enumerate((high, wide))]
        spots = [kind.at(0, y, x) - kind.at() for y in reach[0] for x in reach[1]]
        return np.array(spots, np.int64), 1
    down, across = conv_taps(op, assembly.shapes)
    number = {phase: k for k, phase in enumerate(phases_of(op, assembly.shapes))}
    spots = [
        kind.at(number[r, q], y, x) - kind.at()
        for r, y in zip(down.phase, down.shift, strict=True)
        for q, x in zip(across.phase, across.shift, strict=True)
    ]
    return np.array(spots, np.int64), len(number)


# ---- tiles ---------------------------------------------------------------------------------------------------------

Distances = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def tiles_of(
    op: Conv | Linear, node: Compute, assembly: Assembly, choice: Lanes | Flat, images: int
) -> tuple[NDArray[np.int64], Distances, NDArray[np.int32]]:
    """(tiles as the kernel reads them, the distances read, write, add within a tile, the masks).

    The last tile of a row or map overlaps the one before it where the map is no multiple of the tile.
    """
    _, h, w = assembly.shapes[op.target]
    kinds = [assembly.layouts[one] for one in (node.source, node.target, node.residual or node.target)]
    if isinstance(choice, Lanes):
        high, wide, vectors = choice.height, choice.width, choice.vectors
        if high > h or wide > w or images % (vectors * LANES):
            raise TombolaError(f"the choice for {op.name} has tiles larger than its maps; measure again")
        strides = [op.stride if isinstance(op, Conv) else (1, 1), (1, 1), (1, 1)]
        spots = [(y, x, 0) for y in range(high) for x in range(wide)]
        read, write, add = (
            tuple(kind.at(0, y * sy, x * sx) - kind.at() + _VECTOR * v for y, x, _ in spots for v in range(vectors))
            for kind, (sy, sx) in zip(kinds, strides, strict=True)
        )
        tiles = [
            [kind.at(0, y * sy, x * sx) - kind.at() + FLOAT * i for kind, (sy, sx) in zip(kinds, strides, strict=True)]
            for i in range(0, images, vectors * LANES)
            for y in _starts(h, high)
            for x in _starts(w, wide)
        ]
        return _table(tiles, [0] * len(tiles)), (read, write, add), np.zeros(1, np.int32)
    row = kinds[1].row
    positions = (h - 1) * row + w
    vectors = min(choice.vectors, -(-positions // LANES))
    starts = _starts(-(-positions // LANES), vectors)
    lanes = (np.array(starts)[:, None] * LANES + np.arange(vectors * LANES)).reshape(-1)
    masks = np.where((lanes % row < w) & (lanes < positions), -1, 0).astype(np.int32)
    run = tuple(_VECTOR * p for p in range(vectors))
    tiles = [[kind.image_bytes * i + _VECTOR * start for kind in kinds] for i in range(images) for start in starts]
    return _table(tiles, [k * vectors * _VECTOR for k in range(len(starts))] * images), (run, run, run), masks


def _starts(size: int, tile: int) -> list[int]:
    return [min(start, size - tile) for start in range(0, size, tile)]


def _table(tiles: list[list[int]], masks: list[int]) -> NDArray[np.int64]:
    return np.concatenate([np.array(tiles, np.int64), np.array(masks, np.int64)[:, None]], 1)
