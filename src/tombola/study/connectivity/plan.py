"""What `study connectivity` trains: from which steps, at which levels of a pruning search, beside which controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tombola.errors import TombolaError
from tombola.fields import check_fields, check_texts
from tombola.levels.rewind import Rewind
from tombola.names import check_known
from tombola.study.setting import Arm, Setting

DENSE, WINNER, RANDOM, REINIT = "dense", "ticket", "random", "reinit"
CONTROLS = (RANDOM, REINIT)


@dataclass(frozen=True)
class Connectivity:
    """Do two trainings from one step, with other data orders, end in one linearly connected valley?

    Args:
        from_steps: where the two trainings part, which is also what imp rewinds to: init, or steps such as 500it or 2ep
        density: fraction of weights kept in the last level; null where imp names levels instead
        rounds: pruning rounds on the way there
        at_levels: levels whose networks are trained twice, e.g. [0, 1, 2, 3]; 0 is dense (null: 0 and the last)
        controls: trained beside every ticket: random (mask of the same layer densities, same weights), reinit (the mask
            on another initialisation, trained as far); [] for none
        points: on the line, ends included
        imp: further options of imp, e.g. {scope: global}
    """

    from_steps: tuple[str, ...] = ("init", "2ep")
    density: float | None = 0.1
    rounds: int = 3
    at_levels: tuple[int, ...] | None = None
    controls: tuple[str, ...] = CONTROLS
    points: int = 30
    imp: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("from_steps", "controls", "at_levels"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else tuple(given))
        check_texts("from_steps", self.from_steps)
        if not self.from_steps:
            raise TombolaError("from_steps is empty; name one step at least, such as init")
        for text in self.from_steps:
            if not Rewind.parse(text).weights:
                raise TombolaError(
                    f"from_steps names {text}, by which weights would not be rewound; name init, or steps such as 500it"
                )
        for name in self.controls:
            check_known("control", name, CONTROLS)
        if not 3 <= self.points <= 10_000:
            raise TombolaError(
                f"points is {self.points}, but it must lie between 3 (the ends and the middle) and 10,000"
            )
        if self.density is None and self.rounds != Connectivity.rounds:
            raise TombolaError("rounds has no effect without a density, as imp names the levels then; leave it out")
        if self.at_levels == (0,) and self.controls not in ((), CONTROLS):
            raise TombolaError("controls stand beside tickets, but at_levels names level 0 alone, the dense network")
        for name in ("density", "rounds", "rewind"):
            if name in self.imp:
                other = "from_steps" if name == "rewind" else name
                raise TombolaError(f"imp names {name}, which is an option of the study; give it as {other}")


def search_arms(setting: Setting) -> list[Arm]:
    """A pruning search for every step; `setting.options` is a Connectivity."""
    plan: Connectivity = setting.options
    kept = {} if plan.density is None else {"density": plan.density, "rounds": plan.rounds}
    return [setting.arm(f"from {step}", "imp", {**plan.imp, **kept, "rewind": step}) for step in plan.from_steps]
