"""What is chosen for a region in 8 bits: records, which plans hold as they are."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tombola.deploy.kernels.int8.scales import Scale
from tombola.deploy.kernels.sparse.choices import Flat, Lanes, Split, layers
from tombola.deploy.ops import Conv, Linear, Op, Pointwise, Pool, Region, reads
from tombola.errors import TombolaError


class Words(msgspec.Struct, frozen=True, tag_field="kernel", tag="words", forbid_unknown_fields=True):
    """A linear layer on one vector, words of four inputs gathered."""

    def __str__(self) -> str:
        return "words"


Tile = Lanes | Flat | Words
"""Of a layer: as for float32, rows and panels 1."""


class Int8Choices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All choices of a region. `layers`: the target of each Conv and Linear -> its tile. `scales`: of each value that
    is held in 8 bits, by name.
    """

    split: Split
    layers: Mapping[str, Tile]
    scales: Mapping[str, Scale]

    def __post_init__(self) -> None:
        odd = [one for one in self.layers.values() if not isinstance(one, Words) and (one.rows, one.panels) != (1, 1)]
        if odd:
            raise TombolaError(f"{odd[0]} shares lists or has panels, which 8-bit kernels do not")

    def check(self, region: Region) -> None:
        """Check that each layer has its tile and each value its scale.

        Raises:
            TombolaError: one is missing, or one too many.
        """
        odd = sorted({op.target for op in layers(region)} ^ set(self.layers)) or sorted(
            set(held_values(region)) ^ set(self.scales)
        )
        if odd:
            raise TombolaError(f"the choices do not fit the region: {odd[0]!r} is in only one of them; measure again")


def held_values(region: Region) -> tuple[str, ...]:
    """The values that are held in 8 bits: all but those that leave the region, which are floats."""
    return (*region.inputs, *(op.target for op in region.ops if op.target not in region.outputs))


def unsupported(region: Region) -> str | None:
    """Why a region has no 8-bit kernels, in a few words; None where it has them."""
    for op in region.ops:
        reason = takes(op)
        if reason:
            return f"{op.name}: {reason}"
        if any(name in region.outputs for name in reads(op)):
            return f"{op.name} reads what leaves the region"
        if op.target in region.outputs and not isinstance(op, Conv | Linear):
            return f"{op.name} ends the region, and has no weights"
    return None


def takes(op: Op) -> str | None:
    """Why an operation has no 8-bit kernel, in a few words; None where it has one."""
    match op:
        case Conv() | Linear():
            if 0 in op.weight.shape:
                return "a weight without elements"
            return "a convolution of groups" if isinstance(op, Conv) and op.groups != 1 else None
        case Pool(kind="max", activation=None):
            return None
        case Pool(kind="max"):
            return "an activation after max pooling"
        case Pool(kind="mean"):
            return "mean pooling with padding" if (op.padding, op.after) != ((0, 0), (0, 0)) else None
        case Pool():
            return f"{op.kind} pooling"
        case Pointwise():
            return "a norm or an addition of its own"
        case _:
            return type(op).__name__.lower()
