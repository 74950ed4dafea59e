"""Which masks `study landscape` measures at initialisation and trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tombola.errors import TombolaError
from tombola.fields import check_fields, check_texts
from tombola.study.setting import Arm, Setting

TICKET = "imp"
"""The source of the tickets' masks; the others are criteria at initialisation."""


@dataclass(frozen=True)
class Landscape:
    """Does anything at initialisation tell a ticket? Statistics of many masks, against the accuracy that each reaches.

    Args:
        density: fraction of weights kept by the sparsest masks
        rounds: rounds of imp on the way there; every round is a density at which all masks are made
        criteria: whose masks of the untrained network stand beside the tickets', as find at-init takes them; random too
        batches: training batches that the statistics are of
        probes: random vectors of the trace's estimate (Hutchinson)
        resamples: of the masks, for the intervals (bootstrap)
        imp: further options of imp, e.g. {scope: global}
    """

    density: float = 0.05
    rounds: int = 4
    criteria: tuple[str, ...] = ("snip", "synflow", "magnitude", "random")
    batches: int = 4
    probes: int = 16
    resamples: int = 1000
    imp: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        check_texts("criteria", self.criteria)
        object.__setattr__(self, "criteria", tuple(name.replace("-", "_") for name in self.criteria))
        if not 0.0 < self.density < 1.0:
            raise TombolaError(f"density is {self.density}, but it must lie between 0 and 1: the fraction kept")
        for name, fewest, most in (("batches", 1, 10_000), ("probes", 1, 10_000), ("resamples", 100, 100_000)):
            if not fewest <= getattr(self, name) <= most:
                raise TombolaError(f"{name} is {getattr(self, name)}, but it must lie between {fewest} and {most:,}")
        if len(set(self.criteria)) < len(self.criteria):
            raise TombolaError(f"criteria names one twice: {', '.join(self.criteria)}; give each once")
        for name in ("density", "rounds", "rewind", "levels"):
            if name in self.imp:
                instead = "leave it out" if name in ("rewind", "levels") else "give it as an option of the study"
                raise TombolaError(f"imp names {name}, but masks are compared at the initialisation; {instead}")


def search_arm(setting: Setting) -> Arm:
    """The pruning search that finds the tickets; `setting.options` is a Landscape."""
    plan: Landscape = setting.options
    return setting.arm("imp", "imp", {**plan.imp, "density": plan.density, "rounds": plan.rounds, "rewind": "init"})


def mask_arm(setting: Setting, criterion: str, density: float) -> Arm:
    """What finds a criterion's mask of the untrained network."""
    plan: Landscape = setting.options
    patterns = {name: plan.imp[name] for name in ("include", "exclude") if name in plan.imp}
    return setting.arm(criterion, "at-init", {"criterion": criterion, "density": density, **patterns})
