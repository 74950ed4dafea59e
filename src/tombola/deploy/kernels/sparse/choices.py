"""What can be chosen for a region and for each of its layers: records, which plans hold as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from tombola.deploy.kernels.gemv import Form
from tombola.deploy.ops import Conv, Linear, Op, Pool, Region
from tombola.errors import TombolaError

_MAX_IMAGES = 256  # of a chunk
_ROWS = (1, 2, 4, 8)  # that share a list: layouts have room for channels up to a multiple of 8, which these divide


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How images are cut into chunks, and which threads work on one.

    "chunks": each thread takes a chunk through the whole region. "rows": all threads share the rows of every layer.

    Raises:
        TombolaError: chunks of a number of images that is neither 1 nor a multiple of 8, or too large.
    """

    by: Literal["chunks", "rows"]
    images: int
    """Of a chunk: 1 or a multiple of 8."""

    def __post_init__(self) -> None:
        if not 1 <= self.images <= _MAX_IMAGES or (self.images > 1 and self.images % 8):
            raise TombolaError(
                f"chunks of {self.images} images; a chunk has 1 image, or a multiple of 8 up to {_MAX_IMAGES}"
            )


class Lanes(msgspec.Struct, frozen=True, tag_field="kernel", tag="lanes", forbid_unknown_fields=True):
    """Lists on tiles of vectors of 8 images: rows and columns of positions, and vectors.

    `rows`: output rows that share a list; `panels`: how many parts the inputs are cut into.

    Raises:
        TombolaError: no or too many accumulators.
    """

    height: int
    width: int
    vectors: int
    rows: int = 1
    panels: int = 1

    def __post_init__(self) -> None:
        _check_accumulators(self, (self.height, self.width, self.vectors))

    def __str__(self) -> str:
        return f"lanes:{self.height}x{self.width}x{self.vectors}:rows{self.rows}:panels{self.panels}"


class Flat(msgspec.Struct, frozen=True, tag_field="kernel", tag="flat", forbid_unknown_fields=True):
    """Lists on runs of vectors of 8 neighbouring positions of one image; otherwise as `Lanes`."""

    vectors: int
    rows: int = 1
    panels: int = 1

    def __post_init__(self) -> None:
        _check_accumulators(self, (self.vectors,))

    def __str__(self) -> str:
        return f"flat:{self.vectors}:rows{self.rows}:panels{self.panels}"


def _check_accumulators(choice: Lanes | Flat, tile: tuple[int, ...]) -> None:
    if min(*tile, choice.panels) < 1 or choice.rows not in _ROWS or choice.rows * math.prod(tile) > 32:
        raise TombolaError(
            f"{choice} asks for a kernel of no or too many accumulators; at most 32 vectors, and 1, 2, 4 or 8 rows"
        )


Choice = Lanes | Flat | Form
"""The kernel of a layer; the forms are for linear layers on single images."""


class Choices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All choices of a region. `layers`: the target of each Conv and Linear operation -> its kernel."""

    split: Split
    layers: Mapping[str, Choice]

    def check(self, region: Region) -> None:
        """Check that each layer has its choice.

        Raises:
            TombolaError: a choice is missing, or one too many.
        """
        odd = sorted({op.target for op in layers(region)} ^ set(self.layers))
        if odd:
            raise TombolaError(f"the choices do not fit the region: {odd[0]!r} is in only one of them; measure again")


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
        if op.kind == "mean" and (op.padding, op.after) != ((0, 0), (0, 0)):
            return "mean pooling with padding"
    return None
