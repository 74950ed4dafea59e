"""Units of score -inf, which a criterion bars: an error, or drawn at random where too few others are left; and ties."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.mask import Mask

__all__ = ["BarredWeightsWarning", "TiedScoresWarning", "bars", "redrawn", "tied", "warn_of_barred", "warn_of_ties"]

_LISTED = 5  # layers in one line


TIED_SHARE = 0.1  # of the kept weights: fewer ties than that are chance, or half precision


class BarredWeightsWarning(UserWarning):
    """A selection kept weights of score -inf."""


class TiedScoresWarning(UserWarning):
    """Many weights were kept for their position in the order alone."""


def bars(scores: Tensor) -> bool:
    """Whether any score is -inf: one pass, nothing allocated."""
    return scores.is_floating_point() and scores.numel() > 0 and bool(scores.amin() == -torch.inf)


def redrawn(picked: Tensor, barred: Tensor, allowed: Tensor | None, fill: torch.Generator | None, where: str) -> Tensor:
    """`picked` with its barred units replaced by as many drawn uniformly from all allowed barred ones.

    Args:
        picked, barred, allowed: flat bool over units; `allowed` None for all.
        fill: draws on its own device; None refuses.
        where: whose units these are, for the message ("layer 'fc.weight'").

    Returns:
        the units to keep. `fill` is not touched where no barred one was picked.

    Raises:
        TombolaError: a barred unit was picked and `fill` is None.
    """
    missing = int(torch.count_nonzero(picked & barred))
    if missing == 0:
        return picked
    if fill is None:
        count = int(torch.count_nonzero(picked))
        among = picked.numel() if allowed is None else int(torch.count_nonzero(allowed))
        raise TombolaError(
            f"{where} is to keep {count} units, but only {count - missing} of {among} have a score above -inf; keep "
            "fewer, take another criterion, or give fill=torch.Generator() to draw the rest at random"
        )
    positions = (barred if allowed is None else barred & allowed).nonzero().view(-1)
    chosen = torch.randperm(positions.numel(), generator=fill, device=fill.device)[:missing]
    kept = picked & ~barred
    kept[positions[chosen.to(positions.device)]] = True
    return kept


def tied(units: Tensor, picked: Tensor, allowed: Tensor | None) -> Tensor:
    """Flat bool: picked units whose score some allowed unit that was not picked has too, so that its position decided.

    All are 1-D over the units of one selection; scores of -inf do not count.
    """
    if not bool(picked.any()):
        return torch.zeros_like(picked)
    lowest = units[picked].amin()
    level = (units == lowest) & (units != -torch.inf)
    out = ~picked if allowed is None else allowed & ~picked
    return level & picked if bool((level & out).any()) else torch.zeros_like(picked)


def warn_of_barred(mask: Mask, barred: Mapping[str, int], drawn: Mapping[str, int], what: str = "") -> None:
    """A `BarredWeightsWarning` if any barred weight is kept: how many, in all and by layer, and why.

    `what`: whose selection it was, the start of the message.
    """
    if not barred:
        return
    along = sum(barred.values()) - sum(drawn.values())
    why = []
    if drawn:
        why.append(f"{sum(drawn.values()):,} drawn at random, since too few others are left")
    if along:
        why.append(f"{along:,} in units that are kept for their other weights")
    warnings.warn(
        f"{what}{sum(barred.values()):,} of the {mask.kept:,} kept weights have score -inf, which bars them "
        f"({', '.join(why)}): {_by_layer(mask, barred)}",
        BarredWeightsWarning,
        stacklevel=4,
    )


def warn_of_ties(mask: Mask, ties: Mapping[str, int], what: str = "") -> None:
    """A `TiedScoresWarning` if more than a tenth of the kept weights are ties, kept for their position alone."""
    if sum(ties.values()) > TIED_SHARE * mask.kept:
        warnings.warn(
            f"{what}{sum(ties.values()):,} of the {mask.kept:,} kept weights have the same score as pruned ones, and "
            f"are kept because they come first: {_by_layer(mask, ties)}",
            TiedScoresWarning,
            stacklevel=4,
        )


def _by_layer(mask: Mask, ties: Mapping[str, int]) -> str:
    counts = mask.counts()
    parts = [f"{name} {count:,} of {counts[name][0]:,}" for name, count in ties.items()]
    more = f" and {len(parts) - _LISTED} more layers" if len(parts) > _LISTED else ""
    return ", ".join(parts[:_LISTED]) + more
