"""Comparisons of arms: every method with its own recipe, over the same seeds, with intervals and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.levels.search import Level
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.comparison import ArmContrast, ArmDifference, ComparedArm, ComparisonResult, CoveredDifference
from tombola.results.crossed import Sample, crossed_difference, crossed_paired
from tombola.results.record import Figure, Parameters
from tombola.results.statistics import FEWEST_REPLICATES, difference, figure
from tombola.results.trial import LevelResult
from tombola.results.verification import SEEDS, SEEDS_AND_EXAMPLES, SeedsAlone
from tombola.runs.record import shared
from tombola.search.describe import describe, describe_training
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, search_replicate, validate
from tombola.search.request import Request, as_data, as_model, name_of_model
from tombola.study.intervals import intervals_in_words
from tombola.study.measured import study_fields
from tombola.study.setting import Arm, Setting, check_arms
from tombola.ticket.origin import Origin
from tombola.ticket.tensors import hash_state
from tombola.train.options import Options
from tombola.train.outcomes import read_outcomes

__all__ = ["UNTUNED", "Arm", "Setting", "run_comparison"]

UNTUNED = "The learning rates are as given or preset: they have not been tuned for each arm."


@dataclass(frozen=True)
class Searched:
    """One replicate of one arm: its levels, and the hash of the weights it began with."""

    levels: tuple[LevelResult, ...]
    origin: str

    @classmethod
    def of(cls, levels: Sequence[Level]) -> Searched:
        """What a search gave; a later level may begin elsewhere (rewinding), all of them began with the first's."""
        return cls(tuple(level.result for level in levels), _hash(levels[0].ticket.origin))


def run_comparison(
    study: str,
    arms: Sequence[Arm],
    model: nn.Module | ModelSpec | str,
    data: Any,
    out: str | Path,
    *,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
    note: str = UNTUNED,
    summary: str = "",
) -> ComparisonResult:
    """Search with every arm `replicates` times, in a run directory under `out`; gives the result and its `run`.

    In one replicate all arms share the seed, and so data order and, but for methods that draw their own, initial
    weights. An arm is judged by its last level, against the arm that it names or the first. Stages lie in
    `<run>/<arm>/replicate-<r>/`; finished ones are found again.

    Args:
        study: what the run is called.
        arms: the first one is what those are compared with that name no other (`against`).
        note: whether every arm has its own tuned learning rate; shown in the result and on the page.
        summary: what the study asks, in one line; shown like the note.
        jobs: processes that share the searches out (model and data given by name).

    Raises:
        TombolaError: an arm cannot work on this network and data; raised before anything is trained.
    """
    check_arms(arms)
    spec, source = as_model(model), as_data(data, model)
    first = Request(spec, source, arms[0].method, arms[0].recipe, seed, replicates, options or Options())
    return run(_Comparison(first, study, tuple(arms), note, summary), Path(out), jobs)


@dataclass(frozen=True)
class _Comparison(Experiment[Request, ComparisonResult]):
    """`request`: the first arm's."""

    result = ComparisonResult

    study: str
    arms: tuple[Arm, ...]
    note: str
    summary: str = ""

    def label(self, splits: Splits) -> str:
        return f"{self.study}-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        described = describe(self.request, splits)
        return {
            "study": self.study,
            **{part: described[part] for part in ("model", "data", "task")},
            "arms": [{"name": arm.name, **describe_training(arm.method, arm.recipe)} for arm in self.arms],
            "seed": self.request.seed,
            "replicates": self.request.replicates,
        }

    def check(self, work: Workspace) -> None:
        for arm in self.arms:
            check_arm(arm, self.request, work)

    def compute(self, work: Workspace) -> ComparisonResult:
        searches: list[list[Searched]] = [[] for _ in self.arms]
        own = [place for place, arm in enumerate(self.arms) if arm.dense is None]
        others = [place for place, arm in enumerate(self.arms) if arm.dense is not None]
        for places in (own, others):  # those that prune another's dense network find it finished
            # replicate by replicate, so that a killed study has whole comparisons
            jobs = [(place, index) for index in range(self.request.replicates) for place in places]
            for (place, _), searched in work.map(self.search, jobs, "searches") if jobs else ():
                searches[place].append(searched)
        counted = parameters(self.request, work.splits, searches[0][0].levels[-1].total)
        return self._result(work, searches, counted)

    def search(self, work: Workspace, job: tuple[int, int]) -> Searched:
        """One replicate of one arm, both by their index."""
        arm = self.arms[job[0]]
        shared = next((other for other in self.arms if other.name == arm.dense), None)
        levels = search_arm(arm, self.request, work, job[1], shared)
        return Searched.of(levels)

    def renewed(self, work: Workspace, result: ComparisonResult) -> ComparisonResult:
        return self._result(work, [_searched(arm) for arm in result.arms], result.parameters)

    def _result(
        self, work: Workspace, searches: Sequence[Sequence[Searched]], counted: Parameters | None
    ) -> ComparisonResult:
        outcomes = [outcomes_of(work.folder, replicates) for replicates in searches]
        found = summarise(self.arms, searches, outcomes)
        return comparison_of(self.request, work.splits, found, counted).replace(
            study=self.study, note=self.note, summary=self.summary
        )


