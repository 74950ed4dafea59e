"""What the kept weights return to before each level trains."""

from __future__ import annotations

from dataclasses import dataclass

from tombola.errors import TombolaError
from tombola.train.length import Length


@dataclass(frozen=True)
class Rewind:
    """Return to step `at` (a Length): everything, or with `weights=False` all but the model (learning-rate rewinding).

    Weight rewinding: Frankle et al. 2020 (step 0 is Frankle & Carbin 2019); learning-rate rewinding: Renda et al. 2020.
    """

    at: Length = Length()
    weights: bool = True

    def step(self, steps_per_epoch: int, total: int) -> int:
        """The rewind point in iterations; at or beyond the end of training it is a TombolaError."""
        at = self.at.steps(steps_per_epoch)
        if at >= total:
            raise TombolaError(f"rewind is to iteration {at}, but training has {total}; rewind to an earlier one")
        return at

    @classmethod
    def parse(cls, text: str) -> Rewind:
        """Read "init", "500it", "2ep", "lr" or "lr:500it"."""
        kind, colon, rest = text.partition(":")
        try:
            if kind == "lr":
                return cls(Length.parse(rest) if colon else Length(), weights=False)
            return cls() if text == "init" else cls(Length.parse(text))
        except TombolaError:
            raise TombolaError(
                f'rewind {text!r} is not understood; use "init", a step such as "500it" or "2ep", '
                'or "lr" (or "lr:500it") to rewind the learning rate alone'
            ) from None
