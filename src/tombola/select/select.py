"""Scores to a mask: how many units are kept, over what scope, in which pattern."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.mask import Mask
from tombola.names import unknown
from tombola.parameters import resolve
from tombola.select.barred import BarredWeightsWarning, bars, redrawn, tied, warn_of_barred
from tombola.select.checks import checked_count, checked_density, checked_scores
from tombola.select.patterns import NM, Element, Pattern, Units, parse_pattern
from tombola.select.topk import keep_largest

__all__ = ["SCOPES", "BarredWeightsWarning", "EmptyLayerWarning", "Selection", "select", "selection"]

SCOPES = ("layer", "global")


class EmptyLayerWarning(UserWarning):
    """A selection left a layer without a single kept weight."""


class Selection(NamedTuple):
    """A mask and its counts: name -> number of weights, layers without any left out.

    `barred`: kept although their score is -inf; of these `drawn` at random, the others come along in a unit that has
    further weights. `tied`: kept for their position alone, as weights of the same score were pruned.
    """

    mask: Mask
    barred: dict[str, int]
    drawn: dict[str, int]
    tied: dict[str, int]


@checked
def select(
    scores: Mapping[str, Tensor],
    *,
    density: float | Mapping[str, float] | None = None,
    counts: int | Mapping[str, int] | None = None,
    scope: str = "layer",
    pattern: str | Pattern = "element",
    candidates: Mask | None = None,
    signed: bool = False,
    fill: torch.Generator | None = None,
    transposed: Collection[str] = (),
) -> Mask:
    """Keep the units with the largest scores: exactly round(density * U) of U, ties to the lower flat index.

    Args:
        scores: name -> real tensor in the weight's shape; the larger, the sooner kept. -0.0 ties with +0.0.
            -inf bars a weight: see `fill`.
        density: fraction of units kept, in (0, 1]: one number for all, or name -> number (scope "layer"
            only), of Python, numpy or torch. Python's round, half to even.
        counts: instead of a density, how many units to keep: an int (scope "global") or name -> int
            ("layer").
        scope: "layer" (every layer holds the density) or "global" (all together; in ties the earlier layer
            wins).
        pattern: "element", "block:V", "inputs:V", "channel", "N:M", or a Pattern. N:M fixes the density and is per
            layer.
        candidates: only what is kept here may be kept again (a unit: if all its weights are), so that masks
            nest. Densities and counts still speak of all units.
        signed: the score of a unit of several weights is the mean of its |scores|; with `signed`, of its
            scores, as criteria need whose scores are negative on purpose (small_final). Weights of score -inf
            do not count in the mean; only a unit of nothing else is barred.
        fill: where too few units have a score above -inf, draws the rest uniformly from the barred candidates (of
            the layer, over all layers where the scope is global, of the group of N:M). Without it that is an error.
        transposed: names of matrices that lie as (inputs, outputs), so that patterns see them turned:
            `tombola.parameters.transposed(model)`.

    Returns:
        A Mask in the order of `scores`, each tensor on its scores' device. Its density is the achieved weight
        density, which patterns with ragged units may hold only roughly.

    Raises:
        TombolaError: no scores, scores that are not dense tensors of real numbers, NaN, a density outside (0, 1],
            counts that cannot be met, an unknown scope, pattern or name, candidates of other names or shapes, barred
            units that would have to be kept.

    Warns:
        EmptyLayerWarning: naming the layers that end empty.
        BarredWeightsWarning: how many kept weights are barred, by layer.

    >>> scores = {"a": torch.tensor([3.0, 1.0, 2.0, 1.0]), "b": torch.tensor([9.0, 8.0])}
    >>> tb.select(scores, density=0.5)["a"], tb.select(scores, density=0.5, scope="global")["a"]
    (tensor([ True, False,  True, False]), tensor([ True, False, False, False]))
    >>> tb.select({"a": torch.tensor([[3.0, 1.0, 2.0, 4.0]])}, pattern="2:4")["a"]
    tensor([[ True, False, False,  True]])
    """
    result = selection(
        scores,
        density=density,
        counts=counts,
        scope=scope,
        pattern=pattern,
        candidates=candidates,
        signed=signed,
        fill=fill,
        transposed=transposed,
        ties=False,
    )
    warn_of_barred(result.mask, result.barred, result.drawn)
    if empty := result.mask.empty_layers():
        warn_of_empty(empty)
    return result.mask


def selection(
    scores: Mapping[str, Tensor],
    *,
    density: float | Mapping[str, float] | None = None,
    counts: int | Mapping[str, int] | None = None,
    scope: str = "layer",
    pattern: str | Pattern = "element",
    candidates: Mask | None = None,
    signed: bool = False,
    fill: torch.Generator | None = None,
    transposed: Collection[str] = (),
    ties: bool = True,
) -> Selection:
    """`select`, with counts that a caller may record instead of warnings.

    `ties`: False skips the search for them, and leaves `tied` empty.
    """
    scores = checked_scores(scores)
    if scope not in SCOPES:
        raise TombolaError(unknown("scope", scope, SCOPES))
    chosen = parse_pattern(pattern)
    _check_candidates(scores, candidates)
    turned = [] if isinstance(chosen, Element) else [name for name in scores if name in transposed]
    if turned:
        scores = _turned(scores, turned)
        candidates = None if candidates is None else Mask._own(_turned(candidates, turned))
    barring = [name for name, score in scores.items() if bars(score)]
    how = _How(fill, ties, bool(barring))
    if isinstance(chosen, NM):
        _check_fixed(chosen, density, counts, scope)
        kept, drawn, by_order = _by_group(scores, chosen, candidates, how)
    else:
        wanted = _wanted(scores, chosen, density, counts, scope)
        kept, drawn, by_order = _by_unit(scores, chosen, wanted, candidates, signed, how)
    barred = {name: int(torch.count_nonzero(kept[name] & (scores[name] == -torch.inf))) for name in barring}
    mask = Mask._own({name: tensor.contiguous() for name, tensor in _turned(kept, turned).items()})
    return Selection(mask, _some(barred), drawn, by_order)


def _turned(tensors: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The same tensors, those of the names with their first two dimensions exchanged."""
    return {name: tensor.transpose(0, 1) if name in names else tensor for name, tensor in tensors.items()}


