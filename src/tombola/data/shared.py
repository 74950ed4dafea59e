"""Helpers of the loaders of data sets."""

from __future__ import annotations

from torch import Tensor

from tombola.data.config import DataSpec
from tombola.data.splits import Normalisation, Resident, tensor_digest
from tombola.errors import TombolaError


def image_split(pixels: Tensor, labels: Tensor, normalisation: Normalisation, *, as_floats: bool) -> Resident:
    """A resident split of uint8 images (N, C, H, W), normalised now (`as_floats`) or batch by batch.

    Both have the same digest, that of the bytes.
    """
    source = tensor_digest(pixels, labels)
    return Resident(normalisation(pixels) if as_floats else pixels, labels, source)


def refuse_args(spec: DataSpec, allowed: tuple[str, ...] = ()) -> None:
    """No silent options: an argument that the data set does not have is an error."""
    for key in spec.args:
        if key not in allowed:
            known = f"allowed are {', '.join(allowed)}" if allowed else "it has none"
            raise TombolaError(f"data set {spec.name} has no argument {key!r}; {known}")
