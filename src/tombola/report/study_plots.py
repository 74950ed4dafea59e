"""The figures of a study that compares arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tombola.report import figures, style
from tombola.report.aggregate import Point, joined_log, merged, pick, spread
from tombola.report.comparison import GAP, Study, StudyArm
from tombola.report.figures import Row, Series, Trace
from tombola.report.plot import Plot, band_words, close_up
from tombola.report.style import Look
from tombola.report.utilisation import Used, used_weights, utilisation_plots
from tombola.report.words import Unit

MOST_LINES = len(style.RUN_LOOKS)
MOST_UTILISED = 4


def study_plots(study: Study) -> list[Plot]:
    """Results of all arms, results against density, training curves, and what was used of each layer."""
    return [*_results(study), *_against_density(study), *_traces(study), *_utilised(study)]


def _looks(study: Study) -> Mapping[str, Look]:
    """The look of every family: that of its first arm where arms are few enough to have one each."""
    firsts = {family: study.arms.index(arms[0]) for family, arms in study.families.items()}
    if len(study.arms) > MOST_LINES:
        firsts = {family: index for index, family in enumerate(firsts)}
    return {family: style.series_look(index) for family, index in firsts.items()}


def _results(study: Study) -> list[Plot]:
    unit, looks, rows = Unit(study.metric), _looks(study), []
    few = len(study.arms) <= MOST_LINES
    for index, arm in enumerate(study.arms):
        values = arm.values["test_accuracy"]
        found = spread(values)
        if found is not None:
            look = style.series_look(index) if few else looks[arm.family]
            rows.append(Row(arm.name, look, values, found.mean, found.interval))
    if not rows:
        return []
    bars = "bar: 95 % t-interval; " if any(row.interval for row in rows) else ""
    return [
        Plot(
            "study-arms",
            "The arms",
            f"Test {study.metric} of each arm's last level. Large mark: mean; {bars}small marks: single replicates.",
            figures.arms_figure(rows, xlabel=unit.axis("Test"), factor=unit.factor),
        )
    ]


def _against_density(study: Study) -> list[Plot]:
    """Only where a family comes with several densities."""
    if not any(len({arm.density for arm in arms}) > 1 for arms in study.families.values()):
        return []
    unit = Unit(study.metric)
    dense = next((arm for arm in study.arms if arm.method == "dense" and arm.density == 1), None)
    series = _series(study, "test_accuracy", dense)
    found = []
    if series:
        line = _mean(dense, "test_accuracy")
        label = unit.axis("Test")
        caption = f"Test {study.metric}, from dense (left) to sparse (right). {band_words(series)}"
        drawn = figures.density_figure(series, ylabel=label, factor=unit.factor, dense=line)
        found.append(Plot("study-density", f"Test {study.metric} against density", caption, drawn))
        window = close_up(series, line) if unit.percent else None
        if window is not None:
            drawn = figures.density_figure(series, ylabel=label, factor=unit.factor, dense=line, window=window)
            caption = f"The same numbers near the top; what falls below is cut off. {band_words(series)}"
            found.append(Plot("study-density-close", f"Test {study.metric}, close up", caption, drawn))
    series = _series(study, GAP, dense)
    if series:
        label = "Train − validation" + (" (points)" if unit.percent else "")
        caption = (
            f"Training minus validation {study.metric} at the end: the smaller, the less the network has fitted what "
            f"does not generalise. {band_words(series)}"
        )
        drawn = figures.density_figure(series, ylabel=label, factor=unit.factor, dense=_mean(dense, GAP))
        found.append(Plot("study-gap-density", "Generalisation gap against density", caption, drawn))
    return found


def _series(study: Study, figure: str, dense: StudyArm | None) -> list[Series]:
    """A line per family; the dense arm, drawn across, is left out."""
    looks, series = _looks(study), []
    for family, arms in study.families.items():
        found = [(arm, spread(arm.values[figure])) for arm in arms if arm is not dense and arm.density > 0]
        points = tuple(
            Point(index, arm.density, None, None, summary)
            for index, (arm, summary) in enumerate(found)
            if summary is not None
        )
        if points:
            series.append(Series(family, looks[family], points))
    return series


def _mean(arm: StudyArm | None, figure: str) -> float | None:
    found = spread(arm.values[figure]) if arm is not None else None
    return found.mean if found is not None else None


def _traces(study: Study) -> list[Plot]:
    """Validation metric over iterations: a figure per family of several arms with the lone arms, else of six arms."""
    unit, plots = Unit(study.metric), []
    for index, (title, arms) in enumerate(_groups(study)):
        traces = []
        for number, arm in enumerate(arms):
            line = merged(joined_log(levels, "val_accuracy") for levels in arm.replicates)
            if line is not None:
                traces.append(Trace(arm.name, style.series_look(number), line))
        if not traces:
            continue
        several = max(trace.curve.n for trace in traces) > 1
        band = " Line: mean over replicates; band: lowest to highest." if several else ""
        ends = " Levels are joined end to end." if any(len(x) > 1 for arm in arms for x in arm.replicates) else ""
        cut = " The steep start is cut off." if unit.percent else ""
        plots.append(
            Plot(
                f"study-val-accuracy{f'-{index + 1}' if index else ''}",
                f"Validation {study.metric}{title}",
                f"Validation {study.metric} while training each arm.{ends}{cut}{band}",
                figures.trace_figure(traces, ylabel=unit.axis("Validation"), factor=unit.factor, window=unit.percent),
            )
        )
    return plots


def _groups(study: Study) -> list[tuple[str, Sequence[StudyArm]]]:
    """Arms that share a figure of training curves, with the end of its title."""
    if len(study.arms) <= MOST_LINES:
        return [(" over training", study.arms)]
    lone = [arms[0] for arms in study.families.values() if len(arms) == 1][:2]
    families = {name: arms for name, arms in study.families.items() if len(arms) > 1}
    if not families:
        starts = range(0, len(study.arms), MOST_LINES)
        return [(f", arms from {study.arms[at].name}", study.arms[at : at + MOST_LINES]) for at in starts]
    return [(f" of {name}", [*lone, *_thinned(arms, MOST_LINES - len(lone))]) for name, arms in families.items()]


def _thinned(arms: Sequence[StudyArm], most: int) -> list[StudyArm]:
    return [arms[index] for index in pick(range(len(arms)), most)]


def _utilised(study: Study) -> list[Plot]:
    looks = [style.series_look(index) for index in range(MOST_UTILISED)]
    found = [(arm.name, used_weights(arm.replicates)) for arm in study.arms]
    known = [(name, used) for name, used in found if used is not None]
    chosen = [known[index] for index in pick(range(len(known)), MOST_UTILISED)]
    return utilisation_plots([Used(name, look, *used) for (name, used), look in zip(chosen, looks, strict=False)])
