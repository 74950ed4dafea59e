"""The two compiled loops of a masked weight on the CPU, over flat float32 arrays. Importing this imports numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])


def _compiled(function: F) -> F:
    try:
        return cast(F, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder for the cache can be written
        return cast(F, numba.njit(nogil=True)(function))


@_compiled
def keep(values: Array, mask: Array, out: Array) -> None:
    """out = values where the mask is true, else 0."""
    zero = np.float32(0)
    for i in range(values.size):
        out[i] = values[i] if mask[i] else zero


@_compiled
def signed_product(gradient: Array, values: Array, scores: Array, out: Array) -> None:
    """out = gradient * values * sign(scores), with sign(0) = 0."""
    zero = np.float32(0)
    for i in range(values.size):
        product = gradient[i] * values[i]
        score = scores[i]
        out[i] = product if score > zero else (-product if score < zero else zero)
