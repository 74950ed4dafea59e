"""How far below the dense network still matches it, in the metric's own unit."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Literal

from tombola.errors import TombolaError
from tombola.formats import Unit, significant

Kind = Literal["auto", "absolute", "relative"]
KINDS: tuple[Kind, ...] = ("auto", "absolute", "relative")


@dataclass(frozen=True)
class Margin:
    """A margin as given.

    Args:
        value: 0.002 is 0.2 points of an accuracy, or 0.2 % of another metric
        kind: "absolute": in the metric's unit; "relative": a fraction of the dense arm's mean; "auto": absolute where
            the metric is a share of the test examples (accuracy, or 0 or 1 for every example), else relative
    """

    value: float = 0.002
    kind: Kind = "auto"

    def __post_init__(self) -> None:
        number = isinstance(self.value, Real) and not isinstance(self.value, bool)
        if not number or not 0 <= self.value < float("inf"):
            raise TombolaError(
                f"margin is {self.value!r}; it must be a number of at least 0 (0.002: 0.2 points of an accuracy, 0.2 % "
                "of another metric)"
            )
        if self.kind not in KINDS:
            raise TombolaError(f"margin_kind is {self.kind!r}; use one of {', '.join(KINDS)}")
        if self.kind != "absolute":
            self._check_below_whole()

    def check(self, metric: str) -> None:
        """TombolaError if it lets any network match, the metric being a share of examples."""
        if Unit(metric).percent:
            self._check_below_whole()

    def _check_below_whole(self) -> None:
        if self.value >= 1:
            raise TombolaError(
                f"margin is {self.value!r}, 100 % or more: any network would match; it is a fraction, 0.002 being 0.2 "
                "points of an accuracy or 0.2 % of another metric"
            )

    def of(self, metric: str, dense_mean: float, *, share: bool) -> Allowance:
        """What it allows. `share`: the metric is 0 or 1 for every example."""
        relative = self.kind == "relative" or (self.kind == "auto" and not share and not Unit(metric).percent)
        return Allowance(self.value * abs(dense_mean) if relative else self.value, metric, self.value, relative)


@dataclass(frozen=True)
class Allowance:
    """A margin in the metric's own unit: the ticket may be worse than the dense network by `amount`."""

    amount: float
    metric: str
    value: float
    relative: bool

    def words(self) -> str:
        """``0.2 points``; ``70 in loss, 0.2 % of the dense mean``."""
        text = points(self.amount) if Unit(self.metric).percent else f"{trimmed(self.amount)} in {self.metric}"
        return f"{text}, {trimmed(100 * self.value)} % of the dense mean" if self.relative else text


def points(fraction: float, digits: int = 3) -> str:
    """A difference of accuracies: "0.2 points", "1 point"."""
    text = trimmed(100 * fraction, digits)
    return f"{text} {'point' if text == '1' else 'points'}"


def trimmed(value: float, digits: int = 3) -> str:
    """Up to so many significant digits, without zeros at the end: "0.2", "70", "0.279"."""
    text = significant(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
