"""Lengths of training as people write them: "10ep", "5000it", "2ep500it"."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tombola.errors import TombolaError

_PATTERN = re.compile(r"(?:(?P<epochs>[0-9]+(?:\.[0-9]+)?)ep)?(?:(?P<iterations>[0-9]+)it)?")

END = "end"
"""In place of a length, where that of the whole training is allowed."""
_EPOCHS, _ITERATIONS = 1_000_000, 10_000_000_000
"""The longest that is taken for meant."""


@dataclass(frozen=True)
class Length:
    """A number of epochs plus a number of iterations (optimiser steps)."""

    epochs: float = 0.0
    iterations: int = 0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read "10ep", "0.5ep", "5000it" or "2ep500it"; anything else is a TombolaError."""
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None or not text.strip():
            raise TombolaError(
                f'length {repr(text)[:80]} is not understood; write epochs as "10ep", iterations as "5000it"'
            )
        epochs, iterations = match["epochs"] or "0", match["iterations"] or "0"
        if len(epochs) > 100 or len(iterations) > 100 or float(epochs) > _EPOCHS or int(iterations) > _ITERATIONS:
            raise TombolaError(
                f"length {text[:40]!r} is more than {_EPOCHS:,} epochs or {_ITERATIONS:,} iterations; give less"
            )
        return cls(float(epochs), int(iterations))

    def steps(self, steps_per_epoch: int) -> int:
        """This length in iterations; a fraction of an epoch is rounded half to even."""
        return round(self.epochs * steps_per_epoch) + self.iterations


def steps(text: str, steps_per_epoch: int) -> int:
    """`Length.parse(text).steps(steps_per_epoch)`."""
    return Length.parse(text).steps(steps_per_epoch)
