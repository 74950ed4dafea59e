"""The figures of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.formats import Unit
from tombola.report import cost, style
from tombola.report.aggregate import over_density
from tombola.report.figures import Series
from tombola.report.kinds import against_cost, against_density
from tombola.report.looks import Looks
from tombola.report.plot import Shown
from tombola.report.read import Run
from tombola.results.search import SearchResult


def run_label(run: Run, runs: Sequence[Run]) -> str:
    """A short name of a run among others: its method if no other run has the same, else its name."""
    methods = [other.find.method for other in runs if other.find is not None]
    if run.find is not None and methods.count(run.find.method) == 1:
        return run.find.method
    return run.name


def labels(runs: Sequence[Run]) -> list[str]:
    """A short name for every run, all distinct."""
    names = [style.plain(run_label(run, runs), 26) for run in runs]
    return [
        name if names.count(name) == 1 else f"{style.plain(name, 22)} [{index + 1}]" for index, name in enumerate(names)
    ]


def combined_plots(runs: Sequence[Run], looks: Sequence[Looks]) -> list[Shown]:
    """Every metric that at least two searches share, against density and against cost, a line per run."""
    plots: list[Shown] = []
    names = dict(zip((run.path for run in runs), labels(runs), strict=True))
    searches = [(run, run.find, look) for run, look in zip(runs, looks, strict=True) if run.find is not None]
    for index, metric in enumerate(dict.fromkeys(find.metric for _, find, _ in searches)):
        group = [(run, find, look) for run, find, look in searches if find.metric == metric]
        suffix = "" if index == 0 else f"-{index + 1}"
        series = [
            Series(names[run.path], look.arm("ticket"), over_density(find, "ticket", lambda level: level.test_accuracy))
            for run, find, look in group
        ]
        series = [line for line in series if line.shown]
        if len(series) < 2:
            continue
        note = _same([find for _, find, _ in group])
        better = group[0][1].better
        drawn = against_density(
            series,
            slug=f"runs-accuracy-density{suffix}",
            title="The runs side by side",
            lead=f"{note}Test {metric} of each run's tickets at the end of training",
            unit=Unit(metric),
            better=better,
            dense=None,
        )
        by = cost.measure(
            level for _, find, _ in group for rep in find.replicates for level in rep.arms.get("ticket", ())
        )
        priced = [
            cost.PricedSeries(names[run.path], look.arm("ticket"), line.points)
            for run, find, look in group
            for line in cost.find_series(find, [("ticket", look.arm("ticket"))], by)
        ]
        plots += drawn
        plots += against_cost(
            priced,
            name=f"runs-accuracy-cost{suffix}",
            title="The runs against their cost",
            lead=(
                f"{note}Test {metric} of each run's tickets over the {by.words} of all levels up to the "
                f"ticket's own{by.how}. Numbers: weights kept."
            ),
            by=by,
            unit=Unit(metric),
            better=better,
        )
    return plots


def _same(finds: Sequence[SearchResult]) -> str:
    same = {(find.model, find.data) for find in finds}
    return "" if len(same) == 1 else "The runs differ in model or data: heights do not compare. "
