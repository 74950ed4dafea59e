"""The density curve: a search over several replicates, with controls trained at its levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.levels.search import level_result
from tombola.names import check_known
from tombola.results.codec import of_run
from tombola.results.search import TICKET, Replicate, SearchResult
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.carry import Order, carry_out, check_out
from tombola.runs.jobs import limit_threads, map_jobs
from tombola.runs.progress import Progress, Silent, show_progress
from tombola.runs.stage import Stage
from tombola.search.describe import describe
from tombola.search.find import find_result, machine, replicate_of, search, validate
from tombola.search.origin import start_from
from tombola.search.request import Request, check_jobs, loaded, name_of_model
from tombola.study.arms import CONTROLS, VerificationSetup, run_arm
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.fabric import make_fabric
from tombola.train.trial import TrainingSetup


def run_curve(
    request: Request,
    out: Path,
    *,
    controls: Sequence[str] = CONTROLS,
    control_levels: Sequence[int] | None = None,
    jobs: int = 1,
) -> SearchResult:
    """Search `request.replicates` times and train controls at `control_levels` of each search (None: at all).

    The run's result has the form of a find run's, with an arm per control: the same levels, other weights or
    masks, one draw per replicate and level. `jobs` processes share the replicates out, then the controls.
    """
    for name in controls:
        check_known("control", name, CONTROLS)
    jobs = check_jobs(jobs, request.model, request.data)
    check_out(out)
    options = request.options
    with show_progress(options.progress) as progress:
        splits = loaded(request.data, progress)
        wanted = None if control_levels is None else sorted(set(control_levels))
        study = {"study": "curve", "controls": list(controls), "control_levels": wanted}

        def work(directory: Path) -> dict[str, Any]:
            with limit_threads(options.threads):
                replicates = _train(request, splits, directory, list(controls), wanted, jobs, progress)
            return find_result(request, splits, replicates).as_dict()

        label = f"curve-{request.method.name}-{name_of_model(request.model)}-{splits.name}"

        def config() -> dict[str, Any]:
            splits.identify(progress.track)
            return {**describe(request, splits), **study, "seed": request.seed, "replicates": request.replicates}

        def check() -> None:
            validate(request, splits, progress)
            if wanted and (planned := planned_levels(request, splits)) is not None:
                _check_levels(wanted, planned)

        order = Order(out, label, "study", machine(options, jobs), options.force)
        return of_run(SearchResult, carry_out(order, config, check, work, progress))


@dataclass(frozen=True)
class _Job:
    request: Request
    directory: Path
    replicate: int
    arm: str
    level: int = 0
    ticket: str = ""


def _train(
    request: Request,
    splits: Splits,
    directory: Path,
    controls: list[str],
    wanted: list[int] | None,
    jobs: int,
    progress: Progress,
) -> list[Replicate]:
    arms = list[dict[str, list[LevelResult]]]()
    here = {"progress": progress, "splits": splits}
    searches = [_Job(request, directory, i, "ticket") for i in range(request.replicates)]
    for _, levels in _map(_search, searches, jobs, "searches", here):
        arms.append({TICKET: levels, **{name: [] for name in controls}})
    _check_levels(wanted or (), [level.level for level in arms[0][TICKET][1:]])
    trained = [
        _Job(request, directory, number, name, level.level, level.ticket or "")
        for number, found in enumerate(arms)
        for level in found[TICKET][1:]
        if wanted is None or level.level in wanted
        for name in controls
    ]
    for job, level in _map(_control, trained, jobs, "controls", here):
        arms[job.replicate][job.arm].append(level)
    return [replicate_of(request, number, found) for number, found in enumerate(arms)]


def planned_levels(request: Request, splits: Splits) -> Sequence[int] | None:
    """The levels that a pruning search will have, without the dense network's; None: nobody knows beforehand."""
    start = start_from(request.model, splits, seed=request.seed, method=request.method, ticket=request.start)
    mask = request.start.mask if request.start else None
    return request.method.planned_levels(start.network(), mask)


def _check_levels(wanted: Sequence[int], there: Sequence[int]) -> None:
    strange = [level for level in wanted if level not in there]
    if strange:
        raise TombolaError(
            f"control_levels names level {strange[0]}, but the search has levels {', '.join(map(str, there))}; "
            "name some of those"
        )


def _map(
    function: Callable[..., Any], items: Sequence[_Job], jobs: int, label: str, here: Mapping[str, Any]
) -> Iterator[tuple[_Job, Any]]:
    with here["progress"].track(label, len(items)) as update:
        for done, pair in enumerate(zip(items, map_jobs(function, items, jobs, **here), strict=True), start=1):
            update(done)
            yield pair


def _search(job: _Job, progress: Progress | None = None, splits: Splits | None = None) -> list[LevelResult]:
    levels = search(job.request, progress, splits=splits, directory=job.directory, replicate=job.replicate)
    return [level.result for level in levels]


def _control(job: _Job, progress: Progress | None = None, splits: Splits | None = None) -> LevelResult:
    request = job.request
    splits = splits or loaded(request.data)
    options = request.options
    fabric = make_fabric(
        options.device,
        request.recipe.precision,
    )
    setup = TrainingSetup(splits, request.recipe, fabric, options, progress or Silent())
    model = request.model
    architecture, trusted = (model, ()) if isinstance(model, nn.Module) else (None, (model.name,))
    subject = VerificationSetup(Ticket.load(job.directory / job.ticket, max_weights=UNLIMITED), architecture, trusted)
    name = f"replicate-{job.replicate}/{job.arm}-{job.level:02d}"
    stage = Stage(job.directory / name)
    seed = derive(request.seed, "control", job.arm, job.replicate, job.level)
    trial = run_arm(setup, subject, job.arm, seed=seed, stage=stage, label=name)
    result = level_result(job.level, subject.ticket.mask, trial, name).replace(ticket=None)
    if trial.trained is not None:
        stage.finish(result.as_dict())
    return result
