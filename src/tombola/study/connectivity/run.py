"""Instability of tickets: two trainings from one step with other data orders, and the barrier between their ends.

Linear mode connectivity (Frankle et al. 2020): a network is stable at step k if what follows depends so little on the
order of the data that the two ends lie in one valley. Here against k, against density, and beside controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tombola.data.feed import steps_per_epoch
from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.fields import checked
from tombola.levels.begin import retraining
from tombola.levels.rewind import Rewind
from tombola.levels.rewind_point import StopAt
from tombola.levels.search import DENSE as DENSE_LEVEL
from tombola.mask import Mask
from tombola.methods.base import Method
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.parameters import prunable
from tombola.plain import as_plain
from tombola.results.codec import recovered
from tombola.results.connectivity import ConnectivityResult, Line
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.stage import REWIND, TICKET, Stage
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, replicate_seed, search_replicate, validate
from tombola.search.origin import Start, start_from
from tombola.search.request import Request, as_data, as_model, name_of_model
from tombola.study.arms import random_mask
from tombola.study.connectivity.barrier import line_between
from tombola.study.connectivity.figures import NOTE, PairFound, connected, difference, sentence
from tombola.study.connectivity.plan import DENSE, RANDOM, REINIT, WINNER, Connectivity, search_arms
from tombola.study.connectivity.training import Begin, trained
from tombola.study.intervals import intervals_in_words
from tombola.study.measured import study_config, study_fields, training_setup
from tombola.study.setting import Arm, Setting
from tombola.ticket.redraw import redrawn
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.checkpoint import load_snapshot
from tombola.train.length import steps
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup


@checked
def connectivity(
    model: nn.Module | ModelSpec | str,
    data: Any,
    plan: Connectivity | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    out: str | Path = "runs",
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> ConnectivityResult:
    """Train networks, tickets and their controls twice from each step, and see whether the ends are connected.

    For every replicate and step k a pruning search that rewinds to k gives dense network and tickets. From each, and
    from the controls, two trainings go on from k with other data orders (and other dropout), with a fresh optimiser.
    Searches lie in `<run>/<step>/replicate-<r>/level-<l>`, trainings beside them, lines in `<run>/lines`; finished
    ones are found again.

    Args:
        model: as in `find`.
        data: as in `find`.
        plan: steps, levels, controls and points; the defaults if None.
        recipe: a whole one, or fields that differ from the preset of imp for this network and data.
        jobs: processes that share searches and trainings out (model and data given by name).

    Returns:
        `pairs` by arm, step and level (barriers as mean, interval and values over replicates, and every line),
        `differences` of the ticket and its controls, a `sentence`, and the `run`.

    Raises:
        TombolaError: the search or the plan cannot work here; raised before anything is trained.
    """
    plan, spec = plan or Connectivity(), as_model(model)
    source = as_data(data, model)
    named = spec if isinstance(spec, ModelSpec) else ModelSpec(name_of_model(spec))
    arms = search_arms(Setting(named, source, recipe or {}, plan))  # type: ignore[arg-type]
    first = Request(spec, source, arms[0].method, arms[0].recipe, seed, replicates, options or Options())
    return run(_Connectivity(first, tuple(arms), plan), Path(out), jobs)


@dataclass(frozen=True)
class _Pair:
    """Two trainings: from which search and replicate, of which arm, and the files of the level's ticket."""

    search: int
    replicate: int
    arm: str
    level: int
    ticket: str


