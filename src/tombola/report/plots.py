"""Which figures a run calls for, with their captions: a figure is there only where its data are."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.report import figures, style, words
from tombola.report.aggregate import (
    Reading,
    curve,
    layer_densities,
    levels_of,
    observed_stop,
    pick,
    points,
    spread,
)
from tombola.report.figures import Row, Series, Trace
from tombola.report.levels import Layer
from tombola.report.overlap_plots import overlap_plots
from tombola.report.plot import Plot, band_words, close_up
from tombola.report.study_plots import study_plots
from tombola.report.style import Look
from tombola.report.summary import Arm, Find, Run, Verify
from tombola.report.utilisation import Used, used_weights, utilisation_plots
from tombola.report.words import Unit


def arm_series(find: Find, reading: Reading) -> tuple[Series, ...]:
    """A line per arm that has at least one value."""
    found = (Series(style.arm_name(arm), style.arm_look(arm), points(find, arm, reading)) for arm in find.arms)
    return tuple(line for line in found if any(p.density > 0 for p in line.points))


def _points(series: Sequence[Series]) -> int:
    """How many points there are to draw; of a single one the tables say it all."""
    return sum(p.density > 0 for line in series for p in line.points)


def _accuracy(find: Find, early: bool) -> list[Plot]:
    unit = Unit(find.metric)
    series = arm_series(find, lambda x: x.test_accuracy_early_stop if early else x.test_accuracy)
    if _points(series) < 2:
        return []
    at_one = [p.spread.mean for line in series for p in line.points if p.density == 1]
    dense = at_one[0] if at_one else None
    slug = "early-stop-accuracy" if early else "accuracy"
    title = f"Test {find.metric} at early stop" if early else f"Test {find.metric} against density"
    when = "at the iteration with the lowest validation loss" if early else "at the end of training"
    label = unit.axis("Test")
    plots = [
        Plot(
            f"{slug}-density",
            title,
            f"Test {find.metric} {when}, from dense (left) to sparse (right). {band_words(series)}",
            figures.density_figure(series, ylabel=label, factor=unit.factor, dense=dense),
        )
    ]
    window = close_up(series, dense) if unit.percent else None
    if window is not None:
        plots.append(
            Plot(
                f"{slug}-density-close",
                f"{title}, close up",
                f"The same numbers near the top; what falls below is cut off. {band_words(series)}",
                figures.density_figure(series, ylabel=label, factor=unit.factor, dense=dense, window=window),
            )
        )
    return plots


def _early_stop(find: Find) -> list[Plot]:
    series = arm_series(find, observed_stop)
    if _points(series) < 2:
        return []
    partial = any(not p.complete for line in series for p in line.points)
    note = " Hollow: in some replicates the minimum lay too late to be observed." if partial else ""
    drawn = {line.label: {p.level for p in line.points} for line in series}
    if any(set(levels_of(find, arm)) - drawn.get(style.arm_name(arm), set()) for arm in find.arms):
        note += " Where a line is missing, no replicate reached its minimum early enough to be observed."
    return [
        Plot(
            "early-stop-density",
            "Early-stop iteration against density",
            f"Iteration of the lowest validation loss: lower is faster. {band_words(series)}{note}",
            figures.density_figure(series, ylabel="Early-stop iteration", counts=True),
        )
    ]


def _level_label(find: Find, number: int) -> str:
    levels = levels_of(find, "ticket")[number]
    return words.density(sum(level.density for level in levels) / len(levels))


def _layers(find: Find) -> list[Plot]:
    candidates = [n for n, levels in levels_of(find, "ticket").items() if any(x.density < 1 for x in levels)]
    chosen = [n for n in candidates if layer_densities(find, n)]
    columns: list[tuple[str, Look, Sequence[Layer]]] = [
        (_level_label(find, number), look, layer_densities(find, number))
        for number, look in zip(pick(chosen, 4), style.LEVEL_LOOKS, strict=False)
    ]
    if not columns:
        return []
    empty = any(layer.kept == 0 for _, _, layers in columns for layer in layers)
    cross = " A cross: the layer kept no weight." if empty else ""
    return [
        Plot(
            "layer-density",
            "Where the ticket keeps its weights",
            "Share of each layer's weights that is kept, input at the top; a line per overall density." + cross,
            figures.layer_figure(columns),
        )
    ]


def _utilised(find: Find) -> list[Plot]:
    used = used_weights([rep.arms.get("ticket", ()) for rep in find.replicates])
    return utilisation_plots([Used("Ticket", style.ARM_LOOKS["ticket"], *used)] if used is not None else [])


def _trace_plots(traces: dict[str, list[Trace]], unit: Unit, prefix: str, by: str | None, what: str) -> list[Plot]:
    plots = []
    for column, lines in traces.items():
        if not lines:
            continue
        loss = column == "val_loss"
        name = "loss" if loss else unit.metric
        cut = " The steep start is cut off." if not loss and unit.percent else ""
        several = max(line.curve.n for line in lines) > 1
        band = " Line: mean over replicates; band: lowest to highest." if several else ""
        plots.append(
            Plot(
                f"{prefix}-{column.replace('_', '-')}",
                f"Validation {name}" + (f" by {by}" if by else ""),
                f"Validation {name} while training {what}.{cut}{band}",
                figures.trace_figure(
                    lines,
                    ylabel="Validation loss" if loss else unit.axis("Validation"),
                    factor=1.0 if loss else unit.factor,
                    log=loss,
                    window=not loss and unit.percent,
                ),
            )
        )
    return plots


COLUMNS = ("val_accuracy", "val_loss")


def _find_traces(find: Find) -> list[Plot]:
    grouped = levels_of(find, "ticket")
    chosen = pick([n for n, levels in grouped.items() if any(x.metrics for x in levels)], 5)
    traces: dict[str, list[Trace]] = {column: [] for column in COLUMNS}
    for column in COLUMNS:
        for number, look in zip(chosen, style.LEVEL_LOOKS, strict=False):
            line = curve((level.metrics for level in grouped[number]), column)
            if line is not None:
                traces[column].append(Trace(_level_label(find, number), look, line))
    several = len(grouped) > 1
    by, what = ("density", "tickets of several densities") if several else (None, "the network found")
    return _trace_plots(traces, Unit(find.metric), "training", by, what)


def _proof(verify: Verify) -> list[Plot]:
    unit = Unit(verify.metric)
    plots = []
    arms = {name: arm for name, arm in verify.arms.items() if arm.test_accuracy or arm.mean is not None}
    if arms:
        rows = [_row(name, arm) for name, arm in arms.items()]
        plots.append(
            Plot(
                "verify-arms",
                "The ticket and its rivals",
                f"Test {verify.metric} of each arm on fresh seeds. Large mark: mean; bar: 95 % t-interval; "
                "small marks: single replicates.",
                figures.arms_figure(rows, xlabel=unit.axis("Test"), factor=unit.factor),
            )
        )
    compared = {name: item for name, item in verify.comparisons.items() if item.difference is not None}
    if compared:
        line = ""
        if "dense" in compared and verify.margin is not None:
            line = f" Dashed: the margin of {unit.bare(verify.margin)} allowed against dense."
        plots.append(
            Plot(
                "verify-differences",
                "Ticket against each rival",
                "Ticket minus rival: right of 0 the ticket is better. Bar: 95 % interval; "
                f"upright tick: the lower 95 % bound that decides.{line}",
                figures.differences_figure(
                    compared,
                    margin=verify.margin,
                    xlabel=f"Difference in test {verify.metric}" + (" (points)" if unit.percent else ""),
                    factor=unit.factor,
                ),
            )
        )
    return plots


def _row(name: str, arm: Arm) -> Row:
    found = spread(arm.test_accuracy)
    return Row(
        label=style.arm_name(name),
        look=style.arm_look(name),
        values=arm.test_accuracy,
        mean=arm.mean if arm.mean is not None else found.mean if found else None,
        interval=arm.interval or (found.interval if found else None),
    )


def _verify_traces(verify: Verify) -> list[Plot]:
    traces: dict[str, list[Trace]] = {column: [] for column in COLUMNS}
    for column in COLUMNS:
        for name, arm in verify.arms.items():
            found = curve(arm.metrics, column)
            if found is not None:
                traces[column].append(Trace(style.arm_name(name), style.arm_look(name), found))
    return _trace_plots(traces, Unit(verify.metric), "verify", "arm", "each arm of the verification")


def run_plots(run: Run) -> list[Plot]:
    """The figures of one run, the verdict's first."""
    if run.study is not None:
        return study_plots(run.study)
    if run.overlap is not None:
        return overlap_plots(run.overlap)
    proof, logs = (_proof(run.verify), _verify_traces(run.verify)) if run.verify is not None else ([], [])
    if run.find is None:
        return proof + logs
    find = run.find
    return [
        *proof,
        *_accuracy(find, early=False),
        *_accuracy(find, early=True),
        *_early_stop(find),
        *_find_traces(find),
        *logs,
        *_layers(find),  # last, for they may be tall
        *_utilised(find),
    ]


