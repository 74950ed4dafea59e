"""The density curve: a search over several replicates, with controls trained at its levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.levels.search import level_result
from tombola.methods.imp import IterativePruning
from tombola.names import check_known
from tombola.results.search import TICKET, SearchResult
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.stage import Stage
from tombola.search.describe import describe
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import find_result, replicate_of, search_levels, validate
from tombola.search.origin import start_from
from tombola.search.request import Request, name_of_model
from tombola.study.arms import CONTROLS, VerificationSetup, run_arm
from tombola.study.measured import training_setup
from tombola.ticket.ticket import UNLIMITED, Ticket


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
    levels = None if control_levels is None else tuple(sorted(set(control_levels)))
    return run(_Curve(request, tuple(controls), levels), out, jobs)


@dataclass(frozen=True)
class _Control:
    """A control of one level of one replicate; `ticket`: the level's."""

    replicate: int
    name: str
    level: int
    ticket: str


@dataclass(frozen=True)
class _Curve(Experiment[Request, SearchResult]):
    result = SearchResult

    controls: tuple[str, ...]
    control_levels: tuple[int, ...] | None

    def label(self, splits: Splits) -> str:
        return f"curve-{self.request.method.name}-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        request, levels = self.request, self.control_levels
        controls = {"controls": list(self.controls), "control_levels": None if levels is None else list(levels)}
        seeds = {"seed": request.seed, "replicates": request.replicates}
        return {**describe(request, splits), "study": "curve", **controls, **seeds}

    def check(self, work: Workspace) -> None:
        if self.control_levels is not None and not self.controls:
            raise TombolaError("control_levels has no effect without controls; leave it out, or name controls")
        validate(self.request, work.splits, work.progress, work.starts)
        if self.control_levels and (planned := planned_levels(self.request, work.splits)) is not None:
            self._check_levels(planned)

    def _check_levels(self, searched: Sequence[int]) -> None:
        unknown = [level for level in self.control_levels or () if level not in searched]
        if unknown:
            raise TombolaError(
                f"control_levels names level {unknown[0]}, but the search has levels "
                f"{', '.join(map(str, searched))}; name some of those"
            )

    def compute(self, work: Workspace) -> SearchResult:
        searches = work.map(partial(search_levels, self.request), range(self.request.replicates), "searches")
        arms = [{TICKET: levels, **{name: [] for name in self.controls}} for _, levels in searches]
        self._check_levels([level.level for level in arms[0][TICKET][1:]])
        controls = [
            _Control(number, name, level.level, level.ticket or "")
            for number, replicate in enumerate(arms)
            for level in replicate[TICKET][1:]
            if self.control_levels is None or level.level in self.control_levels
            for name in self.controls
        ]
        for control, level in work.map(self.train_control, controls, "controls"):
            arms[control.replicate][control.name].append(level)
        replicates = [replicate_of(self.request, number, replicate) for number, replicate in enumerate(arms)]
        return find_result(self.request, work.splits, replicates, work.starts)

    def train_control(self, work: Workspace, control: _Control) -> LevelResult:
        """The level of one control."""
        request, model, directory = self.request, self.request.model, work.folder
        setup = training_setup(work, request.recipe, request.options)
        architecture, trusted = (model, ()) if isinstance(model, nn.Module) else (None, (model.name,))
        ticket = Ticket.load(directory / control.ticket, max_weights=UNLIMITED)
        name = f"replicate-{control.replicate}/{control.name}-{control.level:02d}"
        stage = Stage(directory / name)
        seed = derive(request.seed, "control", control.name, control.replicate, control.level)
        method = request.method
        retrain = method.retrain if isinstance(method, IterativePruning) else {}
        subject = VerificationSetup(ticket, architecture, trusted, retrain)
        trial = run_arm(setup, subject, control.name, seed=seed, stage=stage, label=name)
        result = level_result(control.level, ticket.mask, trial, name).replace(ticket=None)
        if trial.trained is not None:
            stage.finish(result.as_dict())
        return result


def planned_levels(request: Request, splits: Splits) -> Sequence[int] | None:
    """The levels that a pruning search will have, without the dense network's; None: nobody knows beforehand."""
    start = start_from(request.model, splits, seed=request.seed, method=request.method, ticket=request.start)
    mask = request.start.mask if request.start else None
    return request.method.planned_levels(start.network(), mask)
