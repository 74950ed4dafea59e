"""Mask rules: how scores become a mask at each refresh, and what slope the straight-through gradient takes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.mask import Mask
from tombola.names import unknown
from tombola.select.checks import checked_densities, checked_density
from tombola.select.patterns import NM, Channel, Element, Pattern, parse_pattern
from tombola.select.select import SCOPES, select, warn_of_empty
from tombola.select.topk import Near, keep_largest
from tombola.supermask import fused


class ScoredLayer(Protocol):
    """What a rule sees of one masked weight."""

    fused: bool
    is_output: bool
    near: Near

    @property
    def name(self) -> str:
        """The weight's name."""

    @property
    def scores(self) -> Tensor:
        """In the weight's shape."""

    @property
    def mask(self) -> Tensor:
        """The buffer that is written."""

    def uniform(self) -> Tensor:
        """The next draw from [0, 1), float32 in the scores' shape."""


class MaskRule(ABC):
    """Scores to a mask M, and what stands for dM/ds: the straight-through gradient is dL/ds = dL/dM·slope(s).

    `mask` and `slope` define a rule, in plain torch. `write` and `score_gradient` are what a training loop runs: the
    same, where a rule has nothing faster (`attach(fused=False)` keeps to the definition).

    `values`: dtype of the mask. `stochastic`: whether masks are drawn. `soft`: whether they lie between 0 and 1 while
    the network trains; what a ticket holds is then the 0 or 1 of the likeliest. `start`: what scores begin as (see
    `attach`). `density`: the fraction of units kept, None where it is an outcome.
    """

    values: ClassVar[torch.dtype] = torch.bool
    stochastic: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    start: ClassVar[str | float]

    @property
    def density(self) -> float | None:
        """The fraction kept; None where it is an outcome, not a setting."""
        return None

    @abstractmethod
    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """The mask of one layer; a stochastic rule draws it with `uniform` in [0, 1), and else gives the likeliest."""

    @property
    def settles(self) -> bool:
        """Whether the likeliest mask is another than the one that a network trains under."""
        return self.stochastic or self.soft

    @abstractmethod
    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """dM/ds under the mask of the forward pass, in the scores' shape and dtype."""

    def gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """dL/ds from dL/dM = a·b, under the mask of the forward pass: a·b·slope."""
        return product(a, b, self.slope(scores, mask))

    @abstractmethod
    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Scores, like the given ones (of one network, by name), under which what `mask` keeps is kept first."""

    def write(self, layers: Sequence[ScoredLayer], sample: bool) -> None:
        """Write the masks of all layers that share the rule; `sample` False takes the likeliest of one that settles."""
        for layer in layers:
            scores = numbers(layer)
            layer.mask.copy_(self.mask(scores, layer.uniform() if sample and self.stochastic else None))

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """`gradient`, as fast as it can be had."""
        return self.gradient(a, b, scores, mask)


def product(a: Tensor, b: Tensor, slope: Tensor) -> Tensor:
    """a·b·slope in the dtype of the slope: products of half precision would underflow."""
    return (a.to(slope.dtype) * b * slope).to(slope.dtype)


def largest(scores: Tensor, k: int) -> Tensor:
    """True for the k largest |s|, ties to the lower flat index: the definition of `tombola.select`'s exact top-k."""
    rank = scores.abs().flatten().argsort(descending=True, stable=True).argsort()
    return (rank < k).view_as(scores)


def numbers(layer: ScoredLayer) -> Tensor:
    """The layer's scores; TombolaError if some are NaN, of which every comparison would be false."""
    scores = layer.scores.detach()
    if bad := int(torch.count_nonzero(scores != scores)):
        raise TombolaError(
            f"{layer.name!r}: {bad} of {scores.numel()} scores are NaN; scores must be numbers (did training diverge?)"
        )
    return scores


