"""The figures of a run with their captions: each only if its data exist and vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tombola.formats import Unit, density
from tombola.report import cost, figures, style, words
from tombola.report.aggregate import (
    Reading,
    curve,
    layer_densities,
    levels_of,
    observed_stop,
    over_density,
    pick,
    spread,
)
from tombola.report.axes import EQUAL_DENSITIES, alike
from tombola.report.figures import Row, Series, Trace
from tombola.report.inputs import input_plots
from tombola.report.kinds import against_cost, against_density, flat, metric_or_loss, trace_plots, worth_drawing
from tombola.report.looks import Look, Looks, shades
from tombola.report.overlap_plots import overlap_plots
from tombola.report.plot import (
    Plot,
    Remark,
    Shown,
    band_caption,
    direction_caption,
    row_caption,
    sentences,
)
from tombola.report.read import Run
from tombola.report.stability import search_plots
from tombola.report.study_plots import study_plots
from tombola.report.utilisation import Used, used_weights, utilisation_plots
from tombola.results.search import SearchResult
from tombola.results.trial import LayerResult, LevelResult
from tombola.results.verification import ArmResult, VerificationResult

MAX_LEVELS = 5


def arm_series(find: SearchResult, looks: Looks, reading: Reading) -> tuple[Series, ...]:
    """A line per arm that has at least one value."""
    lines = (Series(style.arm_name(arm), looks.arm(arm), over_density(find, arm, reading)) for arm in find.arms)
    return tuple(line for line in lines if line.shown)


def _accuracy(find: SearchResult, looks: Looks, early: bool) -> list[Shown]:
    def reading(level: LevelResult) -> float | None:
        return level.test_accuracy_early_stop if early else level.test_accuracy

    series, dense = arm_series(find, looks, reading), words.dense_point(find, reading)
    when = "at the iteration with the lowest validation loss" if early else "at the end of training"
    return against_density(
        series,
        slug="early-stop-accuracy-density" if early else "accuracy-density",
        title=f"Test {find.metric} at early stop" if early else f"Test {find.metric} against density",
        lead=f"Test {find.metric} {when}",
        unit=Unit(find.metric),
        better=find.better,
        dense=dense.spread.mean if dense else None,
    )


def _early_stop(find: SearchResult, looks: Looks) -> list[Shown]:
    series = arm_series(find, looks, observed_stop)
    if not worth_drawing(series):
        return []
    if flat(series):
        return [Remark(f"Early stop: at iteration {series[0].points[0].spread.mean:,.0f} in every search and level.")]
    partial = any(not p.complete for line in series for p in line.points)
    note = "Hollow: not observed in every replicate." if partial else ""
    drawn = {line.label: {p.level for p in line.points} for line in series}
    lacking = any(set(levels_of(find, arm)) - drawn.get(style.arm_name(arm), set()) for arm in find.arms)
    gap = "Where a mark is missing, no early stop was observed." if lacking else ""
    return [
        Plot(
            "early-stop-density",
            "Early-stop iteration against density",
            sentences("Iteration of the lowest validation loss: lower is faster.", band_caption(series), note, gap),
            figures.density_figure(series, ylabel="Early-stop iteration", counts=True),
        )
    ]


def _cost(find: SearchResult, looks: Looks) -> list[Shown]:
    by = cost.measure_of(find)
    series = cost.find_series(find, [(arm, looks.arm(arm)) for arm in find.arms], by)
    there = {line.label for line in series}
    reinit = "A reinitialised network needs the ticket's mask, and costs its search." * (
        style.arm_name("reinit") in there
    )
    random = "A random mask needs no search: it costs its own training alone." * (style.arm_name("random") in there)
    return against_cost(
        series,
        name="accuracy-cost",
        title=f"Test {find.metric} against the cost of the search",
        lead=sentences(
            f"Test {find.metric} over the {by.words} of all levels up to the network's own{by.how}. "
            "Numbers: weights kept.",
            reinit,
            random,
        ),
        by=by,
        unit=Unit(find.metric),
        better=find.better,
    )


def _level_label(find: SearchResult, number: int) -> str:
    """The density of a level's tickets, with its number where other levels have the same."""
    named = {
        n: density(sum(level.density for level in levels) / len(levels))
        for n, levels in levels_of(find, "ticket").items()
    }
    same = list(named.values()).count(named[number]) > 1
    return f"{named[number]}, level {number}" if same else named[number]


