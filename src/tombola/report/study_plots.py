"""The figures of a study that compares arms."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tombola.formats import Unit
from tombola.report import cost, figures
from tombola.report.aggregate import Point, joined_log, merged, pick, spread
from tombola.report.axes import alike
from tombola.report.draws import draw_plots
from tombola.report.figures import Row, Series, Trace
from tombola.report.inputs import study_inputs
from tombola.report.kinds import against_cost, against_density, flat, trace_plots, worth_drawing
from tombola.report.looks import Looks
from tombola.report.plot import Plot, Remark, Shown, band_caption, direction_caption, row_caption, sentences
from tombola.report.stability import stability_plots, study_masks
from tombola.report.utilisation import Used, used_weights, utilisation_plots
from tombola.results.comparison import GAP, ComparedArm, ComparisonResult

MAX_LINES = 6
MAX_UTILISED = 4


def study_plots(study: ComparisonResult, looks: Looks) -> list[Shown]:
    """Results of all arms, also against density and cost; training curves; input coverage and layer utilisation.

    Of curves over density that are compared with one another, the single arms are in the tables alone.
    """
    curves = bool(study.references)
    return [
        *([] if curves else _results(study, looks)),
        *_against_density(study, looks),
        *draw_plots(study, looks),
        *([] if curves else _cost(study, looks)),
        *([] if curves else _traces(study, looks)),
        *study_inputs(study),
        *stability_plots(study_masks(study, looks), heatmaps=False),
        *_utilised(study, looks),
    ]


def _results(study: ComparisonResult, looks: Looks) -> list[Shown]:
    unit, rows = Unit(study.metric), []
    for arm in study.arms:
        values = arm.test_accuracy.known
        summary = spread(values)
        if summary is not None:
            rows.append(Row(arm.name, looks.arm(arm.name), values, summary.mean, summary.interval))
    if len(rows) < 2:
        return []
    if alike(value for row in rows for value in row.values):
        return [Remark(f"Test {study.metric} is {unit.show(rows[0].mean)} in every search of every arm.")]
    lead = f"Test {study.metric} of each arm's last level."
    caption = sentences(lead, direction_caption(study.better, study.metric), row_caption(rows))
    return [
        Plot("study-arms", "The arms", caption, figures.arms_figure(rows, xlabel=unit.axis("Test"), factor=unit.factor))
    ]


def _against_density(study: ComparisonResult, looks: Looks) -> list[Shown]:
    """Only if a family has several densities."""
    if not any(len({arm.plotted for arm in arms}) > 1 for arms in study.families.values()):
        return []
    dense = next((arm for arm in study.arms if arm.dense), None)
    plots: list[Shown] = []
    parts = _parts(study, _series(study, looks, "test_accuracy", dense))
    for number, series in enumerate(parts, 1):
        plots += against_density(
            series,
            slug=f"study-density{f'-{number}' if number > 1 else ''}",
            title=f"Test {study.metric} against density{f' ({number} of {len(parts)})' if len(parts) > 1 else ''}",
            lead=f"Test {study.metric} of each arm's last level",
            unit=Unit(study.metric),
            better=study.better,
            dense=_mean(dense, "test_accuracy"),
            dense_name="Dense" if dense is None else dense.name,
        )
    return [*plots, *(_gap(study, looks, dense) if len(parts) == 1 else [])]


def _parts(study: ComparisonResult, series: Sequence[Series]) -> list[list[Series]]:
    """What shares a figure: all curves; of many a reference with some of those that are compared with it."""
    if not study.references or len(series) <= MAX_LINES:
        return [list(series)]
    parts: list[list[Series]] = []
    for reference in study.references:
        own = [line for line in series if line.label == reference]
        others = [line for line in series if study.reference_of(line.label) == reference]
        step = math.ceil(len(others) / math.ceil(len(others) / (MAX_LINES - 1))) if others else 1
        parts += [[*own, *others[at : at + step]] for at in range(0, len(others), step)]
    return parts


def _gap(study: ComparisonResult, looks: Looks, dense: ComparedArm | None) -> list[Shown]:
    unit, series, line = Unit(study.metric), _series(study, looks, GAP, dense), _mean(dense, GAP)
    if not worth_drawing(series):
        return []
    if flat(series):
        gap = unit.difference(series[0].points[0].spread.mean)
        return [Remark(f"Training minus validation {study.metric}: {gap}{unit.points} in every arm.")]
    caption = sentences(
        f"Training minus validation {study.metric} of the final network: how much better it does on what it has seen.",
        band_caption(series),
        "Dotted: the dense network." if line is not None else "",
    )
    label, name = "Train − validation" + (" (points)" if unit.percent else ""), dense.name if dense else "Dense"
    drawn = figures.density_figure(series, ylabel=label, factor=unit.factor, dense=line, dense_name=name)
    return [Plot("study-gap-density", "Generalisation gap against density", caption, drawn)]


def _series(study: ComparisonResult, looks: Looks, figure: str, dense: ComparedArm | None) -> list[Series]:
    """A line per family; the dense arm, drawn across, is left out."""
    series = []
    for family, arms in study.families.items():
        points = tuple(
            Point(index, arm.plotted, None, None, summary)
            for index, arm in enumerate(arms)
            if arm is not dense and arm.plotted > 0 and (summary := spread(arm.values(figure))) is not None
        )
        if points:
            series.append(Series(family, looks.families[family], points))
    return series


def _mean(arm: ComparedArm | None, figure: str) -> float | None:
    summary = spread(arm.values(figure)) if arm is not None else None
    return summary.mean if summary is not None else None


def measure_of(study: ComparisonResult) -> cost.Measure:
    """What the cost of all arms is counted in."""
    return cost.measure(level for arm in study.arms for levels in arm.replicates for level in levels)


def arm_cost(arm: ComparedArm, by: cost.Measure) -> float | None:
    """Mean cost of an arm's searches, all levels together; None where a search did not record it."""
    totals = [cost.total(steps for _, steps in by.counted(levels)) for levels in arm.replicates if levels]
    known = [total for total in totals if total is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(totals) else None


def _cost(study: ComparisonResult, looks: Looks) -> list[Shown]:
    series, by = [], measure_of(study)
    for family, arms in study.families.items():
        known = [
            (cost.Priced(price, result), looks.arm(arm.name))
            for arm in arms
            if (price := arm_cost(arm, by)) is not None and (result := spread(arm.test_accuracy.known)) is not None
        ]
        if known:
            points, own = zip(*known, strict=True)
            series.append(cost.PricedSeries(family, looks.families[family], points, joined=False, looks=own))
    return against_cost(
        series,
        name="study-cost",
        by=by,
        title=f"Test {study.metric} against the cost of the search",
        lead=f"Test {study.metric} of each arm over the {by.words} of its search{by.how}.",
        unit=Unit(study.metric),
        better=study.better,
    )


def _traces(study: ComparisonResult, looks: Looks) -> list[Shown]:
    """Validation metric over iterations: a figure per family of several arms with the lone arms, else of six arms."""
    plots: list[Shown] = []
    for index, (title, arms) in enumerate(_groups(study)):
        tried = any(level.tried_masks for arm in arms for levels in arm.replicates for level in levels)
        lines = [(arm, merged(joined_log(levels, "val_accuracy") for levels in arm.replicates)) for arm in arms]
        ends = "Levels are joined end to end." if any(len(x) > 1 for arm in arms for x in arm.replicates) else ""
        plots += trace_plots(
            [Trace(arm.name, looks.arm(arm.name), line) for arm, line in lines if line is not None],
            loss=False,
            unit=Unit(study.metric),
            better=study.better,
            name=f"study-val-accuracy{f'-{index + 1}' if index else ''}",
            title=f"Validation {study.metric}{title}",
            lead=f"Validation {study.metric} while training each arm.",
            note=sentences(ends, "Searches that train nothing have no curve." * tried),
        )
    return plots


def _groups(study: ComparisonResult) -> list[tuple[str, Sequence[ComparedArm]]]:
    """Arms that share a figure of training curves, with the end of its title."""
    if len(study.arms) <= MAX_LINES:
        return [(" over training", study.arms)]
    every = [arms[0] for arms in study.families.values() if len(arms) == 1]
    families = {name: arms for name, arms in study.families.items() if len(arms) > 1}
    lone, rest = (every[:2], every[2:]) if families else ([], list(study.arms))
    groups = [(f" of {name}", [*lone, *_thinned(arms, MAX_LINES - len(lone))]) for name, arms in families.items()]
    parts = [rest[at : at + MAX_LINES] for at in range(0, len(rest), MAX_LINES)]
    return [*groups, *((f", arms from {part[0].name}", part) for part in parts)]


def _thinned(arms: Sequence[ComparedArm], max_arms: int) -> list[ComparedArm]:
    return [arms[index] for index in pick(range(len(arms)), max_arms)]


def _utilised(study: ComparisonResult, looks: Looks) -> list[Shown]:
    recorded = [(arm.name, used_weights(arm.replicates)) for arm in study.arms]
    known = [(name, used) for name, used in recorded if used is not None]
    chosen = [known[index] for index in pick(range(len(known)), MAX_UTILISED)]
    return utilisation_plots([Used(name, looks.arm(name), *used) for name, used in chosen])