@dataclass(frozen=True)
class TopK(MaskRule):
    """The largest |scores| are kept, exactly round(density·U) units (edge-popup, Ramanujan et al. 2020).

    dM/ds = sign(s), for kept and pruned weights alike: dL/ds = g·w·sign(s).

    Args:
        density: fraction of units kept
        scope: layer or global
        pattern: element, block:V, inputs:V, N:M (which fixes the density) or channel, which keeps output layers
            whole unless `attach(outputs=())` says that there are none
        whole: name patterns of weights that are kept whole and do not count (a first or last layer)
    """

    density: float = 0.5
    scope: str = "layer"
    pattern: str = "element"
    whole: tuple[str, ...] = ()
    values: ClassVar[torch.dtype] = torch.bool
    stochastic: ClassVar[bool] = False
    start: ClassVar[str | float] = "torch_default"

    def __post_init__(self) -> None:
        object.__setattr__(self, "density", checked_density(self.density))
        check_fields(self)
        if self.scope not in SCOPES:
            raise TombolaError(unknown("scope", self.scope, SCOPES))
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, NM):
            if self.scope == "global":
                raise TombolaError(f"pattern {pattern} is fixed within every layer; use scope layer, not global")
            fixed = pattern.n / pattern.m
            if not math.isclose(self.density, fixed, rel_tol=1e-9):
                raise TombolaError(
                    f"pattern {pattern} fixes the density at {fixed:g}, but {self.density:g} is asked for; set that"
                )

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """The largest |s| of one layer."""
        if isinstance(self._pattern, Element):
            return largest(scores, round(self.density * scores.numel()))
        return self._select({"scores": scores})["scores"]

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """sign(s)."""
        return torch.sign(scores)

    def write(self, layers: Sequence[ScoredLayer], sample: bool) -> None:
        """Select once over all layers; under scope layer in place, from the last threshold."""
        pattern = self._pattern
        spared = isinstance(pattern, Channel)  # of a network's outputs none is removed
        whole = [
            layer
            for layer in layers
            if (spared and layer.is_output) or any(fnmatchcase(layer.name, name) for name in self.whole)
        ]
        for layer in whole:
            layer.mask.fill_(True)
        chosen = [layer for layer in layers if layer not in whole] if whole else layers
        if self.scope == "layer" and isinstance(pattern, Element):
            counts = [round(self.density * layer.scores.numel()) for layer in chosen]
            for layer, count in zip(chosen, counts, strict=True):
                if layer.fused:
                    _keep(layer, count)
                else:
                    layer.mask.copy_(largest(numbers(layer), count))
            if 0 in counts:
                warn_of_empty([layer.name for layer, count in zip(chosen, counts, strict=True) if count == 0])
        elif chosen and isinstance(pattern, Element) and not all(layer.fused for layer in chosen):
            every = torch.cat([numbers(layer).flatten() for layer in chosen])
            parts = torch.split(
                largest(every, round(self.density * len(every))), [layer.scores.numel() for layer in chosen]
            )
            for layer, part in zip(chosen, parts, strict=True):
                layer.mask.copy_(part.view_as(layer.mask))
        elif chosen:
            sizes = dict(zip(_labels(chosen), (layer.scores.detach() for layer in chosen), strict=True))
            for layer, mask in zip(chosen, self._select(sizes).values(), strict=True):
                layer.mask.copy_(mask)

    @property
    def _pattern(self) -> Pattern:
        return parse_pattern(self.pattern)

    def _select(self, scores: Mapping[str, Tensor]) -> Mask:
        density = None if isinstance(self._pattern, NM) else self.density
        sizes = {name: s.abs() for name, s in scores.items()}
        return select(sizes, density=density, scope=self.scope, pattern=self._pattern)

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """a·b·sign(s)."""
        return fused.signed_product(a, b, scores)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Kept scores lie above all pruned ones of the scope; signs and order within the two stay."""
        largest = {name: float(s.abs().max()) for name, s in scores.items()}
        if self.scope == "global":
            largest = dict.fromkeys(largest, max(largest.values()))
        return {name: _lifted(s, mask[name].to(s.device), largest[name]) for name, s in scores.items()}


def _keep(layer: ScoredLayer, count: int) -> None:
    """The layer's mask in place, starting from the last threshold."""
    try:
        keep_largest(layer.scores, count, out=layer.mask, near=layer.near, magnitude=True)
    except TombolaError as error:
        raise TombolaError(f"{layer.name!r}: {error}") from None


def _labels(layers: Sequence[ScoredLayer]) -> list[str]:
    """The layers' names; numbered where parts of a model, attached one by one, share some."""
    names = [layer.name for layer in layers]
    return names if len(set(names)) == len(names) else [f"{name} (layer {i})" for i, name in enumerate(names)]


def _lifted(scores: Tensor, mask: Tensor, largest: float) -> Tensor:
    """Scores whose size, where the mask is true, lies above `largest`; signs stay, and 0 counts as positive."""
    above = 1.001 * largest if largest > 0 else 1.0  # so that a kept 0 does not tie with the largest pruned score
    return torch.where(mask, scores + torch.where(scores < 0, -above, above), scores)


