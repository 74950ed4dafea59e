"""Layer densities: how what is kept of a network is shared out over its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

from torch import Size

from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.names import closest
from tombola.select.patterns import Units

Share = Callable[[Size], float]
"""A weight's shape -> its layer's density, up to one factor for all layers."""


def uniform(shape: Size) -> float:
    """Every layer keeps the same fraction."""
    return 1.0


def erdos_renyi_kernel(shape: Size) -> float:
    """The sum of the weight's dimensions over their product: small layers stay denser (Evci et al. 2020, RigL)."""
    return sum(shape) / shape.numel() if sum(shape) else 1.0


LAYERS: Mapping[str, Share] = MappingProxyType({"uniform": uniform, "erk": erdos_renyi_kernel})
"""Name -> layer densities in proportion."""


def units_of(mask: Mask, pattern: Units) -> dict[str, int]:
    """Layer -> its units."""
    return {name: pattern.units(kept.shape) for name, kept in mask.items()}


def shares(mask: Mask, pattern: Units, how: str) -> dict[str, float]:
    """Layer -> units, up to one factor for all layers, by a name in LAYERS."""
    return {name: pattern.units(kept.shape) * LAYERS[how](kept.shape) for name, kept in mask.items()}


def given_counts(mask: Mask, pattern: Units, densities: Mapping[str, float]) -> dict[str, int]:
    """round(density·n) units of every layer, by the name patterns; of several that fit, the longest counts, * aside.

    Raises:
        TombolaError: a pattern fits no layer, or a layer no pattern.
    """
    for given in densities:
        if not any(fnmatchcase(name, given) for name in mask):
            raise TombolaError(
                f"layer_densities pattern {given!r} fits no pruned weight{closest(given.strip('*'), mask)}; there are: "
                f"{', '.join(list(mask)[:8])}"
            )
    order = sorted(densities, key=lambda given: (-len(given.replace("*", "")), given))
    counts = {}
    for name, units in units_of(mask, pattern).items():
        fitting = [given for given in order if fnmatchcase(name, given)]
        if not fitting:
            raise TombolaError(f"layer_densities has none for {name!r}; give one for all that are left, under '*'")
        counts[name] = round(densities[fitting[0]] * units)
    return counts
