"""Ranges of numbers that are searched for their best value (torch-free)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tombola.errors import TombolaError
from tombola.fields import described
from tombola.names import check_known

DIGITS = 4
"""Significant digits of a value that is tried, so that it can be written down and tried again."""
_EXAMPLE = "{recipe.lr: {low: 1e-4, high: 1e-1, log: true}}"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `log`: as likely in every decade."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise TombolaError(
                f"the range {self.low:g} to {self.high:g} has no inside; give two numbers, the lower first"
            )
        if self.log and self.low <= 0:
            raise TombolaError(f"the range {self.low:g} to {self.high:g} cannot be logarithmic; begin it above 0")

    def rounded(self, value: float) -> float:
        """The value with few digits, within the range."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', logarithmically' if self.log else ''}"


def read_ranges(given: Any, where: str) -> dict[str, Range]:
    """The ranges of a file's `search`, by the names of fields.

    Raises:
        TombolaError: it is no mapping of ranges.
    """
    if not isinstance(given, Mapping) or not given:
        raise TombolaError(f"{where}: search is {described(given)}, but it must be a mapping such as {_EXAMPLE}")
    return {str(name): _range(str(name), one, where) for name, one in given.items()}


def _range(name: str, given: Any, where: str) -> Range:
    if not isinstance(given, Mapping):
        raise TombolaError(
            f"{where}: search has {name}: {given!r}, but it must be a range such as {{low: 0.1, high: 1}}"
        )
    for key in given:
        check_known(f"part of the range of {name}", key, ("low", "high", "log"))
    numbers = {key: given.get(key) for key in ("low", "high")}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TombolaError(f"{where}: {key} of {name} is {value!r}, but it must be a number")
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise TombolaError(f"{where}: log of {name} is {log!r}, but it must be true or false")
    try:
        return Range(float(given["low"]), float(given["high"]), log)
    except TombolaError as error:
        raise TombolaError(f"{where}: {name}: {error}") from None
