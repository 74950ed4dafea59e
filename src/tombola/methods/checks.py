"""Checks of options that several methods share, each with the one line that its user reads (torch-free)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tombola.errors import TombolaError
from tombola.names import check_known
from tombola.train.length import Length, steps


def check_density(density: float) -> None:
    """TombolaError unless it lies in (0, 1]."""
    if isinstance(density, bool) or not 0.0 < density <= 1.0:
        raise TombolaError(f"density is {density}, but it must lie in (0, 1]: the fraction of weights kept")


def check_choice(field: str, value: str, allowed: Sequence[str]) -> None:
    """TombolaError unless the value is one of those allowed."""
    check_known(field, value, allowed)


def check_not_negative(field: str, value: float) -> None:
    """TombolaError unless the value is a finite number of at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise TombolaError(f"{field} is {value}; it must be a number of at least 0")


def check_fall(anneal: str, density: float) -> None:
    """TombolaError if the density is to fall, from 0.5, to a value that does not lie below."""
    if Length.parse(anneal) != Length() and density >= 0.5:
        raise TombolaError(f"anneal is {anneal}, but it falls from 0.5 and density is {density:g}")


def check_anneal(length: str, steps_per_epoch: int, total: int) -> None:
    """TombolaError if the density would not have fallen to its value when the training ends."""
    if steps(length, steps_per_epoch) > total:
        raise TombolaError(f"anneal is {length}, longer than the training of {total} iterations; make it shorter")
