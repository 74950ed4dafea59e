"""The settings that say which weights are kept, checked against each other before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tombola.errors import TombolaError
from tombola.prune.choose import check_density, check_scope
from tombola.prune.heads import Heads
from tombola.select.criteria import Criterion
from tombola.select.criteria import criterion as criterion_of
from tombola.select.patterns import NM, PATTERNS, Block, Element, Inputs, Pattern, parse_pattern

RECONSTRUCTION = "sparse_gpt"
"""The one name that is no criterion: kept weights change too."""


@dataclass(frozen=True, eq=False)
class How:
    """Which weights are kept."""

    criterion: str | Criterion
    density: float | Mapping[str, float] | None
    scope: str
    pattern: Pattern | Heads

    @property
    def rebuilds(self) -> bool:
        """Whether kept weights change too."""
        return isinstance(self.criterion, str) and self.criterion.replace("-", "_") == RECONSTRUCTION

    def told(self) -> dict[str, Any]:
        """As JSON-able data."""
        own = isinstance(self.criterion, str)
        return {
            "criterion": self.criterion if own else getattr(self.criterion, "__name__", type(self.criterion).__name__),
            "density": _plain(self.density),
            "scope": self.scope,
            "pattern": str(self.pattern),
        }


def by_layer(pattern: str | Pattern) -> Pattern:
    """A pattern in which every layer may have a density of its own, which excludes heads.

    Raises:
        TombolaError: head, or what is no pattern.
    """
    if pattern == str(Heads()):
        raise TombolaError(
            "pattern head takes one density for all attention layers, and here densities are tried layer by layer; "
            "take element, block:V, inputs:V or channel, or prune heads to a density"
        )
    return parse_pattern(pattern)


def _plain(density: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    if isinstance(density, Mapping):
        return {name: float(value) for name, value in density.items()}
    return None if density is None else float(density)


def how_of(
    criterion: str | Criterion,
    density: float | Mapping[str, float] | None,
    scope: str | None,
    pattern: str | Pattern,
) -> How:
    """The settings, checked against each other before anything is computed."""
    head = str(Heads())
    form = Heads() if pattern == head else parse_pattern(pattern, (*PATTERNS, head))
    rows = criterion == "wanda" and isinstance(form, Element)
    how = How(criterion, density, scope or ("row" if rows else "layer"), form)
    check_scope(how.scope, form)
    check_density(density, form)
    if how.rebuilds and how.scope != "layer":
        raise TombolaError(f"sparse_gpt prunes layer by layer; use scope 'layer', not {scope!r}")
    if how.rebuilds and not isinstance(form, Element | Block | Inputs | NM):
        raise TombolaError(f"sparse_gpt goes with patterns element, block:V, inputs:V and N:M, not with {form}")
    if isinstance(form, Heads) and isinstance(density, Mapping):
        raise TombolaError("pattern head takes one density for all attention layers; give a number")
    if not how.rebuilds:
        criterion_of(criterion, (RECONSTRUCTION,))  # which refuses unknown names
    return how
