"""A region in 8 bits, compiled for this machine: float tensors in, float tensors out.

A word of four channels takes as many bytes as a float, so that layouts, tiles and moves are those of the sparse engine,
for a region whose values have a quarter of the channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tombola.deploy.kernels.gemv.gaps import Coding
from tombola.deploy.kernels.int8.choices import Int8Choices, Words, unsupported
from tombola.deploy.kernels.int8.emitted import VectorKernel, WordKernel, host_dot, vector_kernel, word_kernel
from tombola.deploy.kernels.int8.lists import kept_words, lane_lists, word_lists
from tombola.deploy.kernels.int8.moves import WordPool, enter_words, word_pool
from tombola.deploy.kernels.int8.reference import rows_of_layer
from tombola.deploy.kernels.int8.scales import GROUP, LEVELS, Scale
from tombola.deploy.kernels.sparse.assemble import Assembly, Compute, Enter, Held, Node, assemble
from tombola.deploy.kernels.sparse.choices import Flat
from tombola.deploy.kernels.sparse.geometry import Shape, shapes_of, vectors_of
from tombola.deploy.kernels.sparse.layers import tiles_of, window_of
from tombola.deploy.kernels.sparse.region import CompiledRegion, Made
from tombola.deploy.kernels.sparse.steps import Maker
from tombola.deploy.kernels.sparse.template import Arena, ArenaAddress, Chunk, Template
from tombola.deploy.ops import Conv, Linear, Op, Pool, Region
from tombola.errors import TombolaError


class Int8Region(CompiledRegion):
    """A region in 8 bits; `reference.integer_reference` says what it computes.

    Raises:
        TombolaError: a region that `unsupported` names, choices that do not fit it, weights without 8-bit numbers,
            fewer than 1 thread.
    """

    def __init__(self, region: Region, batch: int, threads: int, choices: Int8Choices) -> None:
        reason = unsupported(region)
        if reason:
            raise TombolaError(f"no 8-bit kernels: {reason}")
        if threads < 1:
            raise TombolaError(f"threads is {threads}; give 1 or more")
        choices.check(region)
        self.choices = choices
        super().__init__(region, batch, threads, choices.split, lambda: _make(region, choices, threads))


def word_shapes(region: Region) -> dict[str, Shape]:
    """Every value's (C, H, W) as it is held: words, but floats of what leaves the region."""
    return {
        name: shape if name in region.outputs else (-(-shape[0] // GROUP), *shape[1:])
        for name, shape in shapes_of(region).items()
    }


def in_words(region: Region) -> Region:
    """The region as one of words: values with a quarter of the channels, but for those that leave it.

    Its weights have shapes and no values.
    """
    shapes = shapes_of(region)
    inputs = {name: (-(-shape[0] // GROUP), *shape[1:]) for name, shape in region.inputs.items()}

    def word_op(op: Op) -> Op:
        if not isinstance(op, Conv | Linear):
            return op
        channels, high, wide = shapes[op.source]
        words = -(-channels // GROUP)
        out = len(op.weight) if op.target in region.outputs else -(-len(op.weight) // GROUP)
        rest = (words, *op.weight.shape[2:]) if isinstance(op, Conv) else (words * high * wide,)
        return replace(op, weight=torch.empty((out, *rest), dtype=torch.float32, device="meta"))

    return Region(inputs, tuple(map(word_op, region.ops)), region.outputs)


def _make(region: Region, choices: Int8Choices, threads: int) -> Made:
    split, by_chunks = choices.split, choices.split.by == "chunks"
    words = in_words(region)
    stand_in = Coding(1, 1, signs=False)  # of linear layers on one vector
    tiles = {name: stand_in if isinstance(tile, Words) else tile for name, tile in choices.layers.items()}
    assembly = assemble(words, tiles, split.images, word_shapes(region))
    fills = _apart(assembly, choices)
    staging = {}
    for name in region.inputs:
        staging[name] = ArenaAddress(len(assembly.sizes))
        assembly.sizes.append(4 * split.images * int(np.prod(assembly.shapes[name])))
    maker = _Maker(region, words, assembly, choices, staging, shares=1 if by_chunks else threads)
    templates = [template for node in assembly.nodes for template in maker.of(node)]
    arenas = [Arena(assembly.sizes, fills) for _ in range(threads if by_chunks else 1)]
    vectors = vectors_of(region)
    shapes = {name: assembly.shapes[name][: 1 if name in vectors else 3] for name in region.outputs}
    return templates, arenas, maker.words, shapes


def _apart(assembly: Assembly, choices: Int8Choices) -> list[int]:
    """The byte that each buffer is full of, its values' zero, which pads them; values of other zeros share none."""
    numbers: dict[tuple[int, int], int] = {}
    sizes: list[int] = []
    for held, buffer in assembly.buffers.items():
        scale = choices.scales.get(held.value)
        key = buffer, 0 if scale is None else scale.zero
        if key not in numbers:
            numbers[key] = len(sizes)
            sizes.append(assembly.sizes[buffer])
        assembly.buffers[held] = numbers[key]
    assembly.sizes[:] = sizes
    return [zero for _, zero in numbers]


class _Maker(Maker):
    """Makes the steps of a region of words. `staging`: where an input's words lie before they are laid out."""

    def __init__(
        self,
        region: Region,
        words: Region,
        assembly: Assembly,
        choices: Int8Choices,
        staging: dict[str, ArenaAddress],
        *,
        shares: int,
    ) -> None:
        super().__init__(words, assembly, {}, images=choices.split.images, shares=shares)
        self._region, self._own, self._staging = region, choices, staging
        self._floats = {op.target: op for op in region.ops}

    def of(self, node: Node) -> Iterator[Template]:
        """The steps of a node."""
        if isinstance(node, Enter):
            yield from self._enter(node.target)
        else:
            yield from super().of(node)

    def _enter(self, target: Held) -> Iterator[Template]:
        value = target.value
        channels, *pixels = (*self._region.inputs[value], 1, 1)[:3]
        pixels_ = int(np.prod(pixels))
        base, numbers = self._staging[value], self._numbers(self._own.scales[value], None)
        args = (self.words.enter[value], base, self._images, channels, pixels_, Chunk(), self.words.batch, numbers)
        yield Template(enter_words(pixels_ == 1), args, "")
        yield self._move(value, self._outside(value, {value: base}), self._inside(target), None)

    def _op(self, node: Compute) -> Template:
        op = self._floats[node.op.target]
        if isinstance(op, Pool):
            return self._pool(op, node)
        assert isinstance(op, Conv | Linear)
        assert isinstance(node.op, Conv | Linear)
        return self._layer(op, node.op, node)

    def _numbers(self, target: Scale | None, residual: Scale | None) -> NDArray[np.float32]:
        one, other = target or _NONE, residual or _NONE
        values = [np.float32(1) / np.float32(one.step), -one.zero, LEVELS - one.zero, one.zero, other.step, other.zero]
        return np.array(values, np.float32)

    def _layer(self, op: Conv | Linear, word_op: Conv | Linear, node: Compute) -> Template:
        rows, place = rows_of_layer(op, self._region)
        own, tile = self._own.scales[op.source], self._own.layers[op.target]
        target = self._own.scales.get(op.target)
        numbers = self._numbers(target, None if op.residual is None else self._own.scales[op.residual])
        kept, out = kept_words(rows, place), -(-len(rows.steps) // GROUP) * GROUP
        table = np.zeros((out, 3), np.float32)
        table[: len(rows.steps), 0].view(np.int32)[:] = -own.zero * rows.values.astype(np.int64).sum(1)
        table[: len(rows.steps), 1] = rows.steps * np.float32(own.step)
        if op.bias is not None:
            table[: len(rows.steps), 2] = op.bias.detach().to("cpu", torch.float32).numpy()
        base = (self._assembly.address(node.source), self._assembly.address(node.target))
        rest = 0 if node.residual is None else self._assembly.address(node.residual)
        if isinstance(tile, Words):
            lanes = lane_lists(kept)
            kernel = VectorKernel(op.activation, node.residual is not None, target is None, host_dot())
            args = (*base, rest, lanes.words, lanes.starts, len(lanes.order), lanes.order, table, numbers)
            return Template(vector_kernel(kernel), args, op.target, lanes.nbytes + table.nbytes)
        lists = word_lists(kept, self._offsets(word_op, node.source))
        tiles, (read, write, add), masks = tiles_of(word_op, node, self._assembly, tile, self._images)
        flat, added = isinstance(tile, Flat), None if node.residual is None else add
        words = WordKernel(read, write, added, op.activation, flat, target is None, host_dot())
        stride = self._assembly.layouts[node.target].channel_bytes
        other = 0 if node.residual is None else self._assembly.layouts[node.residual].channel_bytes
        fill = 0 if target is None else target.zero * 0x01010101
        more = (lists.entries, lists.starts, lists.bounds(self._shares), table, tiles, len(tiles))
        nbytes = lists.nbytes + table.nbytes
        return Template(
            word_kernel(words), (*more, *base, rest, masks, stride, other, numbers, fill), op.target, nbytes
        )

    def _offsets(self, op: Conv | Linear, source: Held) -> NDArray[np.int64]:
        """Bytes from a tile's base to each word of its inputs."""
        kind = self._assembly.layouts[source]
        channels, high, wide = self._assembly.shapes[op.source]
        if isinstance(op, Linear):
            within = np.array([kind.at(0, y, x) for y in range(high) for x in range(wide)]) - kind.at()
            phases = 1
        else:
            within, phases = window_of(op, source, self._assembly)
        offsets: NDArray[np.int64] = np.arange(channels)[:, None] * (phases * kind.channel_bytes) + within
        return offsets.reshape(-1)

    def _pool(self, op: Pool, node: Compute) -> Template:
        source, target = self._inside(node.source), self._inside(node.target)
        lanes, own = source.inner > 1, self._own.scales[op.source]
        c, h, w = self._assembly.shapes[op.target]
        window = WordPool(op.kind, op.kernel, op.stride, op.padding, op.activation, lanes)
        size = self._assembly.shapes[op.source][1:]
        count = op.kernel[0] * op.kernel[1]
        numbers = self._numbers(self._own.scales[op.target], None)
        numbers[4] = np.float32(own.step) / np.float32(count)
        args = (*source.args, *target.args, 1 if lanes else self._images, c, h, w, *size, source.inner)
        return Template(word_pool(window), (*args, numbers, count * own.zero), op.target)


_NONE = Scale(1.0, 0)
