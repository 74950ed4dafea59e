"""How long kernels may be looked for, and how that time is shared: what takes longer is looked at for longer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from tombola.bench.timing import WALL, Clock


def _never() -> bool:
    return False


def _silent(name: str) -> None:
    pass


@dataclass(frozen=True)
class Budget:
    """Until when something is worth another measurement.

    `clock`: says what time it is, and what takes how long. `until`: as it says it; infinite: without end. `stop`: True
    where nothing more is to be measured, whatever the time. `tell`: hears what is looked at next.
    """

    clock: Clock = WALL
    until: float = math.inf
    stop: Callable[[], bool] = _never
    tell: Callable[[str], None] = _silent

    @property
    def spent(self) -> bool:
        """Whether to go on with what was found so far."""
        return self.stop() or self.clock.now() >= self.until

    def part(self, weight: float, of: float) -> Budget:
        """That part of the time that is left; all of it where nothing weighs anything."""
        if math.isinf(self.until) or of <= 0:
            return self
        now = self.clock.now()
        return replace(self, until=now + max(0.0, self.until - now) * min(1.0, weight / of))


NO_LIMIT = Budget()
