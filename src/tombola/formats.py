"""One way to print a number: percents, points, ratios, counts and metrics, in tables, sentences and figures.

Percents have two decimals and their sign, whole numbers are grouped by thousands, metrics without a known unit have
four significant digits, negative numbers have a minus sign and what is missing is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "BITS",
    "ITERATIONS",
    "MINUS",
    "MISSING",
    "Fixed",
    "Unit",
    "aligned",
    "count",
    "density",
    "multiple",
    "number",
    "on_its_side",
    "p_value",
    "percent",
    "plural",
    "quantity",
    "ruled",
    "setting_in_words",
    "significant",
]

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
DIGITS = 4
"""Significant digits of a metric without a known unit."""
DEFAULT = "default"
"""What null stands for in a setting."""
ONLY = "the only setting"


def number(value: float, decimals: int, *, sign: bool = False) -> str:
    """``value`` with ``decimals`` digits after the point; ``sign`` writes + as well. What rounds to 0 has no sign."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else f"{MINUS if value < 0 else ''}infinite"
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def percent(fraction: float | None, decimals: int = 2, *, sign: bool = False) -> str:
    """A fraction as percent: 0.98123 -> "98.12 %"."""
    if fraction is None:
        return MISSING
    shown = number(100 * fraction, decimals, sign=sign)
    return f"{shown} %" if math.isfinite(fraction) else shown


def density(fraction: float | None) -> str:
    """A density as percent with two decimals, or more where these would show 0 or 100 for what is neither."""
    if fraction is None:
        return MISSING
    if 0 < fraction < 0.001:
        return f"{significant(100 * fraction, 2)} %"
    texts = (f"{100 * fraction:.{decimals}f}" for decimals in range(2, 13))
    return f"{next((text for text in texts if fraction == 1 or float(text) < 100), '100.00')} %"


def multiple(ratio: float | None, decimals: int = 2) -> str:
    """A ratio: 1.5 -> "1.50 ×"."""
    return MISSING if ratio is None else f"{number(ratio, decimals)} ×"


def count(value: float | None) -> str:
    """A count, or the mean of several to the nearest whole: "266,200"."""
    return MISSING if value is None else number(value, 0)


def decimals_of(value: float, digits: int = DIGITS) -> int:
    """Digits after the point that show ``digits`` significant ones of ``value``, at least 0."""
    if value == 0 or not math.isfinite(value):
        return 0
    lead = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    return max(0, digits - 1 - lead)


