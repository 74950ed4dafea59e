"""Axes: ticks and their labels, legends, and whether a figure would show nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tombola.formats import MINUS, number, significant
from tombola.report.style import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MAX_ROWS = 60
"""Row labels on a vertical axis; of more rows, only every second or third is labelled."""
EQUAL_DENSITIES = 0.001
"""Layer densities that differ by less count as equal."""


def alike(values: Iterable[float | None], within: float = 0.0) -> bool:
    """Whether the known values differ by no more than ``within``, so that a figure of them would show nothing."""
    known = [value for value in values if value is not None]
    return not known or max(known) - min(known) <= within


def tick_label(value: float, _position: object = None) -> str:
    """A tick's number: thousands grouped, no needless zeros, a minus sign."""
    mantissa, mark, exponent = significant(value, 6).partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return "0" if mantissa == f"{MINUS}0" else f"{mantissa}{mark}{exponent}"


def count_label(value: float, _position: object = None) -> str:
    """Counts on an axis: 12,000, and 1.2M from a million on, so that ticks stay short."""
    if abs(value) >= 1e6:
        return f"{tick_label(round(value / 1e6, 6))}M"
    return tick_label(value)


def log_ticks(low: float, high: float, max_ticks: int = 8) -> tuple[float, ...]:
    """Round numbers in [low, high] for a log axis, at most ``max_ticks`` where that is possible."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) <= max_ticks:
            break
    return tuple(ticks) if len(ticks) >= 2 else (low, high) if high > 1.2 * low else (math.sqrt(low * high),)


def log_axis(axis: Axis, values: Iterable[float], max_ticks: int = 5) -> None:
    """A logarithmic axis for these values (those above 0), with plain numbers at a few round ones."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    (axis.axes.set_xscale if axis is axis.axes.xaxis else axis.axes.set_yscale)("log")
    known = [value for value in values if value > 0]
    ticks = log_ticks(min(known), max(known), max_ticks) if known else ()
    axis.set_major_locator(FixedLocator(ticks[:: math.ceil(len(ticks) / max_ticks) or 1]))
    axis.set_major_formatter(FuncFormatter(count_label))
    axis.set_minor_locator(NullLocator())


def density_axis(axes: Axes, densities: Sequence[float], label: str = "Weights kept (%)") -> None:
    """A log axis in percent from dense on the left to sparse on the right."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(densities), max(densities)
    pad = max((high / low) ** 0.04, 1.05)
    ticks = list(log_ticks(low, high))
    axes.set_xscale("log")
    axes.set_xlim(high * pad, low / pad)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [tick_label(float(f"{100 * tick:.3g}")) for tick in ticks])
    axes.set_xlabel(label)


def round_ticks(axis: Axis, *, counts: bool = False, max_ticks: int = 6) -> None:
    """At most ``max_ticks`` ticks at round values, all with the same number of decimals."""
    from matplotlib.ticker import Formatter, FuncFormatter, MaxNLocator

    class Alike(Formatter):
        def format_ticks(self, values: Sequence[float]) -> list[str]:
            decimals = max((len(tick_label(value).partition(".")[2]) for value in values), default=0)
            tiny = any("e" in tick_label(value) for value in values)
            return [tick_label(value) if tiny else number(value, decimals) for value in values]

        def __call__(self, value: float, _position: object = None) -> str:
            return tick_label(value)

    axis.set_major_locator(MaxNLocator(max_ticks, steps=[1, 2, 2.5, 5, 10], integer=counts))
    axis.set_major_formatter(FuncFormatter(count_label) if counts else Alike())


def iterations_axis(axes: Axes, last: float, label: str = "Training iterations") -> None:
    """Iterations, or other counts, from 0 to ``last``."""
    axes.set_xlim(0, 1.03 * last if last > 0 else 1)
    round_ticks(axes.xaxis, counts=True, max_ticks=5 if last >= 1e5 else 6)
    axes.set_xlabel(label)


def name_rows(
    axes: Axes, names: Sequence[str], *, max_length: int = 26, edge: float = 0.6, small: bool = False
) -> None:
    """A row for every name, the first at the top, without lines between them."""
    every = math.ceil(len(names) / MAX_ROWS)
    shown = [plain(name, max_length) for name in names[::every]]
    axes.set_yticks(range(0, len(names), every), shown, fontsize=6.5 if small else 8.5)
    axes.set_ylim(len(names) - 1 + edge, -edge)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


_ROWS = 4
"""Rows of a legend that leave the axes room enough."""
_ROW = 0.19
"""Height of a further one, in inches."""


def legend_above(figure: Figure, axes: Axes) -> None:
    """Above the axes, in columns that fit the narrow figure; many rows make the figure higher."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) < 2:
        return
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(52 / (longest + 9))))
    if len(labels) == columns + 1 or (len(labels) == 4 and columns == 3):
        columns = math.ceil(len(labels) / 2)
    more = math.ceil(len(labels) / columns) - _ROWS
    figure.set_figheight(figure.get_figheight() + _ROW * max(0, more))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def not_above_100(axes: Axes, highest: float) -> None:
    """Cut the vertical axis at 100 % unless a value lies above it, even if an interval reaches further."""
    low, high = axes.get_ylim()
    if highest <= 100 < high:
        axes.set_ylim(top=100 + 0.03 * (100 - low))