@dataclass(frozen=True)
class _Connectivity(Experiment[Request, ConnectivityResult]):
    """`arms`: one search for each step; the request is the first one's."""

    result = ConnectivityResult

    arms: tuple[Arm, ...]
    plan: Connectivity

    def label(self, splits: Splits) -> str:
        return f"connectivity-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        return study_config("connectivity", self.request, splits, self.plan)

    # -- before anything is trained

    def check(self, work: Workspace) -> None:
        """Each search's own mistakes, and methods whose levels are not what two trainings here would be."""
        if work.splits.test is None:
            raise TombolaError("the data has no test split, which barriers are measured on; give data with one")
        for index in range(len(self.arms)):
            request = self._search(index)
            try:
                validate(request, work.splits, work.progress, work.starts)
            except TombolaError as error:
                raise TombolaError(f"from_steps names {self.plan.from_steps[index]}: {error}") from None
            _check_plain(request.method)
            start = start_from(request.model, work.splits, seed=request.seed, method=request.method)
            planned = [0, *(request.method.planned_levels(start.network()) or ())]
            unknown = [level for level in self.plan.at_levels or () if level not in planned]
            if unknown:
                raise TombolaError(
                    f"at_levels names level {unknown[0]}, but the search has levels {', '.join(map(str, planned))}; "
                    "name some of those"
                )
        steps: dict[int, str] = {}
        for index, text in enumerate(self.plan.from_steps):
            step = self._step(index, work.splits)
            if step in steps:
                raise TombolaError(f"from_steps names iteration {step} twice: {steps[step]} and {text}; give it once")
            steps[step] = text

    def _search(self, index: int) -> Request:
        arm = self.arms[index]
        return replace(self.request, method=arm.method, recipe=arm.recipe)

    def _step(self, index: int, splits: Splits) -> int:
        recipe = self.arms[index].recipe
        epoch = steps_per_epoch(len(splits.train), recipe.batch_size)
        return Rewind.parse(self.plan.from_steps[index]).step(epoch, steps(recipe.length, epoch))

    def _setup(self, work: Workspace, index: int) -> TrainingSetup:
        request = self._search(index)
        return training_setup(work, request.recipe, request.options)

    # -- the trainings

    def compute(self, work: Workspace) -> ConnectivityResult:
        every = [(search, index) for search in range(len(self.arms)) for index in range(self.request.replicates)]
        pairs: list[_Pair] = []
        for (search, replicate), levels in work.map(self.search, every, "searches"):
            wanted = self.plan.at_levels or (0, levels[-1].level)
            for level in levels:
                if level.level in wanted:
                    names = (WINNER, *self.plan.controls) if level.level else (DENSE,)
                    pairs += [_Pair(search, replicate, name, level.level, level.ticket or "") for name in names]
        if REINIT in self.plan.controls:
            late = [(search, index) for search, index in every if self._step(search, work.splits)]
            for _ in work.map(self.other_start, late, "other initialisations"):
                pass
        found = dict(work.map(self.train_pair, pairs, "pairs"))
        return self._result(work.splits, found)

    def search(self, work: Workspace, job: tuple[int, int]) -> list[LevelResult]:
        """The levels of one search, given by the number of its step and the replicate."""
        index, replicate = job
        request = self._search(index)
        levels = search_replicate(request, work, replicate, prefix=self._folder(index, replicate))
        return [level.result for level in levels]

    def _folder(self, index: int, replicate: int) -> str:
        return f"{self.arms[index].folder}/replicate-{replicate}"

    def other_start(self, work: Workspace, job: tuple[int, int]) -> LevelResult:
        """Another initialisation trained, dense, to the step at which the two trainings part."""
        index, replicate = job
        setup, start = self._setup(work, index), self._start(work, index, replicate)
        network = self._redrawn(index, replicate, start)
        whole = Mask.full(prunable(network, *self._patterns(index)))
        name, hooks = self._other_name(index, replicate), (StopAt(self._step(index, work.splits)),)
        seed = replicate_seed(self.request.seed, replicate)
        return trained(work, setup, Begin(network, whole, start), name, seed=seed, hooks=hooks)

    def _patterns(self, index: int) -> tuple[Sequence[str], Sequence[str]]:
        method = self.arms[index].method
        return method.include, method.exclude

    def _other_name(self, index: int, replicate: int) -> str:
        return f"{self._folder(index, replicate)}/{REINIT}-start-00"

    def _start(self, work: Workspace, index: int, replicate: int) -> Start:
        seed = replicate_seed(self.request.seed, replicate)
        return start_from(self.request.model, work.splits, seed=seed, method=self.arms[index].method)

    def _redrawn(self, index: int, replicate: int, start: Start) -> nn.Module:
        names = prunable(start.network(), *self._patterns(index))
        seed = derive(replicate_seed(self.request.seed, replicate), REINIT)
        return redrawn(start.origin, names, seed, start.architecture, start.trusted)

    def _network(self, work: Workspace, pair: _Pair, start: Start) -> nn.Module:
        """What both trainings begin with, unmasked: the network at the step, or another at the same step."""
        step = self._step(pair.search, work.splits)
        if pair.arm == REINIT and step:
            other = work.folder / self._other_name(pair.search, pair.replicate) / TICKET
            return Ticket.load(other, max_weights=UNLIMITED).build(model=start.architecture, trusted=start.trusted)
        if pair.arm == REINIT:
            return self._redrawn(pair.search, pair.replicate, start)
        network = start.network()
        if step:
            file = work.folder / self._folder(pair.search, pair.replicate) / DENSE_LEVEL / REWIND
            network.load_state_dict(load_snapshot(file).model)
        return network

    def train_pair(self, work: Workspace, pair: _Pair) -> PairFound:
        """Both trainings, and the line between their ends."""
        start, seed = self._start(work, pair.search, pair.replicate), replicate_seed(self.request.seed, pair.replicate)
        method, setup = self.arms[pair.search].method, self._setup(work, pair.search)
        if pair.level and isinstance(method, IterativePruning):
            setup = retraining(setup, method.retrain)
        ticket = Ticket.load(work.folder / pair.ticket, max_weights=UNLIMITED)
        drawn = derive(seed, RANDOM, pair.search, pair.level)
        mask = random_mask(ticket, drawn) if pair.arm == RANDOM else ticket.mask
        network, step = self._network(work, pair, start), self._step(pair.search, work.splits)
        begin = Begin(network, mask, start, step, pair.level, held=pair.arm != DENSE)
        place = f"{self._folder(pair.search, pair.replicate)}/{pair.arm}"
        names = [f"{place}-{order}-{pair.level:02d}" for order in ("a", "b")]
        ends = [
            trained(work, setup, begin, name, seed=derive(seed, "order", number)).ticket or ""
            for number, name in enumerate(names)
        ]
        stage = Stage(work.folder / "lines" / names[0].replace("/", "-").replace("-a-", "-"))
        line = recovered(Line, stage)
        if line is None:
            networks = [
                Ticket.load(work.folder / end, max_weights=UNLIMITED).build(
                    model=start.architecture, trusted=start.trusted
                )
                for end in ends
            ]
            line = line_between(setup, *networks, points=self.plan.points, seed=derive(seed, "line"))
            stage.finish(line.as_dict())
        return PairFound(mask.density, (ends[0], ends[1]), line)

    # -- the result

    def _result(self, splits: Splits, found: Mapping[_Pair, PairFound]) -> ConnectivityResult:
        request, count = self.request, self.request.replicates
        steps = [self._step(index, splits) for index in range(len(self.arms))]
        grouped: dict[tuple[int, int, str], list[PairFound]] = {}
        for pair, made in found.items():
            grouped.setdefault((pair.search, pair.level, pair.arm), []).append(made)
        pairs = tuple(connected(arm, steps[index], level, made) for (index, level, arm), made in grouped.items())
        differences = tuple(
            difference(ticket, control)
            for ticket in pairs
            if ticket.arm == WINNER
            for control in pairs
            if control.arm in self.plan.controls
            and (control.from_step, control.level) == (ticket.from_step, ticket.level)
        )
        network = start_from(request.model, splits, seed=request.seed, method=request.method).network()
        total = Mask.full(prunable(network, request.method.include, request.method.exclude)).total
        return ConnectivityResult(
            **study_fields(request, splits),
            method=request.method.name,
            options=as_plain(request.method),
            recipe=as_plain(request.recipe),
            parameters=parameters(request, splits, total),
            points=self.plan.points,
            from_steps=tuple(steps),
            pairs=pairs,
            differences=differences,
            sentence=sentence(pairs, splits.task.metric_name),
            intervals=intervals_in_words(count, ", differences paired by replicate"),
            note=NOTE,
        )


def _check_plain(method: Method) -> None:
    """TombolaError unless a level is a training of rewound weights under a mask, which a second one can repeat."""
    if not isinstance(method, IterativePruning):
        raise TombolaError(f"method {method.name} has no levels to rewind; connectivity is for imp")
    plain = {"kept_action": "rewind", "pruned_action": "zero", "norm_interpolation": False, "stop_when_stable": False}
    for name, value in plain.items():
        given = getattr(method, name)
        if given != value:
            raise TombolaError(
                f"{name} is {given}, but both trainings begin with rewound weights, pruned ones at 0, and run to the "
                f"end; leave it at {value}"
            )
