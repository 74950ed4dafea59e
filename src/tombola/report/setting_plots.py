"""The figures of settings compared: a line over every number that was varied, else a mark for each setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tombola.formats import DEFAULT, Unit, setting_in_words
from tombola.report import style
from tombola.report.aggregate import Point, Spread, spread
from tombola.report.axes import alike, legend_above, log_axis, not_above_100, round_ticks
from tombola.report.figures import Row, Series, arms_figure, band_kind, ends_of
from tombola.report.kinds import against_density
from tombola.report.looks import Look, series_look
from tombola.report.plot import Plot, Remark, Shown, band_caption, direction_caption, row_caption, sentences, slug
from tombola.results.settings import ComparedSetting, SearchRun, levels_by_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LINES = 12
"""Of a figure: more are not told apart; the table has them."""
MAX_ROWS = 40
LOGARITHMIC = 9.0
"""A number that was varied by so much, or more, has a logarithmic axis."""
DENSITY = "density"


@dataclass(frozen=True)
class _Line:
    """Settings that differ in one number alone: what they share, and (number, spread, density) of each."""

    label: str
    look: Look
    points: tuple[tuple[float, Spread, float], ...]

    def series(self, *, by_density: bool) -> Series:
        """The same as other figures draw it: a point's place is its density."""
        return Series(
            self.label,
            self.look,
            tuple(Point(0, kept if by_density else x, None, None, values) for x, values, kept in self.points),
        )


def numeric_axes(settings: Sequence[ComparedSetting]) -> list[str]:
    """The settings that are numbers everywhere, and differ."""
    names = dict.fromkeys(name for one in settings for name in one.setting)
    return [name for name in names if _numbers(settings, name)]


def _numbers(settings: Sequence[ComparedSetting], name: str) -> bool:
    values = [one.setting[name] for one in settings if name in one.setting]
    return len(set(map(str, values))) > 1 and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )


def setting_plots(settings: Sequence[ComparedSetting], runs: Sequence[SearchRun], suffix: str = "") -> list[Shown]:
    """The test metric over every number that was varied, and over the levels of searches that have several."""
    if not settings:
        return []
    unit, better = Unit(settings[0].metric), "higher" if settings[0].higher_is_better else "lower"
    axes = numeric_axes(settings)
    plots: list[Shown] = []
    for name in axes:
        plots += _over(name, settings, unit, better, suffix)
    plots += _levels(settings, runs, unit, better, suffix)
    return plots or _rows(settings, unit, better, suffix)


def _lines(name: str, settings: Sequence[ComparedSetting]) -> list[_Line]:
    grouped: dict[str, list[ComparedSetting]] = {}
    for one in settings:
        if name in one.setting and one.test_accuracy.known:
            rest = {key: value for key, value in one.setting.items() if key != name}
            grouped.setdefault(setting_in_words(rest) if rest else "all runs", []).append(one)
    lines = []
    for index, (label, members) in enumerate(grouped.items()):
        members = sorted(members, key=lambda one: float(one.setting[name]))
        known = [(one, spread(one.test_accuracy.known)) for one in members]
        points = tuple(
            (float(one.setting[name]), values, one.density.mean or 0.0) for one, values in known if values is not None
        )
        lines.append(_Line(label, series_look(index), points))
    return [line for line in lines if len(line.points) > 1]


def _over(name: str, settings: Sequence[ComparedSetting], unit: Unit, better: str, suffix: str) -> list[Shown]:
    lines = _lines(name, settings)
    title = f"Test {unit.metric} over {name}"
    if not lines:
        return []
    if len(lines) > MAX_LINES:
        return [Remark(f"{title}: {len(lines)} lines would not be told apart; the table has their numbers.")]
    lead = f"Test {unit.metric} of the last level, a line for each combination of the other settings"
    if name == DENSITY and all(kept > 0 for line in lines for *_, kept in line.points):
        return against_density(
            [line.series(by_density=True) for line in lines],
            slug=f"settings-density{suffix}",
            title=title,
            lead=lead,
            unit=unit,
            better=better,
            dense=None,
        )
    series = [line.series(by_density=False) for line in lines]
    values = [end for line in series for point in line.points for end in (point.spread.low, point.spread.high)]
    if alike(values):
        return [Remark(f"{title}: {unit.show(values[0])} everywhere.")]
    caption = sentences(f"{lead}.", direction_caption(better, unit.metric), band_caption(series))
    drawn = number_figure(series, xlabel=name, ylabel=unit.axis("Test"), factor=unit.factor)
    return [Plot(f"settings-{slug(name)}{suffix}", title, caption, drawn)]


