"""What a selection is given: scores, densities and counts, checked with the one line that the user reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.parameters import transposed
from tombola.plain import python_number
from tombola.select.patterns import Element, Pattern


def checked_scores(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores, detached; TombolaError unless each is a dense tensor of real numbers without NaN."""
    if not isinstance(scores, Mapping):
        raise TombolaError(f"scores are a {type(scores).__name__}; give a mapping from name to tensor")
    if not scores:
        raise TombolaError("there are no scores to select from; the model has no prunable weights, or all are excluded")
    return {name: _numbers(name, score) for name, score in scores.items()}


def checked_density(density: Any, of: str = "") -> float:
    """A number in (0, 1] as Python's, of Python, numpy or a tensor without dimensions."""
    value = python_number(density)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise TombolaError(f"density{of} is {density!r}; it must lie in (0, 1]: the fraction of weights KEPT")
    return value


def checked_densities(densities: Any) -> tuple[float, ...]:
    """A list of at least one density, in the order given."""
    single = isinstance(densities, str | bytes) or not isinstance(densities, Iterable)
    values = () if single else tuple(float(checked_density(density)) for density in densities)
    if not values:
        raise TombolaError(f"densities is {densities!r}; give a list such as [0.3, 0.5]")
    return values


def checked_count(count: Any, total: int, where: str) -> int:
    """A whole number from 0 to `total` as an int, of Python, numpy or a tensor without dimensions."""
    value = python_number(count)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= total:
        raise TombolaError(f"{where} is to keep {count!r} units; allowed is a whole number from 0 to {total}")
    return value


def check_upright(model: nn.Module, names: Iterable[str], pattern: Pattern) -> None:
    """TombolaError if a pattern would take inputs for outputs, where the caller does not tell `select` of it."""
    turned = [] if isinstance(pattern, Element) else sorted(transposed(model).intersection(names))
    if turned:
        raise TombolaError(
            f"pattern {pattern} groups outputs, and {turned[0]!r} is stored as (inputs, outputs); take pattern element "
            "here, leave it out with exclude, or give tb.select(transposed=...)"
        )


def _numbers(name: str, scores: Tensor) -> Tensor:
    if not isinstance(scores, Tensor):
        raise TombolaError(f"the scores of {name!r} are a {type(scores).__name__}; give a tensor (torch.as_tensor)")
    scores = scores.detach()
    if scores.is_meta:
        raise TombolaError(f"the scores of {name!r} are on the meta device and have no values; compute them elsewhere")
    if scores.layout != torch.strided or scores.is_nested:
        raise TombolaError(f"the scores of {name!r} are {_form(scores)}; give a dense tensor (scores.to_dense())")
    if scores.is_quantized or scores.is_complex():
        raise TombolaError(f"the scores of {name!r} are {_form(scores)}; give a dense tensor of real numbers")
    if scores.dtype == torch.bool:
        raise TombolaError(f"the scores of {name!r} are bool, a mask and no scores; give numbers (scores.float())")
    if scores.is_floating_point() and scores.itemsize < 2:
        raise TombolaError(f"the scores of {name!r} are {_form(scores)}; give at least 16 bits (scores.float())")
    if scores.is_floating_point() and (bad := int(torch.count_nonzero(scores != scores))):
        raise TombolaError(f"{bad} of {scores.numel()} scores of {name!r} are NaN; did training diverge?")
    return scores


def _form(scores: Tensor) -> str:
    dtype = str(scores.dtype).removeprefix("torch.")
    if scores.is_nested:
        return f"a nested tensor of {dtype}"
    layout = str(scores.layout).removeprefix("torch.").removeprefix("_")
    return dtype if scores.layout == torch.strided else f"{dtype} in {layout} layout"