def comparison_of(request: Request, splits: Splits, found: Summary, counted: Parameters | None) -> ComparisonResult:
    """A comparison's result, its study and remarks left open."""
    return ComparisonResult(
        **study_fields(request, splits),
        study="",
        recipe=shared([arm.recipe or {} for arm in found.arms]),
        parameters=counted,
        arms=found.arms,
        comparisons=found.comparisons,
        intervals=found.intervals,
        note="",
    )


def check_arm(arm: Arm, request: Request, work: Workspace) -> None:
    """`validate` of an arm's search, model, data and seeds being the request's; errors name the arm."""
    try:
        validate(_of_arm(arm, request), work.splits, work.progress)
    except TombolaError as error:
        raise TombolaError(f"arm {arm.name!r}: {error}") from None


def search_arm(arm: Arm, request: Request, work: Workspace, replicate: int, dense: Arm | None = None) -> list[Level]:
    """One replicate of an arm's search, in the arm's folder; paths are relative to the study's directory.

    `dense`: the finished arm whose level 0 it begins with.
    """
    request = _of_arm(arm, request)
    if dense is None:
        levels = search_replicate(request, replace(work, directory=work.folder / arm.folder), replicate)
        return [replace(level, result=_under(arm.folder, level.result)) for level in levels]
    own, theirs = (f"{one.folder}/replicate-{replicate}" for one in (arm, dense))
    first, *levels = search_replicate(request, work, replicate, prefix=own, dense=theirs)
    return [replace(first, result=_under(dense.folder, first.result)), *levels]


def _of_arm(arm: Arm, request: Request) -> Request:
    return replace(request, method=arm.method, recipe=arm.recipe)


def _under(folder: str, level: LevelResult) -> LevelResult:
    ticket = level.ticket and f"{folder}/{level.ticket}"
    return level.replace(metrics=f"{folder}/{level.metrics}", ticket=ticket)


def _hash(origin: Origin) -> str:
    return origin.weights_hash or hash_state(origin.views())


def _searched(arm: ComparedArm) -> list[Searched]:
    """An arm's replicates as a finished result holds them."""
    return [Searched(*pair) for pair in zip(arm.replicates, arm.origins, strict=True)]


Outcomes: TypeAlias = NDArray[np.float32]
"""The test metric of every example, (replicates, examples)."""


def outcomes_of(directory: Path, replicates: Sequence[Searched]) -> Outcomes | None:
    """The outcomes of an arm's last levels; None unless they were kept for every replicate, one by one and finite."""
    kept = [read_outcomes((directory / searched.levels[-1].metrics).parent) for searched in replicates]
    known = [values.numpy() for values in kept if values is not None]
    return np.stack(known) if len(known) == len(kept) and np.isfinite(known).all() else None


@dataclass(frozen=True)
class Summary:
    """Every arm's figures, their differences from another's, and in words what the intervals are over."""

    arms: tuple[ComparedArm, ...]
    comparisons: tuple[ArmContrast, ...]
    intervals: str


def summarise(
    arms: Sequence[Arm],
    searches: Sequence[Sequence[Searched]],
    outcomes: Sequence[Outcomes | None] | None = None,
) -> Summary:
    """Every arm's figures, and its differences from the arm that it names (`against`), or from the first.

    Differences in the test metric cover test examples too where both arms' `outcomes` are known; all other intervals
    are over the searches alone.
    """
    described = [_describe_arm(arm, replicates) for arm, replicates in zip(arms, searches, strict=True)]
    count, known = len(searches[0]), outcomes or [None] * len(arms)
    places = {arm.name: place for place, arm in enumerate(arms)}
    compared = []
    for place, arm in enumerate(arms[1:], 1):
        other = 0 if arm.against is None else places[arm.against]
        own, others = known[place], known[other]
        both = None if own is None or others is None else (own, others)
        compared.append(_compare(described[place], described[other], both))
    crossed = any(item.test_accuracy.covers == SEEDS_AND_EXAMPLES for item in compared)
    more = "; of differences in the test metric, over training seeds and test examples" if crossed else ""
    return Summary(tuple(described), tuple(compared), intervals_in_words(count, more))


