"""Nodes of an assembly → compiled functions with their arguments, addresses in the arena not yet set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tombola.deploy.kernels.sparse import moves, pools
from tombola.deploy.kernels.sparse.assemble import Assembly, Held, Node, phases_of
from tombola.deploy.kernels.sparse.choices import Choice
from tombola.deploy.kernels.sparse.layers import layer_template
from tombola.deploy.kernels.sparse.layout import FLOAT
from tombola.deploy.kernels.sparse.template import ArenaAddress, Arg, Chunk, Template
from tombola.deploy.ops import Conv, Linear, Pointwise, Pool, Region
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
        self, region: Region, assembly: Assembly, choices: dict[str, Choice], *, images: int, shares: int
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
        if node.kind == "enter":
            assert node.target is not None
            value = node.target.value
            yield self._move(value, self._outside(value, self.words.enter), self._inside(node.target), "source")
        elif node.kind == "leave":
            assert node.source is not None
            value = node.source.value
            yield self._move(value, self._inside(node.source), self._outside(value, self.words.leave), "target")
        elif node.kind == "convert":
            assert node.source is not None
            assert node.target is not None
            yield self._move(node.target.value, self._inside(node.source), self._inside(node.target), None)
        elif node.kind == "pack":
            assert node.source is not None
            assert node.target is not None
            packed = self._outside(node.target.value, {node.target.value: self._base(node.target)})
            yield self._move(node.target.value, self._inside(node.source), packed, None)
        elif node.kind == "phases":
            yield from self._phases(node)
        else:
            yield self._op(node)

    # ---- from layout to layout -------------------------------------------------------------------------------------

    def _inside(self, held: Held) -> _View:
        kind = self._assembly.layouts[held]
        return _View(self._base(held), kind.image_bytes, kind.channel_bytes, kind.row_bytes, kind.inner)

    def _base(self, held: Held) -> ArenaAddress:
        return ArenaAddress(self._assembly.buffers[held], self._assembly.layouts[held].at())

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

    def _phases(self, node: Node) -> Iterator[Template]:
        op, source, target = node.op, node.source, node.target
        assert isinstance(op, Conv)
        assert source is not None
        assert target is not None
        c, h, w = self._assembly.shapes[op.source]
        whole, cut = self._assembly.layouts[source], self._assembly.layouts[target]
        phases = phases_of(op, self._assembly.shapes)
        for k, (r, q) in enumerate(phases):
            from_ = ArenaAddress(self._assembly.buffers[source], whole.at(0, r, q))
            to = ArenaAddress(self._assembly.buffers[target], cut.at(k))
            args = (
                *(from_, whole.image_bytes, whole.channel_bytes, op.stride[0] * whole.row_bytes),
                *(to, cut.image_bytes, len(phases) * cut.channel_bytes, cut.row_bytes),
                *(self._images, c, len(range(r, h, op.stride[0])), len(range(q, w, op.stride[1]))),
            )
            yield Template(moves.copy_rows(None, op.stride[1]), (*args, 0, 0), op.target)

    # ---- operations ------------------------------------------------------------------------------------------------

    def _op(self, node: Node) -> Template:
        op, assembly = node.op, self._assembly
        assert node.source is not None
        assert node.target is not None
        if isinstance(op, Conv | Linear):
            return layer_template(
                op, node, assembly, self._choices[op.target], images=self._images, shares=self._shares
            )
        assert op is not None
        source, target = self._inside(node.source), self._inside(node.target)
        lanes = source.inner > 1
        maps = 1 if lanes else self._images
        c, h, w = assembly.shapes[op.target]
        if isinstance(op, Pool):
            window = pools.PoolWindow(op.kind, op.kernel, op.stride, op.padding, op.relu, lanes)
            size = assembly.shapes[op.source][1:]
            args = (*source.args, *target.args, maps, c, h, w, *size, source.inner)
            return Template(pools.pool_kernel(window), args, op.target)
        assert isinstance(op, Pointwise)
        rest = (0, 0, 0, 0) if node.residual is None else self._inside(node.residual).args
        scale, shift = _floats(op.scale, c, 1.0), _floats(op.shift, c, 0.0)
        args = (*source.args, *target.args, maps, c, h, w * source.inner, *rest, scale, shift)
        code = pools.pointwise_kernel(op.relu, node.residual is not None)
        return Template(code, args, op.target, nbytes=scale.nbytes + shift.nbytes)


def _floats(values: Tensor | None, count: int, default: float) -> NDArray[np.float32]:
    if values is None:
        return np.full(count, default, np.float32)
    if tuple(values.shape) != (count,):
        raise TombolaError(f"a scale or shift is {tuple(values.shape)}; there are {count} channels: give ({count},)")
    return np.array(values.detach().to("cpu", torch.float32).numpy(), order="C")  # the kernels' own
