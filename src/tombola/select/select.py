"""Scores to a mask: how many units are kept, over what scope, in which pattern."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.mask import Mask, resolve
from tombola.select.patterns import NM, Pattern, parse_pattern
from tombola.select.topk import keep_largest

__all__ = ["SCOPES", "EmptyLayerWarning", "select"]

SCOPES = ("layer", "global")


class EmptyLayerWarning(UserWarning):
    """A selection left a layer without a single kept weight."""


def select(
    scores: Mapping[str, Tensor],
    *,
    density: float | Mapping[str, float] | None = None,
    counts: int | Mapping[str, int] | None = None,
    scope: str = "layer",
    pattern: str | Pattern = "element",
    candidates: Mask | None = None,
    signed: bool = False,
) -> Mask:
    """Keep the units with the largest scores: exactly round(density * U) of U, ties to the lower flat index.

    Args:
        scores: name -> real tensor in the weight's shape; the larger, the sooner kept. -0.0 ties with +0.0,
            -inf comes last.
        density: fraction of units kept, in (0, 1]: one number for all, or name -> number (scope "layer"
            only). Python's round, half to even.
        counts: instead of a density, how many units to keep: an int (scope "global") or name -> int
        ("layer").
        scope: "layer" (every layer holds the density) or "global" (all together; in ties the earlier layer
        wins).
        pattern: "element", "block:V", "channel", "N:M", or a Pattern. N:M fixes the density and is per layer.
        candidates: only what is kept here may be kept again (a unit: if all its weights are), so that masks
            nest. Densities and counts still speak of all units.
        signed: the score of a unit of several weights is the mean of its |scores|; with `signed`, of its
            scores, as criteria need whose scores are negative on purpose (small_final).

    Returns:
        A Mask in the order of `scores`, each tensor on its scores' device. Its density is the achieved weight
        density, which patterns with ragged units may hold only roughly.

    Raises:
        TombolaError: no scores, NaN, a density outside (0, 1], counts that cannot be met, an unknown scope,
            pattern or name, candidates of other names or shapes.

    Warns:
        EmptyLayerWarning: naming the layers that end empty.
    """
    if not scores:
        raise TombolaError("there are no scores to select from; the model has no prunable weights, or all are excluded")
    if scope not in SCOPES:
        raise TombolaError(f"unknown scope {scope!r}; allowed: {', '.join(SCOPES)}")
    chosen = parse_pattern(pattern)
    scores = {name: score.detach() for name, score in scores.items()}
    _check_candidates(scores, candidates)
    if isinstance(chosen, NM):
        _check_fixed(chosen, density, counts, scope)
        kept = {
            name: chosen.keep(_numbers(name, score), None if candidates is None else _on(candidates[name], score))
            for name, score in scores.items()
        }
    else:
        wanted = _wanted(scores, chosen, density, counts, scope)
        units = {name: chosen.score(_numbers(name, score), signed) for name, score in scores.items()}
        allowed = (
            None
            if candidates is None
            else {name: chosen.whole(_on(candidates[name], score)) for name, score in scores.items()}
        )
        if isinstance(wanted, int):
            picked = _pick_global(units, wanted, allowed)
        else:
            picked = {
                name: _pick(unit, wanted[name], None if allowed is None else allowed[name], f"layer {name!r}")
                for name, unit in units.items()
            }
        kept = {name: chosen.spread(picked[name], score.shape) for name, score in scores.items()}
    mask = Mask._own({name: tensor.contiguous() for name, tensor in kept.items()})
    if empty := mask.empty_layers():
        warn_of_empty(empty)
    return mask


def warn_of_empty(names: Sequence[str]) -> None:
    """Say which layers end empty, in the name of whoever called the caller."""
    warnings.warn(
        f"nothing is kept of {', '.join(names)}; keep more, or choose another scope or criterion",
        EmptyLayerWarning,
        stacklevel=3,
    )


def _pick(units: Tensor, count: int, allowed: Tensor | None, where: str) -> Tensor:
    """Flat bool: the `count` largest units, among the allowed ones only."""
    if allowed is None:
        return keep_largest(units, count)
    places = allowed.nonzero().view(-1)
    if count > places.numel():
        raise TombolaError(
            f"{where} shall keep {count} units but only {places.numel()} are candidates; ask for no more "
            "than were kept before"
        )
    picked = torch.zeros_like(allowed)
    picked[places] = keep_largest(units[places], count)
    return picked


def _pick_global(units: dict[str, Tensor], count: int, allowed: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """`_pick` over all layers laid end to end, cut up again and sent back to their devices."""
    device = next(iter(units.values())).device
    total = torch.cat([unit.to(device) for unit in units.values()])
    open_ = None if allowed is None else torch.cat([a.to(device) for a in allowed.values()])
    parts = torch.split(_pick(total, count, open_, "the network"), [unit.numel() for unit in units.values()])
    return {name: part.to(unit.device) for (name, unit), part in zip(units.items(), parts, strict=True)}


# ---- what is asked for -------------------------------------------------------------------------------------


def _wanted(
    scores: Mapping[str, Tensor],
    pattern: Pattern,
    density: float | Mapping[str, float] | None,
    counts: int | Mapping[str, int] | None,
    scope: str,
) -> int | dict[str, int]:
    """How many units to keep: one number for scope global, name -> number for scope layer."""
    assert not isinstance(pattern, NM)
    if (density is None) == (counts is None):
        raise TombolaError("give either a density in (0, 1] or counts of units, not both and not neither")
    total = {name: pattern.units(score.shape) for name, score in scores.items()}
    per_layer = density if density is not None else counts
    if isinstance(per_layer, Mapping):
        if scope == "global":
            raise TombolaError("a density or count per layer goes with scope 'layer'; give one number, or that scope")
        _check_names(scores, per_layer)
    elif counts is not None and scope == "layer":
        raise TombolaError("one count for all goes with scope 'global'; give name -> count, or that scope")

    if isinstance(density, Mapping):
        return {name: round(checked_density(density[name], f" of {name!r}") * n) for name, n in total.items()}
    if isinstance(counts, Mapping):
        return {name: _whole(counts[name], n, f"layer {name!r}") for name, n in total.items()}
    if density is not None:
        checked_density(density)
        if scope == "global":
            return round(density * sum(total.values()))
        return {name: round(density * n) for name, n in total.items()}
    assert counts is not None
    return _whole(counts, sum(total.values()), "the network")


def checked_density(density: float, of: str = "") -> float:
    if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 < density <= 1:
        raise TombolaError(f"density{of} is {density!r}; it must lie in (0, 1]: the fraction of weights KEPT")
    return density


def _whole(count: int, total: int, where: str) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= total:
        raise TombolaError(f"{where} shall keep {count!r} units; allowed is a whole number from 0 to {total}")
    return count


def _check_fixed(
    pattern: NM,
    density: float | Mapping[str, float] | None,
    counts: int | Mapping[str, int] | None,
    scope: str,
) -> None:
    fixed = pattern.n / pattern.m
    if scope == "global":
        raise TombolaError(f"pattern {pattern} is fixed within every layer; use scope 'layer', not 'global'")
    if counts is not None:
        raise TombolaError(f"pattern {pattern} fixes the density at {fixed:g}; leave the counts out")
    for value in density.values() if isinstance(density, Mapping) else [density]:
        if value is not None and not math.isclose(value, fixed, rel_tol=1e-9):
            raise TombolaError(
                f"pattern {pattern} fixes the density at {fixed:g}, but {value!r} is asked for; leave it out"
            )


def _check_names(scores: Mapping[str, Tensor], given: Mapping[str, object]) -> None:
    for name in given:
        resolve(scores, name, "layer with scores")
    missing = [name for name in scores if name not in given]
    if missing:
        raise TombolaError(f"no density or count is given for {', '.join(missing[:5])}; give one for every layer")


def _check_candidates(scores: Mapping[str, Tensor], candidates: Mask | None) -> None:
    if candidates is None:
        return
    if missing := [name for name in scores if name not in candidates]:
        raise TombolaError(f"the candidates have no mask for {', '.join(missing[:5])}; give one over the same layers")
    for name, score in scores.items():
        if candidates[name].shape != score.shape:
            raise TombolaError(
                f"candidates of {name!r} have shape {tuple(candidates[name].shape)}, its scores "
                f"{tuple(score.shape)}; they must be equal"
            )


def _numbers(name: str, scores: Tensor) -> Tensor:
    if scores.is_floating_point() and (bad := int(torch.count_nonzero(scores != scores))):
        raise TombolaError(f"{bad} of {scores.numel()} scores of {name!r} are NaN; did training diverge?")
    return scores


def _on(candidates: Tensor, scores: Tensor) -> Tensor:
    return candidates.to(scores.device)