class _Sigmoid(MaskRule):
    """A probability p = sigmoid(s) per weight; dM/ds = p(1 - p)."""

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """p(1 - p)."""
        p = torch.sigmoid(scores)
        return p * (1 - p)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Logits of +1 where kept and -1 where pruned."""
        return {name: torch.where(mask[name].to(s.device), 1.0, -1.0).to(s) for name, s in scores.items()}


@dataclass(frozen=True)
class Threshold(_Sigmoid):
    """Kept where sigmoid(s) > 0.5, strictly (mshlis/SuperMasks); s begins at 1, everything kept."""

    start: ClassVar[str | float] = 1.0

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """s > 0: sigmoid(s) > 0.5 without its rounding."""
        return scores > 0


@dataclass(frozen=True)
class Bernoulli(_Sigmoid):
    """Drawn with probability sigmoid(s) at every refresh (Zhou et al. 2019); s begins at 0, a fair coin."""

    stochastic: ClassVar[bool] = True
    start: ClassVar[str | float] = 0.0

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """uniform < sigmoid(s); without a draw, p > 0.5."""
        return scores > 0 if uniform is None else uniform < torch.sigmoid(scores)


@dataclass(frozen=True)
class Round(MaskRule):
    """Scores held in [0, 1] and rounded: kept at 0.5 and above; dM/ds = 1 (Gem-Miner, Sreenivasan et al. 2022).

    Scores that have been frozen out are held at 0 by the method's hook (`FreezeOut`).
    """

    start: ClassVar[str | float] = "unit"

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """s >= 0.5."""
        return scores >= 0.5

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(scores)

    def write(self, layers: Sequence[ScoredLayer], sample: bool) -> None:
        """Clamp the scores, then round them."""
        for layer in layers:
            layer.mask.copy_(self.mask(numbers(layer).clamp_(0, 1)))

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """a·b."""
        return a.to(scores.dtype) * b

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """The scores folded to either side of 0.5."""
        return {
            name: torch.where(mask[name].to(s.device), torch.maximum(s, 1 - s), torch.minimum(s, 1 - s) * 0.999)
            for name, s in scores.items()
        }


@dataclass(frozen=True)
class Signed(MaskRule):
    """-1, 0 or +1: sign(s) where |s| > threshold, else 0; dM/ds = 1 (signed supermasks, Koster et al. 2022).

    Args:
        threshold: on the raw score
    """

    threshold: float = 0.01
    values: ClassVar[torch.dtype] = torch.int8
    start: ClassVar[str | float] = "xavier_uniform"

    def __post_init__(self) -> None:
        check_fields(self)
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise TombolaError(f"threshold is {self.threshold}; it must be a number of at least 0, e.g. 0.01")

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """[s > threshold] - [s < -threshold]."""
        return (scores > self.threshold).to(torch.int8) - (scores < -self.threshold).to(torch.int8)

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(scores)

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """a·b."""
        return a.to(scores.dtype) * b

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Scores above the threshold where kept (with sign +), 0 where pruned."""
        return {
            name: torch.where(mask[name].to(s.device), s.abs() + 2 * self.threshold, 0.0).to(s)
            for name, s in scores.items()
        }


@dataclass(frozen=True)
class Coats(MaskRule):
    """How many of several nested top-k masks keep the weight (multicoated supermasks, Okoshi et al. 2022).

    dM/ds = sign(s) as in TopK, for the sum as for one coat.

    Args:
        densities: fraction kept by each coat
    """

    densities: tuple[float, ...] = field(default=(0.3, 0.2, 0.1))
    values: ClassVar[torch.dtype] = torch.int8
    start: ClassVar[str | float] = "torch_default"

    def __post_init__(self) -> None:
        object.__setattr__(self, "densities", tuple(sorted(checked_densities(self.densities), reverse=True)))
        if len(self.densities) > 127:
            raise TombolaError(f"{len(self.densities)} coats are asked for; give 1 to 127 densities")

    @property
    def density(self) -> float:
        """That of the widest coat."""
        return self.densities[0]

    def mask(self, scores: Tensor, uniform: Tensor | None = None) -> Tensor:
        """The sum of the coats."""
        coats = [largest(scores, round(density * scores.numel())) for density in self.densities]
        return torch.stack(coats).sum(0, dtype=torch.int8)

    def slope(self, scores: Tensor, mask: Tensor) -> Tensor:
        """sign(s)."""
        return torch.sign(scores)

    def write(self, layers: Sequence[ScoredLayer], sample: bool) -> None:
        """Select once per coat and layer, in place."""
        for layer in layers:
            scores = numbers(layer)
            if not layer.fused:
                layer.mask.copy_(self.mask(scores))
                continue
            coat = torch.empty_like(scores, dtype=torch.bool)
            layer.mask.zero_()
            for density in self.densities:
                layer.mask.add_(keep_largest(scores, round(density * scores.numel()), out=coat, magnitude=True))

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """a·b·sign(s)."""
        return fused.signed_product(a, b, scores)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Kept scores lie above all pruned ones."""
        return TopK(self.densities[0]).scores_from_mask(scores, mask)
