"""Mask rules: how scores become a mask at each refresh, and what slope the straight-through gradient takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.names import unknown
from tombola.select.checks import checked_densities, checked_density
from tombola.select.patterns import NM, Channel, Element, parse_pattern
from tombola.select.select import SCOPES, select, warn_of_empty
from tombola.select.topk import keep_largest
from tombola.supermask import kernels

if TYPE_CHECKING:
    from tombola.supermask.parametrization import Supermask


@runtime_checkable
class MaskRule(Protocol):
    """Scores to masks, for all layers of one network that share the rule.

    `values`: dtype of the mask. `stochastic`: whether masks are drawn. `start`: what scores begin as (see
    `attach`). `density`: the fraction of units kept, None where it is an outcome.
    """

    values: ClassVar[torch.dtype]
    stochastic: ClassVar[bool]
    start: ClassVar[str | float]

    @property
    def density(self) -> float | None:
        """The fraction kept."""

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Write every layer's mask from its scores; `sample` False takes the likeliest mask of a stochastic rule."""

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor) -> Tensor:
        """a·b·slope: dL/ds from dL/dM = a·b."""

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Scores, like the given ones (of one network, by name), under which what `mask` keeps is kept first."""


@dataclass(frozen=True)
class TopK:
    """The largest |scores| are kept, exactly round(density·U) units (edge-popup, Ramanujan et al. 2020).

    dM/ds = sign(s), for kept and pruned weights alike: dL/ds = g·w·sign(s).

    Args:
        density: fraction of units kept
        scope: layer or global
        pattern: element, block:V, N:M (which fixes the density) or channel, which keeps output layers whole unless
            `attach(outputs=())` says that there are none
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

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Select once over all layers."""
        pattern = parse_pattern(self.pattern)
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
                _keep(layer, count)
            if 0 in counts:
                warn_of_empty([layer.name for layer, count in zip(chosen, counts, strict=True) if count == 0])
        elif chosen:
            sizes = dict(zip(_labels(chosen), (layer.scores.detach().abs() for layer in chosen), strict=True))
            density = None if isinstance(pattern, NM) else self.density
            found = select(sizes, density=density, scope=self.scope, pattern=pattern)
            for layer, mask in zip(chosen, found.values(), strict=True):
                layer.mask.copy_(mask)

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor) -> Tensor:
        """a·b·sign(s)."""
        return kernels.signed_product(a, b, scores)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Kept scores lie above all pruned ones of the scope; signs and order within the two stay."""
        largest = {name: float(s.abs().max()) for name, s in scores.items()}
        if self.scope == "global":
            largest = dict.fromkeys(largest, max(largest.values()))
        return {name: _lifted(s, mask[name].to(s.device), largest[name]) for name, s in scores.items()}


def _numbers(layer: Supermask) -> Tensor:
    """The layer's scores; TombolaError if some are NaN, of which every comparison would be false."""
    scores = layer.scores.detach()
    if bad := int(torch.count_nonzero(scores != scores)):
        raise TombolaError(
            f"{layer.name!r}: {bad} of {scores.numel()} scores are NaN; scores must be numbers (did training diverge?)"
        )
    return scores


def _keep(layer: Supermask, count: int) -> None:
    """The layer's mask in place, starting from the last threshold."""
    try:
        keep_largest(layer.scores, count, out=layer.mask, near=layer.near, magnitude=True)
    except TombolaError as error:
        raise TombolaError(f"{layer.name!r}: {error}") from None


def _labels(layers: Sequence[Supermask]) -> list[str]:
    """The layers' names; numbered where parts of a model, attached one by one, share some."""
    names = [layer.name for layer in layers]
    return names if len(set(names)) == len(names) else [f"{name} (layer {i})" for i, name in enumerate(names)]


def _lifted(scores: Tensor, mask: Tensor, largest: float) -> Tensor:
    """Scores whose size, where the mask is true, lies above `largest`; signs stay, and 0 counts as positive."""
    above = 1.001 * largest if largest > 0 else 1.0  # so that a kept 0 does not tie with the largest pruned score
    return torch.where(mask, scores + torch.where(scores < 0, -above, above), scores)


@dataclass(frozen=True)
class _Sigmoid:
    """A probability p = sigmoid(s) per weight; dM/ds = p(1 - p)."""

    values: ClassVar[torch.dtype] = torch.bool

    @property
    def density(self) -> float | None:
        """An outcome, not a setting."""
        return None

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor) -> Tensor:
        """a·b·p(1 - p)."""
        p = torch.sigmoid(scores)
        return (a.to(scores.dtype) * b * (p * (1 - p))).to(scores.dtype)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Logits of +1 where kept and -1 where pruned."""
        return {name: torch.where(mask[name].to(s.device), 1.0, -1.0).to(s) for name, s in scores.items()}


@dataclass(frozen=True)
class Threshold(_Sigmoid):
    """Kept where sigmoid(s) > 0.5, strictly (mshlis/SuperMasks); s begins at 1, everything kept."""

    stochastic: ClassVar[bool] = False
    start: ClassVar[str | float] = 1.0

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Compare the scores with 0: sigmoid(s) > 0.5 without its rounding."""
        for layer in layers:
            torch.gt(_numbers(layer), 0, out=layer.mask)


