"""A step whose addresses in the arena are not yet set, so that every thread can have an arena of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tombola.deploy.jit.native import Code
from tombola.deploy.jit.program import Step
from tombola.machine.memory import array_address


@dataclass(frozen=True)
class ArenaAddress:
    """An address in an arena: `offset` bytes into a buffer."""

    buffer: int
    offset: int = 0


@dataclass(frozen=True)
class Chunk:
    """The address of the word that holds the current chunk's number."""


Arg = int | ArenaAddress | Chunk | NDArray[Any]
"""A number, an address in the arena, or the address of an array's data, which no step writes."""


@dataclass(frozen=True, eq=False)
class Template:
    """A step without its arena."""

    code: Code
    args: tuple[Arg, ...]
    label: str
    """The target of the operation that it belongs to; "" for copies in and out."""
    nbytes: int = 0
    """Of weights."""


@dataclass(frozen=True)
class Extent:
    """Where the buffers of an arena start, and its size, in bytes."""

    starts: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Extent:
        """With buffers of these sizes."""
        ends = np.cumsum([PAGE, *(-(-size // PAGE) * PAGE + _SHIFT for size in sizes)])
        return cls(tuple(map(int, ends[:-1])), -(-(int(ends[-1]) + _REACH) // PAGE) * PAGE)


class Arena:
    """Buffers of zeros in one piece, and the number of the current chunk.

    `fills`: of each buffer the byte that it is full of instead; none for zeros.
    """

    def __init__(self, sizes: Sequence[int], fills: Sequence[int] = ()) -> None:
        self.extent = Extent.of(sizes)
        self._room = np.zeros(self.extent.nbytes + PAGE, np.uint8)
        first = array_address(self._room)
        first += -first % PAGE
        self._starts = [first + start for start in self.extent.starts]
        self.chunk = np.zeros(8, np.int64)
        origin = array_address(self._room)
        for start, end, fill in zip(self._starts, self._starts[1:], fills, strict=False):
            self._room[start - origin : end - origin] = fill

    def step(self, template: Template) -> Step:
        """The template's step in this arena."""
        args = np.array([self._address(arg) for arg in template.args], np.int64)
        arrays = tuple(arg for arg in template.args if isinstance(arg, np.ndarray))
        return Step(template.code.address("step"), args, (self, template.code, arrays))

    def _address(self, arg: Arg) -> int:
        if isinstance(arg, ArenaAddress):
            return self._starts[arg.buffer] + arg.offset
        if isinstance(arg, Chunk):
            return array_address(self.chunk)
        return array_address(arg) if isinstance(arg, np.ndarray) else arg


PAGE = 4096
"""Bytes; an arena begins at a multiple of it."""
_SHIFT = 320  # bytes: equal positions of two buffers do not share a set of the L1 cache
_REACH = 2048  # bytes that may be read beyond the ends