def level_looks(find: SearchResult, look: Look) -> Mapping[int, Look]:
    """The levels that are plotted one by one, in shades of the ticket's colour."""
    chosen = pick(list(levels_of(find, "ticket")), MAX_LEVELS)
    return dict(zip(chosen, shades(look, len(chosen)), strict=True))


def _layers(find: SearchResult, looks: Mapping[int, Look]) -> list[Shown]:
    pruned = [n for n in looks if any(level.density < 1 for level in levels_of(find, "ticket")[n])]
    kept = {layers: number for number in pruned if (layers := layer_densities(find, number))}  # the last of equal ones
    columns: list[tuple[str, Look, Sequence[LayerResult]]] = [
        (_level_label(find, number), looks[number], layers) for layers, number in kept.items()
    ]
    if not columns:
        return []
    if len(columns[0][2]) == 1:
        return []
    if all(alike((layer.density for layer in layers), EQUAL_DENSITIES) for _, _, layers in columns):
        each = "at each level " if len(columns) > 1 else ""
        return [
            Remark(f"Where the ticket keeps its weights: every layer keeps the same share {each}({_few(columns)}).")
        ]
    empty = any(layer.kept == 0 for _, _, layers in columns for layer in layers)
    several = "; a line per overall density" if len(columns) > 1 else ""
    return [
        Plot(
            "layer-density",
            "Where the ticket keeps its weights",
            sentences(
                f"Share of each layer's weights that is kept, input at the top{several}.",
                "A cross: the layer kept no weight." if empty else "",
            ),
            figures.layer_figure(columns),
        )
    ]


def _few(columns: Sequence[tuple[str, Look, Sequence[LayerResult]]]) -> str:
    return ", ".join(label for label, _, _ in columns)


def _utilised(find: SearchResult, looks: Looks) -> list[Shown]:
    used = used_weights([rep.arms.get("ticket", ()) for rep in find.replicates])
    # the final layer densities have a figure of their own
    return utilisation_plots([Used("Ticket", looks.arm("ticket"), *used)], ends=False) if used is not None else []


COLUMNS = ("val_accuracy", "val_loss")


def _find_traces(find: SearchResult, looks: Mapping[int, Look]) -> list[Shown]:
    grouped, unit = levels_of(find, "ticket"), Unit(find.metric)
    tried = [number for number in looks if any(level.tried_masks for level in grouped[number])]
    plots = [shown for number in tried for shown in tried_plots(find, grouped[number], looks[number])]
    for column in COLUMNS:
        lines = [
            (number, look, curve((level.metrics for level in grouped[number]), column))
            for number, look in looks.items()
            if number not in tried
        ]
        traces = [Trace(_level_label(find, number), look, line) for number, look, line in lines if line is not None]
        name = f"Validation {metric_or_loss(column, unit)}"
        several = len(traces) > 1
        plots += trace_plots(
            traces,
            loss=column == "val_loss",
            unit=unit,
            better=find.better,
            name=f"training-{column.replace('_', '-')}",
            title=f"{name} by density" if several else name,
            lead=f"{name} while training {'tickets of several levels' if several else 'the network found'}.",
        )
    return plots


def tried_plots(find: SearchResult, levels: Sequence[LevelResult], look: Look) -> list[Shown]:
    """The best mask so far, over the masks tried by a search that trained nothing."""
    unit, logs = Unit(find.metric), [level.metrics for level in levels]
    own, other = shades(look, 2)
    losses = [("Training sample", own, "train_loss"), ("Validation split", other, "val_loss")]
    drawn = {name: (shade, curve(logs, column)) for name, shade, column in losses}
    metric = curve(logs, "val_accuracy")
    return trace_plots(
        [] if metric is None else [Trace("Validation split", look, metric)],
        loss=False,
        unit=unit,
        better=find.better,
        name="search-val-accuracy",
        title=f"Validation {find.metric} of the best mask",
        lead=f"Validation {find.metric} of the mask that is best so far on the sample, over the masks tried.",
        tried=True,
    ) + trace_plots(
        [Trace(name, shade, line) for name, (shade, line) in drawn.items() if line is not None],
        loss=True,
        unit=unit,
        better=find.better,
        name="search-loss",
        title="Loss of the best mask",
        lead="Loss of the best mask so far, over the masks tried: on the training examples that masks are compared on, "
        "and on the validation split.",
        ylabel="Loss",
        tried=True,
    )


