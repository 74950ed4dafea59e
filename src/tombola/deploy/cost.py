"""What deploying takes: seconds, phase by phase, and memory."""

from __future__ import annotations

import time

from tombola.machine.resident import resident


class Meter:
    """Seconds since it was made, in phases that follow each other, and how far the process's memory rises."""

    def __init__(self) -> None:
        self._before = resident()
        self._at = time.perf_counter()
        self._phases: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """What passed since the last end was this phase; one of the same name is continued."""
        now = time.perf_counter()
        self._phases[phase] = self._phases.get(phase, 0.0) + now - self._at
        self._at = now

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase, in the order of their first ends, and of the "whole"."""
        return {"whole": sum(self._phases.values()), **self._phases}

    @property
    def memory(self) -> int | None:
        """Bytes by which the most that the process held since exceeds what it held at first.

        None where the system does not say, or the process had held more before.
        """
        after = resident()
        return None if after is None or self._before is None else after.rise(since=self._before)