def _describe_arm(arm: Arm, replicates: Sequence[Searched]) -> ComparedArm:
    last = [searched.levels[-1] for searched in replicates]
    val, trained = [level.val_accuracy for level in last], [level.train_accuracy_eval for level in last]
    test = [level.test_accuracy for level in last]
    return ComparedArm(
        name=arm.name,
        family=arm.family,
        method=arm.method.name,
        options=as_plain(arm.method),
        density=fmean(level.density for level in last),
        prunable=last[0].total,
        plot_density=arm.density,
        recipe=as_plain(arm.recipe),
        replicates=tuple(searched.levels for searched in replicates),
        origins=tuple(searched.origin for searched in replicates),
        test_accuracy=figure(test),
        val_accuracy=figure(val),
        train_accuracy_eval=figure(trained),
        train_accuracy=figure([level.train_accuracy for level in last]),
        # both in evaluation mode, on unaugmented examples: a running mean of training is of other networks
        gap=figure(_minus(trained, val)),
        shift=figure(_minus(val, test)),
        test_accuracy_sampled=_where_there([level.test_accuracy_sampled for level in last]),
        val_accuracy_sampled=_where_there([level.val_accuracy_sampled for level in last]),
        bits_per_weight=_where_there([level.bits_per_weight for level in last]),
    )


def _where_there(values: Sequence[float | None]) -> Figure | None:
    """A figure that only some methods' levels hold."""
    return figure(values) if any(value is not None for value in values) else None


def _minus(first: Sequence[float | None], second: Sequence[float | None]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(first, second, strict=True)]


def _compare(arm: ComparedArm, first: ComparedArm, outcomes: tuple[Outcomes, Outcomes] | None) -> ArmContrast:
    """`arm` minus `first` in every figure both have: paired where all replicates began with the same weights.

    Paired differences have Student's t-interval of their mean, others Welch's. That of the test metric is over seeds
    and test examples where `outcomes` are given, with the interval over seeds alone beside.
    """
    paired = arm.origins == first.origins

    def both(own: Figure | None, other: Figure | None) -> ArmDifference | None:
        return None if own is None or other is None else _difference(own, other, paired)

    tested = _difference(arm.test_accuracy, first.test_accuracy, paired)
    bounds, covers = tested.interval, SEEDS
    if outcomes is not None and tested.interval is not None:
        own, others = outcomes
        whole = crossed_paired(own, others) if paired else crossed_difference(Sample.of(own), Sample.of(others))
        bounds, covers = whole.interval, SEEDS_AND_EXAMPLES
    return ArmContrast(
        arm=arm.name,
        against=first.name,
        paired=paired,
        test_accuracy=CoveredDifference(
            difference=tested.difference,
            interval=bounds,
            covers=covers,
            seeds_alone=SeedsAlone(interval=tested.interval),
        ),
        val_accuracy=_difference(arm.val_accuracy, first.val_accuracy, paired),
        train_accuracy_eval=_difference(arm.train_accuracy_eval, first.train_accuracy_eval, paired),
        train_accuracy=_difference(arm.train_accuracy, first.train_accuracy, paired),
        gap=_difference(arm.gap, first.gap, paired),
        shift=_difference(arm.shift, first.shift, paired),
        test_accuracy_sampled=both(arm.test_accuracy_sampled, first.test_accuracy_sampled),
        val_accuracy_sampled=both(arm.val_accuracy_sampled, first.val_accuracy_sampled),
        bits_per_weight=both(arm.bits_per_weight, first.bits_per_weight),
    )


def _difference(own: Figure, other: Figure, paired: bool) -> ArmDifference:
    if paired:
        changes = figure(_minus(own.values, other.values))
        return ArmDifference(difference=changes.mean, interval=changes.interval)
    if not own.known or not other.known:
        return ArmDifference(difference=None, interval=None)
    welch = difference(own.known, other.known)
    enough = min(len(own.known), len(other.known)) >= FEWEST_REPLICATES
    return ArmDifference(difference=welch.difference, interval=welch.interval if enough else None)