class _How(NamedTuple):
    """How to pick: what draws barred units, whether to count ties, whether there are barred units at all."""

    fill: torch.Generator | None
    ties: bool
    barring: bool


_Kept = tuple[dict[str, Tensor], dict[str, int], dict[str, int]]
"""The mask's tensors, and by layer how many weights were drawn and how many are kept for their position alone."""


def _by_group(scores: Mapping[str, Tensor], pattern: NM, candidates: Mask | None, how: _How) -> _Kept:
    kept, drawn, by_order = dict[str, Tensor](), dict[str, int](), dict[str, int]()
    for name, score in scores.items():
        allowed = None if candidates is None else _on(candidates[name], score)
        kept[name], drawn[name] = pattern.filled(score, allowed, how.fill, f"layer {name!r}")
        by_order[name] = pattern.tied(score, kept[name], allowed) if how.ties else 0
    return kept, _some(drawn), _some(by_order)


def _by_unit(
    scores: Mapping[str, Tensor],
    pattern: Units,
    wanted: int | dict[str, int],
    candidates: Mask | None,
    signed: bool,
    how: _How,
) -> _Kept:
    units = {name: pattern.score(score, signed) for name, score in scores.items()}
    allowed = (
        None
        if candidates is None
        else {name: pattern.whole(_on(candidates[name], score)) for name, score in scores.items()}
    )
    if isinstance(wanted, int):
        sizes = [unit.numel() for unit in units.values()]
        device = next(iter(units.values())).device  # all layers are laid end to end
        total = torch.cat([unit.to(device) for unit in units.values()])
        open_ = None if allowed is None else torch.cat([a.to(device) for a in allowed.values()])
        whole = _pick(total, wanted, open_, "the network", how)
        parts = [torch.split(part, sizes) for part in whole]
        picks = dict(zip(units, zip(*parts, strict=True), strict=True))
    else:
        opens = dict.fromkeys(units) if allowed is None else allowed
        picks = {name: _pick(unit, wanted[name], opens[name], f"layer {name!r}", how) for name, unit in units.items()}

    def spread(part: int) -> dict[str, Tensor]:
        return {name: pattern.spread(picks[name][part].to(score.device), score.shape) for name, score in scores.items()}

    def weights(part: int) -> dict[str, int]:
        return _some({name: int(torch.count_nonzero(kept)) for name, kept in spread(part).items()})

    return spread(0), weights(1) if how.barring else {}, weights(2) if how.ties else {}


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def warn_of_empty(names: Sequence[str]) -> None:
    """Warn which layers end empty; the warning points at the caller's caller."""
    warnings.warn(
        f"nothing is kept of {', '.join(names)}; keep more, or choose another scope or criterion",
        EmptyLayerWarning,
        stacklevel=4,
    )


def _pick(units: Tensor, count: int, allowed: Tensor | None, where: str, how: _How) -> tuple[Tensor, Tensor, Tensor]:
    """Flat bools: the `count` largest units, of the allowed ones; those drawn; those kept for their position."""
    if allowed is None:
        picked = keep_largest(units, count)
    else:
        positions = allowed.nonzero().view(-1)
        if count > positions.numel():
            raise TombolaError(
                f"{where} is to keep {count} units but only {positions.numel()} are candidates; ask for no more "
                "than were kept before"
            )
        picked = torch.zeros_like(allowed)
        picked[positions] = keep_largest(units[positions], count)
    drawn = none = torch.zeros_like(picked)
    if how.barring:
        barred = units == -torch.inf
        picked = redrawn(picked, barred, allowed, how.fill, where)
        drawn = picked & barred
    return picked, drawn, tied(units, picked, allowed) if how.ties else none


# ---- how many to keep -------------------------------------------------------------------------------------


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
        raise TombolaError("give either a density in (0, 1] or counts of units, exactly one of them")
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
        return {name: checked_count(counts[name], n, f"layer {name!r}") for name, n in total.items()}
    if density is not None:
        density = checked_density(density)
        if scope == "global":
            return round(density * sum(total.values()))
        return {name: round(density * n) for name, n in total.items()}
    assert counts is not None
    return checked_count(counts, sum(total.values()), "the network")


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
        if value is not None and not math.isclose(checked_density(value), fixed, rel_tol=1e-6):
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


def _on(candidates: Tensor, scores: Tensor) -> Tensor:
    return candidates.to(scores.device)