@dataclass(frozen=True)
class Bernoulli(_Sigmoid):
    """Drawn with probability sigmoid(s) at every refresh (Zhou et al. 2019); s begins at 0, a fair coin."""

    stochastic: ClassVar[bool] = True
    start: ClassVar[str | float] = 0.0

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Draw every layer from its own generator, or threshold at 0.5."""
        for layer in layers:
            scores = _numbers(layer)
            if sample:
                draw = layer.next_generator()
                uniform = torch.rand(scores.shape, generator=draw, dtype=torch.float32, device=scores.device)
                layer.mask.copy_(uniform < torch.sigmoid(scores))
            else:
                torch.gt(scores, 0, out=layer.mask)


@dataclass(frozen=True)
class Round:
    """Scores held in [0, 1] and rounded: kept at 0.5 and above; dM/ds = 1 (Gem-Miner, Sreenivasan et al. 2022).

    Scores that have been frozen out are held at 0 by the method's hook (`FreezeOut`).
    """

    values: ClassVar[torch.dtype] = torch.bool
    stochastic: ClassVar[bool] = False
    start: ClassVar[str | float] = "unit"

    @property
    def density(self) -> float | None:
        """An outcome, not a setting."""
        return None

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Clamp the scores, then round them."""
        for layer in layers:
            scores = _numbers(layer).clamp_(0, 1)
            torch.ge(scores, 0.5, out=layer.mask)

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor) -> Tensor:
        """a·b."""
        return (a * b).to(scores.dtype)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """The scores folded to either side of 0.5."""
        return {
            name: torch.where(mask[name].to(s.device), torch.maximum(s, 1 - s), torch.minimum(s, 1 - s) * 0.999)
            for name, s in scores.items()
        }


@dataclass(frozen=True)
class Signed:
    """-1, 0 or +1: sign(s) where |s| > threshold, else 0; dM/ds = 1 (signed supermasks, Koster et al. 2022).

    Args:
        threshold: on the raw score
    """

    threshold: float = 0.01
    values: ClassVar[torch.dtype] = torch.int8
    stochastic: ClassVar[bool] = False
    start: ClassVar[str | float] = "xavier_uniform"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise TombolaError(f"threshold is {self.threshold}; it must be a number of at least 0, e.g. 0.01")

    @property
    def density(self) -> float | None:
        """An outcome, not a setting."""
        return None

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Compare the scores with the threshold."""
        for layer in layers:
            scores = _numbers(layer)
            layer.mask.copy_((scores > self.threshold).to(torch.int8) - (scores < -self.threshold).to(torch.int8))

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor) -> Tensor:
        """a·b."""
        return (a * b).to(scores.dtype)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Scores above the threshold where kept (with sign +), 0 where pruned."""
        return {
            name: torch.where(mask[name].to(s.device), s.abs() + 2 * self.threshold, 0.0).to(s)
            for name, s in scores.items()
        }


@dataclass(frozen=True)
class Coats:
    """How many of several nested top-k masks keep the weight (multicoated supermasks, Okoshi et al. 2022).

    dM/ds = sign(s) as in TopK, for the sum as for one coat.

    Args:
        densities: fraction kept by each coat
    """

    densities: tuple[float, ...] = field(default=(0.3, 0.2, 0.1))
    values: ClassVar[torch.dtype] = torch.int8
    stochastic: ClassVar[bool] = False
    start: ClassVar[str | float] = "torch_default"

    def __post_init__(self) -> None:
        object.__setattr__(self, "densities", tuple(sorted(checked_densities(self.densities), reverse=True)))
        if len(self.densities) > 127:
            raise TombolaError(f"{len(self.densities)} coats are asked for; give 1 to 127 densities")

    @property
    def density(self) -> float | None:
        """That of the widest coat."""
        return self.densities[0]

    def write(self, layers: Sequence[Supermask], sample: bool) -> None:
        """Select once per coat and layer, in place."""
        for layer in layers:
            scores = _numbers(layer)
            coat = torch.empty_like(scores, dtype=torch.bool)
            layer.mask.zero_()
            for density in self.densities:
                layer.mask.add_(keep_largest(scores, round(density * scores.numel()), out=coat, magnitude=True))

    def score_gradient(self, a: Tensor, b: Tensor, scores: Tensor) -> Tensor:
        """a·b·sign(s)."""
        return kernels.signed_product(a, b, scores)

    def scores_from_mask(self, scores: Mapping[str, Tensor], mask: Mask) -> dict[str, Tensor]:
        """Kept scores lie above all pruned ones."""
        return TopK(self.densities[0]).scores_from_mask(scores, mask)