def run_label(run: Run, runs: Sequence[Run]) -> str:
    """A short name of a run among others: its method where that tells it apart, else its name."""
    methods = [other.find.method for other in runs if other.find is not None]
    if run.find is not None and methods.count(run.find.method) == 1:
        return run.find.method
    return run.name


def combined_plots(runs: Sequence[Run]) -> list[Plot]:
    """One accuracy-against-density figure per metric that at least two runs share."""
    plots = []
    metrics = dict.fromkeys(run.find.metric for run in runs if run.find is not None)
    for index, metric in enumerate(metrics):
        group = [run for run in runs if run.find is not None and run.find.metric == metric]
        labels = [style.plain(run_label(run, group), 26) for run in group]
        series = []
        for number, (run, label) in enumerate(zip(group, labels, strict=True)):
            assert run.find is not None
            found = points(run.find, "ticket", lambda level: level.test_accuracy)
            if any(p.density > 0 for p in found):
                name = label if labels.count(label) == 1 else f"{label} [{number + 1}]"
                series.append(Series(name, style.RUN_LOOKS[number % len(style.RUN_LOOKS)], found))
        if len(series) < 2:
            continue
        unit = Unit(metric)
        same = {(run.find.model, run.find.data) for run in group if run.find is not None}
        note = "" if len(same) == 1 else " The runs differ in model or data: heights do not compare."
        suffix = "" if index == 0 else f"-{index + 1}"
        caption = f"Test {metric} of each run's tickets at the end of training. {band_words(series)}{note}"
        label = unit.axis("Test")
        plots.append(
            Plot(
                f"runs-accuracy-density{suffix}",
                "The runs side by side",
                caption,
                figures.density_figure(series, ylabel=label, factor=unit.factor),
            )
        )
        window = close_up(series, None) if unit.percent else None
        if window is not None:
            plots.append(
                Plot(
                    f"runs-accuracy-density-close{suffix}",
                    "The runs side by side, close up",
                    f"The same numbers near the top; what falls below is cut off. {band_words(series)}",
                    figures.density_figure(series, ylabel=label, factor=unit.factor, window=window),
                )
            )
    return plots
