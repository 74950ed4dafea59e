"""Clocks for tests whose subject is not which kernel is the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tombola.bench.timing import WallClock

QUICK = WallClock(round=1e-4, rest=0.0)


class InOrder:
    """The first of all runs is the fastest: native kernels, and the candidate that is guessed. Nothing runs.

    No time passes.
    """

    def measure(
        self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[Any, list[float]]:
        return {name: [i + 1.0] for i, name in enumerate(runs)}

    def fastest(self, runs: Sequence[Any], *, seconds: float, rounds: int) -> list[float]:
        return [i + 1.0 for i in range(len(runs))]

    def now(self) -> float:
        return 0.0


class Never(InOrder):
    """Nothing is to be measured."""

    def measure(self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None) -> NoReturn:
        raise AssertionError("measured")

    def fastest(self, runs: Sequence[Any], *, seconds: float, rounds: int) -> NoReturn:
        raise AssertionError("measured")


class Int8(InOrder):
    """As it, but regions in 8 bits are faster than all others."""

    def measure(
        self, runs: Mapping[Any, Any], *, rounds: int, threads: int, seconds: float | None = None
    ) -> dict[Any, list[float]]:
        return {name: [0.5 if name == "int8" else i + 1.0] for i, name in enumerate(runs)}


NATIVE = InOrder()
INT8 = Int8()
