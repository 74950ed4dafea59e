"""Nodes of an assembly → compiled functions with their arguments, addresses in the arena not yet set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.deploy.kernels.sparse import maps, moves, pools
from tombola.deploy.kernels.sparse.assemble import (
    Assembly,
    Compute,
    Convert,
    Cut,
    CutPhases,
    Enter,
    Held,
    Join,
    Leave,
    Node,
    phases_of,
    pieces_of,
)
from tombola.deploy.kernels.sparse.choices import Choice
from tombola.deploy.kernels.sparse.layers import layer_template
from tombola.deploy.kernels.sparse.layout import FLOAT
from tombola.deploy.kernels.sparse.template import Arg, Chunk, Template
from tombola.deploy.ops import Combine, Conv, Linear, Pointwise, Pool, Region, Resize, Shuffle
from tombola.errors import TombolaError


@dataclass(frozen=True, eq=False)
class CallWords:
    """Words that a call fills in: the number of images, and the addresses of its input and output tensors."""

    batch: NDArray[np.int64]
    enter: dict[str, NDArray[np.int64]]
    leave: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class _View:
    """Maps somewhere: distances in bytes, and how many images lie innermost."""

    base: Arg
    image: int
    channel: int
    row: int
    inner: int

    @property
    def args(self) -> tuple[Arg, ...]:
        return self.base, self.image, self.channel, self.row


class Maker:
    """Makes the steps of a region.

    Args:
        shares: how many threads share the rows of a layer.
    """

    def __init__(
        self, region: Region, assembly: Assembly, choices: Mapping[str, Choice], *, images: int, shares: int
    ) -> None:
        self._assembly, self._choices = assembly, choices
        self._images, self._shares = images, shares
        self.words = CallWords(
            np.zeros(1, np.int64),
            {name: np.zeros(1, np.int64) for name in region.inputs},
            {name: np.zeros(1, np.int64) for name in region.outputs},
        )

    def of(self, node: Node) -> Iterator[Template]:
        """The steps of a node."""
        match node:
            case Enter(target):
                value = target.value
                yield self._move(value, self._outside(value, self.words.enter), self._inside(target), "source")
            case Leave(source):
                value = source.value
                yield self._move(value, self._inside(source), self._outside(value, self.words.leave), "target")
            case CutPhases(source, target, op):
                yield from self._phases(op, source, target)
            case Convert(source, target):
                inside = self._inside(target)
                if target.packed:
                    inside = self._outside(target.value, {target.value: inside.base})
                yield self._move(target.value, self._inside(source), inside, None)
            case Compute():
                yield self._op(node)
            case Join():
                yield from self._joined(node)
            case Cut():
                pass  # its channels are where they are

    # ---- from layout to layout -------------------------------------------------------------------------------------

    def _inside(self, held: Held) -> _View:
        kind = self._assembly.layouts[held]
        return _View(self._assembly.address(held), kind.image_bytes, kind.channel_bytes, kind.row_bytes, kind.inner)

    def _outside(self, value: str, bases: Mapping[str, Arg]) -> _View:
        c, h, w = self._assembly.shapes[value]
        return _View(bases[value], FLOAT * c * h * w, FLOAT * h * w, FLOAT * w, 1)

    def _move(self, value: str, source: _View, target: _View, outside: moves.Outside) -> Template:
        c, h, w = self._assembly.shapes[value]
        sides = [source, target]
        if (h, w) == (1, 1) and all(side.channel == FLOAT * side.inner for side in sides):
            w = next((n for n in (64, 8) if c % n == 0), c)  # contiguous features: pieces of some length
            c //= w
            sides = [replace(side, channel=w * side.channel) for side in sides]
        if source.inner == target.inner == 1:
            code = moves.copy_rows(outside, 1)
        else:
            code = moves.to_lanes(outside) if source.inner == 1 else moves.from_lanes(outside)
        views = [arg for side in sides for arg in side.args]
        label = "" if outside else value
        return Template(code, (*views, self._images, c, h, w, Chunk(), self.words.batch), label)

    def _joined(self, node: Join) -> Iterator[Template]:
        """Copies of the channels that lie elsewhere."""
        target = self._inside(node.target)
        _, h, w = self._assembly.shapes[node.op.target]
        here, within = self._assembly.place(node.target)
        for whole, first, count, at in pieces_of(node, self._assembly):
            if (whole, first) == (here, within + at):
                continue
            views: list[Arg] = []
            for view, base in (
                (self._inside(whole), self._assembly.address(whole, first)),
                (target, self._assembly.address(node.target, at)),
            ):
                views += replace(view, base=base).args
            lanes = target.inner > 1
            sizes = (1 if lanes else self._images, count, h, w * target.inner)
            yield Template(moves.copy_rows(None, 1), (*views, *sizes, 0, 0), node.op.target)

    def _phases(self, op: Conv, source: Held, target: Held) -> Iterator[Template]:
        c, h, w = self._assembly.shapes[op.source]
        whole, cut = self._assembly.layouts[source], self._assembly.layouts[target]
        phases = phases_of(op, self._assembly.shapes)
        for k, (r, q) in enumerate(phases):
            from_, to = self._assembly.address(source, 0, r, q), self._assembly.address(target, k)
            args = (
                *(from_, whole.image_bytes, whole.channel_bytes, op.stride[0] * whole.row_bytes),
                *(to, cut.image_bytes, len(phases) * cut.channel_bytes, cut.row_bytes),
                *(self._images, c, len(range(r, h, op.stride[0])), len(range(q, w, op.stride[1]))),
            )
            yield Template(moves.copy_rows(None, op.stride[1]), (*args, 0, 0), op.target)

    # ---- operations ------------------------------------------------------------------------------------------------

    def _op(self, node: Compute) -> Template:
        match node.op:
            case Conv() | Linear() as op:
                choice = self._choices[op.target]
                return layer_template(op, node, self._assembly, choice, images=self._images, shares=self._shares)
            case Pool() as op:
                return self._pool(op, node)
            case Pointwise() as op:
                return self._pointwise(op, node)
            case Combine() as op:
                return self._combine(op, node)
            case Resize() as op:
                return self._resize(op, node)
            case Shuffle() as op:
                args, lanes = self._maps(node)
                code = maps.shuffle_kernel(op.activation, lanes=lanes)
                return Template(code, (*args, *op.factors), op.target)

    def _pool(self, op: Pool, node: Compute) -> Template:
        source, target = self._inside(node.source), self._inside(node.target)
        lanes = source.inner > 1
        c, h, w = self._assembly.shapes[op.target]
        window = pools.PoolWindow(op.kind, op.kernel, op.stride, op.padding, op.after != (0, 0), op.activation, lanes)
        size = self._assembly.shapes[op.source][1:]
        args = (*source.args, *target.args, 1 if lanes else self._images, c, h, w, *size, source.inner)
        return Template(pools.pool_kernel(window), args, op.target)

    def _pointwise(self, op: Pointwise, node: Compute) -> Template:
        source, target = self._inside(node.source), self._inside(node.target)
        outside = 1 if source.inner > 1 else self._images
        c, h, w = self._assembly.shapes[op.target]
        rest = (0, 0, 0, 0) if node.residual is None else self._inside(node.residual).args
        scale, shift = _floats(op.scale, c, 1.0), _floats(op.shift, c, 0.0)
        args = (*source.args, *target.args, outside, c, h, w * source.inner, *rest, scale, shift)
        code = pools.pointwise_kernel(op.activation, node.residual is not None)
        return Template(code, args, op.target, nbytes=scale.nbytes + shift.nbytes)

    def _maps(self, node: Compute) -> tuple[tuple[Arg, ...], bool]:
        """(the arguments that steps on maps begin with, whether images lie innermost)."""
        source, target = self._inside(node.source), self._inside(node.target)
        lanes = source.inner > 1
        size = self._assembly.shapes[node.op.target]
        return (*source.args, *target.args, 1 if lanes else self._images, *size, source.inner), lanes

    def _combine(self, op: Combine, node: Compute) -> Template:
        assert node.residual is not None
        args, lanes = self._maps(node)
        other, shape = self._inside(node.residual), self._assembly.shapes[op.other]
        image = 0 if lanes else other.image
        channel, row = other.channel * (shape[0] > 1), other.row * (shape[1] > 1)
        along = self._assembly.shapes[op.target][2] == shape[2]
        code = maps.combine_kernel(op.kind, op.activation, lanes=lanes, along=along)
        return Template(code, (*args, other.base, image, channel, row), op.target)

    def _resize(self, op: Resize, node: Compute) -> Template:
        args, lanes = self._maps(node)
        source = self._inside(node.source)
        tables: list[NDArray[Any]] = []
        for axis, between in ((op.rows, source.row), (op.columns, FLOAT * source.inner)):
            tables += [np.ascontiguousarray(at.numpy() * between, np.int64) for at in (axis.first, axis.second)]
        for axis in (op.rows, op.columns):
            tables.append(
                np.zeros(1, np.float32) if axis.weights is None else np.array(axis.weights.numpy(), np.float32)
            )
        blends = {"rows": op.rows.weights is not None, "columns": op.columns.weights is not None}
        return Template(maps.resize_kernel(op.activation, lanes=lanes, **blends), (*args, *tables), op.target)


def _floats(values: Tensor | None, count: int, default: float) -> NDArray[np.float32]:
    if values is None:
        return np.full(count, default, np.float32)
    if tuple(values.shape) != (count,):
        raise TombolaError(f"a scale or shift is {tuple(values.shape)}; there are {count} channels: give ({count},)")
    return np.array(values.detach().to("cpu", torch.float32).numpy(), order="C")  # the kernels' own