def _proof(verify: VerificationResult, looks: Looks) -> list[Shown]:
    unit = Unit(verify.metric)
    plots: list[Shown] = []
    rows = [_row(name, arm, looks) for name, arm in verify.arms.items() if arm.tested or arm.mean is not None]
    if len(rows) > 1:
        if alike(value for row in rows for value in (*row.values, row.mean)):
            plots.append(Remark(f"Test {verify.metric} is {unit.show(rows[0].mean)} in every training of every arm."))
        else:
            lead = f"Test {verify.metric} of each arm, trained on fresh seeds."
            covers = f"Bars cover {verify.covers}." if any(row.interval for row in rows) else ""
            caption = sentences(lead, direction_caption(verify.better, verify.metric), row_caption(rows), covers)
            drawn = figures.arms_figure(rows, xlabel=unit.axis("Test"), factor=unit.factor)
            plots.append(Plot("verify-arms", "The ticket and its controls", caption, drawn))
    return plots + _differences(verify, looks)


def _differences(verify: VerificationResult, looks: Looks) -> list[Shown]:
    unit = Unit(verify.metric)
    compared = {name: item for name, item in verify.comparisons.items() if item.difference is not None}
    ends = [end for item in compared.values() for end in (item.difference, item.lower_holm, *(item.interval or ()))]
    if not compared or (alike(ends) and ends[0] == 0):
        return []
    flipped = verify.better == "lower"
    sense = "Control minus ticket" if flipped else "Ticket minus control"
    has_bars = any(item.interval for item in compared.values())
    barred = f"Bar: two-sided 95 % interval, over {verify.covers}." if has_bars else ""
    ticked = (
        "Upright tick: the lower bound that decides."
        if any(x.lower_holm is not None for x in compared.values())
        else ""
    )
    margin = verify.margin if "dense" in compared else None
    dashed = "" if margin is None else f"Dashed: the margin of {unit.bare(margin)}{unit.points} allowed against dense."
    return [
        Plot(
            "verify-differences",
            "The ticket against each control",
            sentences(f"{sense}: right of 0 the ticket is better.", barred, ticked, dashed),
            figures.differences_figure(
                compared,
                {name: looks.arm(name) for name in compared},
                margin=margin,
                xlabel=unit.axis_of_differences("Difference in test"),
                factor=unit.factor,
            ),
        )
    ]


def _row(name: str, arm: ArmResult, looks: Looks) -> Row:
    summary = spread(arm.tested)
    return Row(
        label=style.arm_name(name),
        look=looks.arm(name),
        values=arm.tested,
        mean=arm.mean if arm.mean is not None else summary.mean if summary else None,
        interval=arm.interval or (summary.interval if summary else None),
    )


def _verify_traces(verify: VerificationResult, looks: Looks) -> list[Shown]:
    plots: list[Shown] = []
    unit = Unit(verify.metric)
    for column in COLUMNS:
        lines = [(name, curve(arm.metrics, column)) for name, arm in verify.arms.items()]
        name = f"Validation {metric_or_loss(column, unit)}"
        plots += trace_plots(
            [Trace(style.arm_name(arm), looks.arm(arm), line) for arm, line in lines if line is not None],
            loss=column == "val_loss",
            unit=unit,
            better=verify.better,
            name=f"verify-{column.replace('_', '-')}",
            title=f"{name} by arm",
            lead=f"{name} while training each arm of the verification.",
        )
    return plots


def run_plots(run: Run, looks: Looks) -> list[Shown]:
    """The figures of one run, the verdict's first; remarks replace those that would show nothing."""
    if run.study is not None:
        return study_plots(run.study, looks)
    if run.overlap is not None:
        return overlap_plots(run.overlap, looks)
    proof: list[Shown] = [] if run.verify is None else _proof(run.verify, looks)
    logs = [] if run.verify is None else _verify_traces(run.verify, looks)
    if run.find is None:
        return proof + logs
    find, shaded = run.find, level_looks(run.find, looks.arm("ticket"))
    return [
        *proof,
        *_accuracy(find, looks, early=False),
        *input_plots(run, looks),
        *_accuracy(find, looks, early=True),
        *_cost(find, looks),
        *_early_stop(find, looks),
        *_find_traces(find, shaded),
        *logs,
        *search_plots(find, looks.arm("ticket")),
        *_layers(find, shaded),  # last: they may be tall
        *_utilised(find, looks),
    ]