def significant(value: float, digits: int = DIGITS, *, sign: bool = False) -> str:
    """``digits`` significant digits, in decimal notation where that is readable: "0.4813", "35,012", "1.234e−09"."""
    if value and math.isfinite(value) and not 1e-6 <= abs(value) < 1e15:
        mantissa, _, exponent = f"{abs(value):.{digits - 1}e}".partition("e")
        lead = MINUS if value < 0 else "+" if sign else ""
        return f"{lead}{mantissa}e{exponent.replace('-', MINUS).replace('+', '')}"
    return number(value, decimals_of(value, digits), sign=sign)


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """A quantity of three significant digits under the prefix that suits it: "3.12 TFLOP", "41.0 s", "266 kB".

    Seconds are written as they are, without a prefix for thousands.
    """
    if value is None:
        return MISSING
    steps = 0 if unit == "s" or not math.isfinite(value) else _thousands(value, digits)
    return f"{significant(value / 1000**steps, digits)} {_PREFIXES[steps]}{unit}"


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def _thousands(value: float, digits: int) -> int:
    """How often 1000 goes into a value, as it is rounded: 999.9 of 3 digits is one thousand."""
    exponent = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    return min(max(0, exponent // 3), len(_PREFIXES) - 1)


def on_its_side(value: float, digits: int, thresholds: Iterable[float], write: Callable[[int], str]) -> str:
    """`write(digits)`, or with more digits where rounding would move `value` onto or across one of the thresholds.

    A bound of -0.003 must not be read as 0. A value that differs from a threshold by no more than floating-point
    rounding counts as equal to it.
    """
    distinct = [limit for limit in thresholds if abs(value - limit) > 1e-12 * max(1.0, abs(limit))]
    texts = (write(more) for more in range(digits, digits + 13)) if math.isfinite(value) else iter(())
    seen = ((text, float(text.replace(MINUS, "-").replace(",", ""))) for text in texts)
    true = (text for text, read in seen if _same_side(read, value, distinct))
    return next(true, write(digits))


def _same_side(read: float, value: float, limits: Iterable[float]) -> bool:
    """Whether a number as it is read lies on the same side of all limits as the value, and on none of them."""
    return all(read != limit and (read > limit) == (value > limit) for limit in limits)


def p_value(value: float | None) -> str:
    """A p-value with three decimals, or more where these would hide on which side of 0.05 it lies."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.0005 else on_its_side(value, 3, [0.05], lambda digits: f"{value:.{digits}f}")


def plural(number: int, word: str) -> str:
    """The number with its word: "1 replicate", "1,200 replicates"."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def setting_in_words(setting: Mapping[str, object]) -> str:
    """What a grid says of one search: "density 0.1, seed 0"."""
    shown = (f"{key} {DEFAULT if value is None else value}" for key, value in setting.items())
    return ", ".join(shown) or ONLY


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of cells as lines of text in columns; those in `left` are flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def headed(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """As `aligned`, with a rule below the headings, the first row."""
    lines = aligned(rows, left)
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def ruled(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """As `headed`, with a rule above the total too, the last row."""
    head, rule, *lines, total = headed(rows, left)
    return [head, rule, *lines, rule, total]


@dataclass(frozen=True)
class Unit:
    """How a metric is printed and drawn: accuracies as percent, differences of them in points, others as they are."""

    metric: str

    @property
    def percent(self) -> bool:
        """Whether values are fractions that are shown as percent."""
        return self.metric == "accuracy"

    @property
    def factor(self) -> float:
        """What values are multiplied by for display."""
        return 100.0 if self.percent else 1.0

    @property
    def sign(self) -> str:
        """What follows a value: " %" or nothing."""
        return " %" if self.percent else ""

    @property
    def points(self) -> str:
        """What follows a difference: " points" or nothing."""
        return " points" if self.percent else ""

    def axis(self, what: str) -> str:
        """The label of an axis: "Test accuracy (%)"."""
        return f"{what} {self.metric} (%)" if self.percent else f"{what} {self.metric}"

    def axis_of_differences(self, what: str) -> str:
        """The label of an axis of differences: "Difference in test accuracy (points)"."""
        return f"{what} {self.metric} (points)" if self.percent else f"{what} {self.metric}"

    def show(self, value: float | None) -> str:
        """A value with its unit: "98.12 %"."""
        return MISSING if value is None else f"{self.bare(value)}{self.sign}"

    def bare(self, value: float, like: float | None = None) -> str:
        """A value without its unit: "98.12"; with as many decimals as ``like`` would have."""
        if self.percent:
            return number(100 * value, 2)
        if like is not None and 1e-6 <= abs(like) < 1e15:
            return number(value, decimals_of(like))
        return significant(value)

    def difference(self, value: float | None, threshold: float = 0.0) -> str:
        """A difference with its sign, without a unit: "+0.17"; "−0.003" where 0.00 would look like 0.

        `threshold`: what it is compared with, which rounding does not cross either.
        """
        if value is None:
            return MISSING
        value, limits = self.factor * value, (0.0, self.factor * threshold)
        if self.percent:
            return on_its_side(value, 2, limits, lambda digits: number(value, digits, sign=True))
        return on_its_side(value, DIGITS, limits, lambda digits: significant(value, digits, sign=True))

    @property
    def differences(self) -> Unit:
        """How differences of the metric are printed: signed, without a sign of percent."""
        return _Differences(self.metric)

    def half(self, mean: float, ends: tuple[float, float] | list[float] | None) -> str:
        """``± 0.05 %``: half an interval, with the decimals of its mean; nothing without an interval.

        ``97.50 to 100.00 %`` where it is not symmetric about the mean, as it is cut off at the metric's own limits.
        """
        if ends is None:
            return ""
        if abs(ends[0] + ends[1] - 2 * mean) > 1e-6 * (ends[1] - ends[0]):
            return f"{self.bare(ends[0], like=mean)} to {self.bare(ends[1], like=mean)}{self.sign}"
        return f"± {self.bare((ends[1] - ends[0]) / 2, like=mean)}{self.sign}"

    def interval(self, mean: float, ends: tuple[float, float] | list[float] | None) -> str:
        """``98.10 ± 0.05 %``: a mean and half its interval; the mean alone without one."""
        half = self.half(mean, ends)
        return (
            f"{self.bare(mean)} {half}" if half.startswith("±") else f"{self.show(mean)} {half and f'({half})'}".strip()
        )

    def ends(self, low: float, high: float) -> str:
        """The two ends of an interval: ``97.50 to 98.00 %``."""
        return f"{self.bare(low)} to {self.bare(high)}{self.sign}"


@dataclass(frozen=True)
class _Differences(Unit):
    """Differences: signed; the heading names the metric."""

    @property
    def sign(self) -> str:
        return ""

    def bare(self, value: float, like: float | None = None) -> str:
        return self.difference(value) if like is None else super().bare(value, like)


@dataclass(frozen=True)
class Fixed(Unit):
    """A quantity with a fixed number of decimals: iterations, ratios, bits per weight."""

    decimals: int = 0

    def bare(self, value: float, like: float | None = None) -> str:
        return number(value, self.decimals)

    def difference(self, value: float | None, threshold: float = 0.0) -> str:
        if value is None:
            return MISSING
        limits = (0.0, threshold)
        return on_its_side(value, self.decimals, limits, lambda digits: number(value, digits, sign=True))

    @property
    def differences(self) -> Unit:
        return _FixedDifferences(self.metric, self.decimals)


@dataclass(frozen=True)
class _FixedDifferences(Fixed):
    def bare(self, value: float, like: float | None = None) -> str:
        return self.difference(value) if like is None else super().bare(value, like)


ITERATIONS = Fixed("iterations", 0)
BITS = Fixed("bits per weight", 2)
