"""How far two networks' outputs are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tombola.compact.trace import in_eval
from tombola.errors import TombolaError


def outputs(model: nn.Module, example: Sequence[Tensor]) -> Any:
    """What the model gives in eval mode, without gradients.

    Raises:
        TombolaError: it cannot run on these inputs.
    """
    with in_eval(model), torch.no_grad():
        try:
            return model(*(x.clone() for x in example))
        except Exception as error:  # whatever the model says to inputs that do not fit
            shapes = ", ".join(str(tuple(x.shape)) for x in example)
            said = " ".join(str(error).split())[:200]
            raise TombolaError(
                f"the model cannot run on inputs of shape {shapes}: {said}; give inputs as it takes them"
            ) from error


def largest_error(want: Any, have: Any) -> float:
    """max|a - b| / max|a| over all tensors in two equal structures; infinite where one is finite and the other not."""
    pairs = zip(tree_leaves(want), tree_leaves(have), strict=True)
    tensors = [(a, torch.as_tensor(b)) for a, b in pairs if isinstance(a, Tensor)]
    return max((_difference(a.double(), b.double()) for a, b in tensors if a.numel()), default=0.0)


def error_on(one: nn.Module, other: Callable[..., Any], example: Sequence[Tensor]) -> float:
    """The largest error of the other's outputs on the example."""
    with torch.no_grad():
        return largest_error(one(*(x.clone() for x in example)), other(*(x.clone() for x in example)))


def _difference(a: Tensor, b: Tensor) -> float:
    same = a.isfinite() & b.isfinite()
    if not torch.equal(a[~same].nan_to_num(), b[~same].nan_to_num()):
        return float("inf")
    a, b = a[same], b[same]
    if not a.numel():
        return 0.0
    largest, off = float(a.abs().max()), float((a - b).abs().max())
    return off / largest if largest else off
