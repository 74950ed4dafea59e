"""A sweep carried out: every run that is not finished, then the sweep's own run directory, which names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError
from tombola.results.codec import read, typed
from tombola.results.search import SearchResult
from tombola.results.settings import ComparedSetting, SearchRun, by_metric, check_against, compared
from tombola.results.sweep import SweepResult, SweptRun, TunedSetting
from tombola.runs.carry import Order, check_out
from tombola.runs.jobs import check_single_process
from tombola.runs.progress import show_progress
from tombola.runs.stage import RESULT
from tombola.search.driver import machine
from tombola.search.request import name_of_model
from tombola.study.sweep.engine import Crew, Ended, Job
from tombola.study.sweep.plan import Planned, Search, plan
from tombola.train.options import Options

Told = Callable[[Planned, Ended], None]
"""What is called as runs end."""


def plan_sweep(
    searches: Sequence[Search], out: Path, options: Options, against: Mapping[str, Any] | None = None
) -> list[Planned]:
    """The runs of a sweep under `out`, and which are finished; nothing is trained or written.

    `against`: some settings of the one that the others are to be compared with.

    Raises:
        TombolaError: there are none, one names what is not there, or `against` what no run has.
    """
    check_single_process("a sweep")
    if not searches:
        raise TombolaError("the sweep has no searches; give it a grid of at least one setting")
    check_out(out)
    with show_progress(options.progress) as progress:
        planned = plan(searches, out, progress)
    if against is not None:
        check_against([one.place.config for one in planned], against)
    return planned


def carry_out_runs(
    planned: Sequence[Planned], crew: Crew, out: Path, options: Options, told: Told | None = None
) -> dict[Path, Ended]:
    """How every run that was not finished ended, by directory; searches that come to the same are one run."""
    wanted = {one.directory: one for one in planned if not one.finished}
    waiting, ended = list(wanted.values()), dict[Path, Ended]()
    jobs = [Job(one.search.request, out) for one in waiting]
    wanted_bars = False if crew.shows else options.progress
    with show_progress(wanted_bars) as progress, progress.track("runs", len(jobs)) as update:
        for index, how in crew.carried_out(jobs) if jobs else ():
            ended[waiting[index].directory] = how
            update(len(ended))
            if told is not None:
                told(waiting[index], how)
    return ended


def finish_sweep(
    planned: Sequence[Planned],
    ended: Mapping[Path, Ended],
    out: Path,
    options: Options,
    against: Mapping[str, Any] | None = None,
    tuned: Sequence[TunedSetting] = (),
) -> SweepResult:
    """The sweep's result, in a run directory of its own under `out`, beside the runs that it names."""
    searches = tuple(
        SweptRun(
            setting=dict(one.search.setting),
            run=one.directory.name,
            error=ended[one.directory].error if one.directory in ended else None,
            stacked=ended[one.directory].stacked if one.directory in ended else None,
        )
        for one in planned
    )
    requests = [one.search.request for one in planned]
    result = SweepResult(
        searches=searches,
        settings=_compared(planned, searches, against),
        tuned=tuple(tuned),
        method=_only([request.method.name for request in requests]),
        model=_only([name_of_model(request.model) for request in requests]),
        data=_only([request.data.name for request in requests]),
    )
    label = "-".join(["sweep", *filter(None, (result.method, result.model, result.data))])
    order = Order(out, label, "sweep", machine(options), options.force)
    with order.open({"runs": sorted(result.runs)}) as opened:
        content = opened.recovered()
        before = None if content is None else typed(SweepResult, content, opened.directory / RESULT)
        result = result if before is None else _remembering(result, before)
        if before != result:
            opened.finish(result.as_dict())
        trained = sum(how.error is None for how in ended.values())
        return result.replace(run=str(opened.directory), trained=trained, found=len(result.runs) - len(ended))


def _remembering(result: SweepResult, before: SweepResult) -> SweepResult:
    """The result, with how runs were stacked that an earlier call of the same sweep has carried out."""
    known = {search.run: search.stacked for search in before.searches}
    searches = (
        search if search.stacked is not None else search.replace(stacked=known.get(search.run))
        for search in result.searches
    )
    return result.replace(searches=tuple(searches))


def _compared(
    planned: Sequence[Planned], searches: Sequence[SweptRun], against: Mapping[str, Any] | None
) -> tuple[ComparedSetting, ...]:
    """The settings of the finished runs, those of one metric after each other."""
    places = {one.directory: one.place for one in planned}
    found = {path: read(SearchResult, path / RESULT) for path in places}
    named = {search.run: search.unseeded for search in reversed(searches)}
    runs = [
        SearchRun(path.name, places[path].config, result, named[path.name])
        for path, result in found.items()
        if result is not None
    ]
    groups = by_metric(runs, lambda run: run.result.metric)
    return tuple(setting for group in groups for setting in compared(group, against))


def _only(names: Sequence[str]) -> str | None:
    """The name that all share, or None."""
    return names[0] if len(set(names)) == 1 else None
