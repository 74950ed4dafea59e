"""What can be chosen for a region and for each of its layers, and how choices are written (in plans)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tombola.deploy.ops import Conv, Linear, Op, Pool, Region
from tombola.errors import TombolaError

REGION = "region"
"""The key of the choice for the whole region; the others are the targets of Conv and Linear operations."""


@dataclass(frozen=True)
class Split:
    """How images are cut into chunks, and which threads work on one: written "chunks:8" or "rows:1".

    "chunks": each thread takes a chunk through the whole region. "rows": all threads share the rows of every layer.
    """

    by: str
    images: int
    """Of a chunk: 1 or a multiple of 8."""

    def __str__(self) -> str:
        return f"{self.by}:{self.images}"


@dataclass(frozen=True)
class Choice:
    """The kernel of a layer: written "lanes:1x8x1:rows1:panels4", "flat:12:rows1:panels2" or "gemv:" and its form."""

    tile: tuple[int, ...]
    """("lanes") rows, columns and vectors of images; ("flat") vectors of neighbouring positions."""
    rows: int = 1
    """Output rows that share a list."""
    panels: int = 1
    """How many parts the inputs are cut into."""
    gemv: str = ""
    """For linear layers on single images: the form of `tombola.deploy.kernels.gemv.forms`."""

    @property
    def flat(self) -> bool:
        """Whether vectors hold neighbouring positions instead of images."""
        return len(self.tile) == 1

    def __str__(self) -> str:
        if self.gemv:
            return f"gemv:{self.gemv}"
        kind = "flat" if self.flat else "lanes"
        return f"{kind}:{'x'.join(map(str, self.tile))}:rows{self.rows}:panels{self.panels}"


_MAX_IMAGES = 256  # images of a chunk
_ROWS = (1, 2, 4, 8)  # that share a list: layouts have room for channels up to a multiple of 8, which these divide
_SPLIT = re.compile(r"(chunks|rows):(\d{1,6})")
_CHOICE = re.compile(r"(?:flat:(\d{1,3})|lanes:(\d{1,3})x(\d{1,3})x(\d{1,3})):rows(\d{1,2}):panels(\d{1,6})")


def parse_split(text: str) -> Split:
    """Raises TombolaError."""
    match = _SPLIT.fullmatch(text)
    images = int(match[2]) if match else 0
    if match is None or not 1 <= images <= _MAX_IMAGES or (images > 1 and images % 8):
        known = f"chunks:N and rows:N, N 1 or a multiple of 8 up to {_MAX_IMAGES}"
        raise TombolaError(f"{text!r} is no choice for a region; known are {known}")
    return Split(match[1], images)


def parse_choice(text: str) -> Choice:
    """Raises TombolaError."""
    if text.startswith("gemv:"):
        return Choice((1,), gemv=text.removeprefix("gemv:"))
    match = _CHOICE.fullmatch(text)
    if match is None:
        raise TombolaError(
            f"{text!r} is no choice for a layer; known are flat:P:rowsV:panelsK, lanes:YxXxL:rowsV:panelsK and gemv:F"
        )
    numbers = [int(n) for n in match.groups() if n is not None]
    *tile, rows, panels = numbers
    if min(numbers) < 1 or rows not in _ROWS or rows * _vectors(tile) > 32:
        raise TombolaError(
            f"{text!r} asks for a kernel of no or too many accumulators; at most 32 vectors, and 1, 2, 4 or 8 rows"
        )
    return Choice(tuple(tile), rows, panels)


def parse_choices(region: Region, choices: Mapping[str, str]) -> tuple[Split, dict[str, Choice]]:
    """The choices of a region, complete.

    Raises:
        TombolaError: an unknown or missing key, or a choice that is not known.
    """
    wanted = {REGION, *(op.target for op in layers(region))}
    if wanted != set(choices):
        odd = sorted(wanted ^ set(choices))[0]
        raise TombolaError(f"the choices do not fit the region: {odd!r} is in only one of them; measure again")
    return parse_split(choices[REGION]), {op.target: parse_choice(choices[op.target]) for op in layers(region)}


def layers(region: Region) -> list[Conv | Linear]:
    """The operations with weights."""
    return [op for op in region.ops if isinstance(op, Conv | Linear)]


def supports(op: Op) -> str | None:
    """Why the operation is not supported, in a few words; None where it is."""
    if isinstance(op, Conv | Linear):
        return "a weight without elements" if 0 in op.weight.shape else None
    if isinstance(op, Pool):
        if op.kind not in ("max", "mean"):
            return f"{op.kind} pooling"
        if op.kind == "mean" and op.padding != (0, 0):
            return "mean pooling with padding"
    return None


def _vectors(tile: list[int]) -> int:
    count = 1
    for n in tile:
        count *= n
    return count
