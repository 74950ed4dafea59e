"""Scores to a mask over layers as matrices: by row, by layer or over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.names import check_known
from tombola.parameters import resolve
from tombola.prune.heads import Heads
from tombola.prune.layers import Layer
from tombola.prune.sparse_gpt import Share
from tombola.select.barred import warn_of_barred
from tombola.select.checks import checked_density, checked_scores
from tombola.select.patterns import NM, Element, Pattern
from tombola.select.select import SCOPES as SELECTED
from tombola.select.select import selection

SCOPES = ("row", *SELECTED)


def check_scope(scope: str, pattern: Pattern | Heads) -> None:
    """TombolaError for an unknown scope, or one that the pattern does not go with."""
    check_known("scope", scope, SCOPES)
    if scope == "row" and not isinstance(pattern, Element):
        raise TombolaError(f"scope 'row' is for pattern element; pattern {pattern} goes with scope 'layer'")
    if scope == "global" and isinstance(pattern, NM):
        raise TombolaError(f"pattern {pattern} is fixed within every layer; use scope 'layer', not 'global'")


def choose(
    scores: Mapping[str, Tensor],
    layers: Mapping[str, Layer],
    density: float | Mapping[str, float] | None,
    scope: str,
    pattern: Pattern,
    fill: torch.Generator,
) -> Mask:
    """The mask of the layers that have scores; see `prune`.

    Args:
        scores: in the weights' shapes.
        density: one for all, or one for each layer that has scores; None for N:M.
    """
    given = checked_scores(scores)
    for name, score in given.items():
        resolve(layers, name, "prunable layer")
        if score.shape != layers[name].weight.shape:
            raise TombolaError(
                f"the criterion gives scores of shape {tuple(score.shape)} for {name!r}, which has shape "
                f"{tuple(layers[name].weight.shape)}; they must be equal"
            )
    rows = {name: layers[name].rows(score) for name, score in given.items()}
    if scope == "row":
        kept = {name: _by_row(part, _of(density, name)) for name, part in rows.items()}
    else:
        flat = {name: layers[name].matrix(part) for name, part in rows.items()}
        found = selection(flat, density=density, scope=scope, pattern=pattern, fill=fill, ties=False)
        warn_of_barred(found.mask, found.barred, found.drawn)
        kept = {name: found.mask[name].view(part.shape) for name, part in rows.items()}
    return Mask({name: layers[name].weight_of(part) for name, part in kept.items()})


def check_density(density: float | Mapping[str, float] | None, pattern: Pattern | Heads) -> None:
    """TombolaError if it is missing, outside of (0, 1], or not what N:M fixes."""
    values = density.items() if isinstance(density, Mapping) else [(None, density)]
    for name, value in values:
        if value is not None:
            number = checked_density(value, "" if name is None else f" of {name!r}")
            if isinstance(pattern, NM) and not math.isclose(number, pattern.n / pattern.m, rel_tol=1e-6):
                raise TombolaError(
                    f"pattern {pattern} fixes the density at {pattern.n / pattern.m:g}, but {value!r} is asked for; "
                    "leave it out"
                )
        elif not isinstance(pattern, NM):
            raise TombolaError("density is missing; give the fraction of weights to keep, in (0, 1]")


def _by_row(scores: Tensor, density: float) -> Tensor:
    """The largest of every row, in ties to the left: rows differ by at most one, and the whole has its exact count."""
    flat = scores.flatten(0, 1)
    outputs, inputs = flat.shape
    share = Share(density)
    counts = torch.tensor([share.of(row * inputs, inputs) for row in range(outputs)], device=flat.device)
    order = torch.sort(flat, dim=1, descending=True, stable=True).indices
    first = torch.arange(inputs, device=flat.device) < counts[:, None]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, first).view(scores.shape)


def _of(density: float | Mapping[str, float] | None, name: str) -> float:
    value = density[name] if isinstance(density, Mapping) else density
    assert value is not None
    return float(value)
