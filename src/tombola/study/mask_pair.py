"""Which two searches the overlap study compares: an IMP ticket and a supermask of the same density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tombola.errors import TombolaError
from tombola.study.setting import Arm, Setting


@dataclass(frozen=True)
class MaskPair:
    """Do an IMP ticket and a supermask of the same network, weights and density keep the same weights?

    Args:
        density: fraction of weights that both keep
        imp: further options of imp, e.g. {rounds: 5}
        imp_recipe: how imp trains, and what trains the masks' weights in the end, e.g. {length: 1500it}
        supermask: further options of edge-popup, e.g. {scope: global}
        supermask_recipe: how edge-popup trains, e.g. {length: 6ep, lr: 0.1}
    """

    density: float = 0.1
    imp: Mapping[str, Any] = field(default_factory=dict)
    imp_recipe: Mapping[str, Any] = field(default_factory=dict)
    supermask: Mapping[str, Any] = field(default_factory=dict)
    supermask_recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.density, bool) or not 0.0 < self.density < 1.0:
            raise TombolaError(
                f"density is {self.density}, but it must lie between 0 and 1: the fraction that both keep"
            )
        for name, options in (("imp", self.imp), ("supermask", self.supermask)):
            if "density" in options:
                raise TombolaError(f"{name} names a density, but both masks share one; give it as density")


def pair_arms(setting: Setting) -> tuple[Arm, Arm]:
    """The two searches; `setting.options` is a MaskPair."""
    pair: MaskPair = setting.options
    kept = {"density": pair.density}
    return (
        setting.arm("IMP ticket", "imp", {**pair.imp, **kept}, pair.imp_recipe),
        setting.arm("supermask", "edge-popup", {**pair.supermask, **kept}, pair.supermask_recipe),
    )
