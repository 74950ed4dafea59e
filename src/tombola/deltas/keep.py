"""Which changes of a fine-tuned network are kept: the largest, or those that are a task's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.select.select import selection

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Tall:
    """TALL-masks (Wang et al. 2024): the weights that a task needs of those of several tasks' merged network.

    A weight is the task's own where |base - tuned| > strength · |merged - tuned|: the merged network is nearer to the
    task's weight than the base is, by that factor.

    Args:
        merged: the tensors of the network that several tasks were merged into.
        strength: the paper's lambda, tried from .2 to .6 there.
    """

    merged: State
    strength: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise TombolaError(f"strength is {self.strength}; it must be a number above 0")


def largest(before: State, after: State, fraction: float) -> dict[str, Tensor]:
    """Flat masks of the largest changes: round(fraction · n) of all n floating-point weights, ties to the first."""
    if not 0 < fraction <= 1:
        raise TombolaError(f"keep is {fraction}; it is a fraction of all weights, above 0 and at most 1")
    sizes = {name: _size(before[name], after[name]).reshape(-1) for name in before if _has_sizes(before[name])}
    if not sizes:
        raise TombolaError("there are no floating-point weights to keep some of; leave keep out")
    odd = next((name for name, size in sizes.items() if bool(size.isnan().any())), None)
    if odd is not None:
        raise TombolaError(f"{odd!r} has changes of no size (NaN), so that none are the largest; leave keep out")
    found = selection(sizes, density=fraction, scope="global", ties=False)
    return dict(found.mask.items())  # a tensor of which nothing is kept is no fault here


def chosen(before: State, after: State, tall: Tall) -> dict[str, Tensor]:
    """Flat masks of the weights that are a task's own."""
    found = {}
    for name in before:
        if not _has_sizes(before[name]):
            continue
        merged = tall.merged.get(name)
        if merged is None or merged.shape != before[name].shape:
            raise TombolaError(
                f"the merged network lacks {name!r}, or has it in another shape; give that of these tasks"
            )
        own = _size(before[name], after[name]) > tall.strength * _size(merged, after[name])
        found[name] = own.reshape(-1)
    return found


def _has_sizes(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


def _size(one: Tensor, other: Tensor) -> Tensor:
    wide = torch.promote_types(one.dtype, torch.float32)
    return (other.detach().to("cpu", wide) - one.detach().to("cpu", wide)).abs()
