"""The difference between two networks' outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.nn.forward import leaves
from tombola.nn.modes import in_mode
from tombola.rng.guard import seeded

EQUAL = 1e-4
"""The largest max|a - b| / max|a| at which outputs count as equal."""


def outputs(model: nn.Module, example: Sequence[Tensor]) -> Any:
    """What the model gives in eval mode, without gradients, always at the same state of the global generators.

    Raises:
        TombolaError: it cannot run on these inputs.
    """
    with in_mode(model, train=False), torch.no_grad(), seeded(0, cuda=True):
        try:
            return model(*(x.clone() for x in example))
        except Exception as error:  # whatever the model raises on inputs that do not fit
            shapes = ", ".join(str(tuple(x.shape)) for x in example)
            reason = " ".join(str(error).split())[:200]
            raise TombolaError(
                f"the model cannot run on inputs of shape {shapes}: {reason}; give inputs as it takes them"
            ) from error


def largest_error(want: Any, have: Any) -> float:
    """max|a - b| / max|a| over all tensors of two outputs; infinite where one is finite and the other not, or
    not the same NaN or infinity, where they hold other tensors, and where there are none to compare."""
    one, other = leaves(want), leaves(have)
    if not one or [a.shape for a in one] != [b.shape for b in other]:
        return float("inf")
    pairs = zip(one, other, strict=True)
    return max((_relative(a.double(), b.double()) for a, b in pairs if a.numel()), default=0.0)


def allowed(output: Any) -> float:
    """The largest error that counts as none: EQUAL, or some roundings of an output in half precision."""
    dtypes = {x.dtype for x in leaves(output) if x.is_floating_point()}
    return max([EQUAL, *(8 * torch.finfo(dtype).eps for dtype in dtypes if torch.finfo(dtype).eps > EQUAL)])


def difference(want: Any, have: Any) -> float:
    """As `largest_error`, of outputs that are to be of the same types, containers and dtypes; of no number at all: 0.

    Integers, bools and what is no number count as equal or, infinitely, not.
    """
    try:
        return max((_difference(a, b) for a, b in _pairs(want, have, _DEEP)), default=0.0)
    except _Unlike:
        return float("inf")


class _Unlike(Exception):
    """Two outputs differ in type, shape or keys."""


_DEEP = 8  # containers and objects within each other that are looked into


def _pairs(want: Any, have: Any, depth: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The numbers of two outputs, side by side. Raises _Unlike."""
    if type(want) is not type(have):
        raise _Unlike
    if isinstance(want, Tensor):
        if (want.shape, want.dtype, want.device.type) != (have.shape, have.dtype, have.device.type):
            raise _Unlike
        yield want, have
    elif isinstance(want, bool | int | float | complex | np.number):
        yield torch.from_numpy(np.array(want)), torch.from_numpy(np.array(have))
    elif isinstance(want, np.ndarray):
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            raise _Unlike
        yield torch.from_numpy(want), torch.from_numpy(have)
    elif isinstance(want, Mapping):
        if want.keys() != have.keys():
            raise _Unlike
        for key in want:
            yield from _pairs(want[key], have[key], depth - 1)
    elif isinstance(want, list | tuple):
        if len(want) != len(have):
            raise _Unlike
        for one, other in zip(want, have, strict=True):
            yield from _pairs(one, other, depth - 1)
    elif isinstance(want, str | bytes | None):
        if want != have:
            raise _Unlike
    elif depth and hasattr(want, "__dict__"):
        yield from _pairs(vars(want), vars(have), depth - 1)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.layout != torch.strided or a.is_quantized:
        a, b = (x.dequantize() if x.is_quantized else x.to_dense() for x in (a, b))
    if not a.is_floating_point() and not a.is_complex():
        return 0.0 if torch.equal(a, b) else float("inf")
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return _relative(a.double(), b.double())


def _relative(a: Tensor, b: Tensor) -> float:
    same = a.isfinite() & b.isfinite()
    if not torch.isclose(a[~same], b[~same], rtol=0, atol=0, equal_nan=True).all():
        return float("inf")
    a, b = a[same], b[same]
    if not a.numel():
        return 0.0
    largest, off = float(a.abs().max()), float((a - b).abs().max())
    return off / largest if largest else off