def number_figure(series: Sequence[Series], *, xlabel: str, ylabel: str, factor: float = 1.0) -> Figure:
    """A quantity over a number, in a point's place of density: a line each, with its band."""
    band = band_kind(series)
    places = [point.density for line in series for point in line.points]
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for line in series:
            x, y = [p.density for p in line.points], [factor * p.spread.mean for p in line.points]
            look = line.look
            if band != "none":
                ends = [ends_of(point, band) for point in line.points]
                axes.fill_between(
                    x, [factor * a for a, _ in ends], [factor * b for _, b in ends],
                    color=look.colour, alpha=0.18, linewidth=0,
                )  # fmt: skip
            axes.plot(x, y, label=style.plain(line.label), marker=look.marker, color=look.colour, linestyle=look.dash)
        if min(places) > 0 and max(places) / min(places) >= LOGARITHMIC:
            log_axis(axes.xaxis, places)
        else:
            round_ticks(axes.xaxis)
        round_ticks(axes.yaxis)
        axes.margins(y=0.06)
        if factor == 100:
            not_above_100(axes, max(factor * p.spread.high for line in series for p in line.points))
        axes.set_xlabel(style.plain(xlabel))
        axes.set_ylabel(ylabel)
        legend_above(figure, axes)
    return figure


def _levels(
    settings: Sequence[ComparedSetting], runs: Sequence[SearchRun], unit: Unit, better: str, suffix: str
) -> list[Shown]:
    """Curves over the levels' density, of searches that prune in several."""
    by_name: Mapping[str, SearchRun] = {run.run: run for run in runs}
    series = []
    for index, one in enumerate(settings):
        levels = levels_by_number([by_name[name] for name in one.runs if name in by_name])
        points = []
        for number, entries in sorted(levels.items()):
            values = [level.test_accuracy for level in entries if level.test_accuracy is not None]
            density = sum(level.density for level in entries) / len(entries)
            known = spread(values)
            if known is not None and density > 0:
                points.append(Point(number, density, None, None, known, len(values) == len(entries)))
        if len({point.density for point in points}) > 2:
            series.append(Series(one.name, series_look(index), tuple(points)))
    if not series or len(series) > MAX_LINES:
        return []
    return against_density(
        series,
        slug=f"settings-levels{suffix}",
        title="The levels of each setting",
        lead=f"Test {unit.metric} of every level",
        unit=unit,
        better=better,
        dense=None,
    )


def _rows(settings: Sequence[ComparedSetting], unit: Unit, better: str, suffix: str) -> list[Shown]:
    rows = [
        Row(one.name, series_look(index), one.test_accuracy.known, one.test_accuracy.mean, one.test_accuracy.interval)
        for index, one in enumerate(settings)
        if one.test_accuracy.known
    ]
    if len(rows) < 2:
        return []
    if len(rows) > MAX_ROWS:
        return [Remark(f"{len(rows)} settings are too many for a figure; the table has their numbers.")]
    caption = sentences(row_caption(rows), direction_caption(better, unit.metric))
    drawn = arms_figure(rows, xlabel=unit.axis("Test"), factor=unit.factor)
    return [Plot(f"settings{suffix}", f"Test {unit.metric} of every setting", caption, drawn)]


def shown_value(value: Any) -> str:
    """A setting's value as a table shows it."""
    if value is None:
        return DEFAULT
    return f"{value:g}" if isinstance(value, float) else str(value)
