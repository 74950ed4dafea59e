"""Comparisons of arms: every method with its own recipe, over the same seeds, with intervals and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from tombola.results.crossed import Sample, crossed_difference, crossed_paired
from tombola.results.statistics import FEWEST_REPLICATES, difference, figure
from tombola.results.trial import LevelResult
from tombola.results.verification import SEEDS, SEEDS_AND_EXAMPLES
from tombola.runs.record import named, shared
from tombola.search.describe import describe, describe_training
from tombola.search.driver import Experiment, Workspace, run
from tombola.search.find import parameters, replicate_seed, search_replicate, validate
from tombola.search.request import Request, as_data, name_of_model
from tombola.study.setting import Arm, Setting, check_arms
from tombola.ticket.origin import Origin
from tombola.ticket.tensors import hash_state
from tombola.train.options import Options
from tombola.train.outcomes import read_outcomes

__all__ = ["UNTUNED", "Arm", "Setting", "run_comparison"]

UNTUNED = "The learning rates are as given or preset: they have not been tuned for each arm."
FIGURES = ("test_accuracy", "val_accuracy", "train_accuracy_eval", "train_accuracy")
WHERE_THERE = ("test_accuracy_sampled", "val_accuracy_sampled", "bits_per_weight")
"""Figures that only some methods' levels hold."""


@dataclass(frozen=True)
class Searched:
    """One replicate of one arm: its levels as run JSON holds them, and the hash of the weights it began with."""

    levels: list[dict[str, Any]]
    origin: str


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
) -> dict[str, Any]:
    """Search with every arm `replicates` times, in a run directory under `out`; gives the result and its `run`.

    In one replicate all arms share the seed, and so data order and, but for methods that draw their own, initial
    weights. An arm is judged by its last level. Stages lie in `<run>/<arm>/replicate-<r>/`; finished ones are
    found again.

    Args:
        study: what the run is called.
        arms: the first one is what all others are compared with.
        note: whether every arm has its own tuned learning rate; shown in the result and on the page.
        jobs: processes that share the searches out (model and data given by name).

    Raises:
        TombolaError: an arm cannot work on this network and data; raised before anything is trained.
    """
    check_arms(arms)
    spec, source = ModelSpec(model) if isinstance(model, str) else model, as_data(data, model)
    first = Request(spec, source, arms[0].method, arms[0].recipe, seed, replicates, options or Options())
    done = run(_Comparison(first, study, tuple(arms), note), Path(out), jobs)
    return {**done.about, **done.result}


@dataclass(frozen=True)
class _Comparison(Experiment[Request]):
    """`request`: the first arm's."""

    study: str
    arms: tuple[Arm, ...]
    note: str

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

    def compute(self, work: Workspace) -> dict[str, Any]:
        # replicate by replicate, so that a killed study has whole comparisons
        jobs = [(arm, index) for index in range(self.request.replicates) for arm in range(len(self.arms))]
        searches: list[list[Searched]] = [[] for _ in self.arms]
        for (arm, _), searched in work.map(self.search, jobs, "searches"):
            searches[arm].append(searched)
        counted = parameters(self.request, work.splits, searches[0][0].levels[-1]["total"])
        return self._result(work.splits, work.folder, searches, counted.as_dict())

    def search(self, work: Workspace, job: tuple[int, int]) -> Searched:
        """One replicate of one arm, both by their index."""
        levels = search_arm(self.arms[job[0]], self.request, work, job[1])
        return Searched([level.result.as_dict() for level in levels], _hash(levels[0].ticket.origin))

    def renewed(self, work: Workspace, result: Mapping[str, Any]) -> dict[str, Any]:
        searches = [_searched(arm) for arm in result["arms"]]
        return named(self._result(work.splits, work.folder, searches, result.get("parameters")))

    def _result(
        self,
        splits: Splits,
        directory: Path,
        searches: Sequence[Sequence[Searched]],
        counted: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        request = self.request
        return {
            "kind": "study",
            "study": self.study,
            "model": name_of_model(request.model),
            "data": splits.name,
            "metric": splits.task.metric_name,
            "higher_is_better": splits.task.higher_is_better,
            "input_shape": list(splits.input_shape),
            "replicates": request.replicates,
            "seeds": [replicate_seed(request.seed, index) for index in range(request.replicates)],
            "recipe": shared([as_plain(arm.recipe) for arm in self.arms]),
            "parameters": counted,
            **summarise(self.arms, searches, [_outcomes(directory, replicates) for replicates in searches]),
            "note": self.note,
        }


def check_arm(arm: Arm, request: Request, work: Workspace) -> None:
    """`validate` of an arm's search, model, data and seeds being the request's; errors name the arm."""
    try:
        validate(_of_arm(arm, request), work.splits, work.progress)
    except TombolaError as error:
        raise TombolaError(f"arm {arm.name!r}: {error}") from None


def search_arm(arm: Arm, request: Request, work: Workspace, replicate: int) -> list[Level]:
    """One replicate of an arm's search, in the arm's folder; paths are relative to the study's directory."""
    levels = search_replicate(_of_arm(arm, request), replace(work, directory=work.folder / arm.folder), replicate)
    return [replace(level, result=_under(arm.folder, level.result)) for level in levels]


def _of_arm(arm: Arm, request: Request) -> Request:
    return replace(request, method=arm.method, recipe=arm.recipe)


def _under(folder: str, level: LevelResult) -> LevelResult:
    ticket = level.ticket and f"{folder}/{level.ticket}"
    return level.replace(metrics=f"{folder}/{level.metrics}", ticket=ticket)


def _hash(origin: Origin) -> str:
    return origin.weights_hash or hash_state(origin.views())


def _searched(arm: Mapping[str, Any]) -> list[Searched]:
    """An arm's replicates as a finished result holds them."""
    return [Searched(*pair) for pair in zip(arm["replicates"], arm["origins"], strict=True)]


Outcomes: TypeAlias = NDArray[np.float32]
"""The test metric of every example, (replicates, examples)."""


def _outcomes(directory: Path, replicates: Sequence[Searched]) -> Outcomes | None:
    """The outcomes of an arm's last levels; None unless they were kept for every replicate, one by one and finite."""
    kept = [read_outcomes((directory / str(searched.levels[-1]["metrics"])).parent) for searched in replicates]
    known = [values.numpy() for values in kept if values is not None]
    return np.stack(known) if len(known) == len(kept) and np.isfinite(known).all() else None


def summarise(
    arms: Sequence[Arm],
    searches: Sequence[Sequence[Searched]],
    outcomes: Sequence[Outcomes | None] | None = None,
) -> dict[str, Any]:
    """Every arm's figures, and its differences from the first arm, as the result's JSON holds them.

    Differences in the test metric cover test examples too where both arms' `outcomes` are known; all other intervals
    are over the searches alone.
    """
    described = [_describe_arm(arm, replicates) for arm, replicates in zip(arms, searches, strict=True)]
    count, known = len(searches[0]), outcomes or [None] * len(arms)
    compared = [
        _compare(arm, described[0], None if own is None or known[0] is None else (own, known[0]))
        for arm, own in zip(described[1:], known[1:], strict=True)
    ]
    text = f"95 % t-intervals over {count} replicates"
    if any(item["test_accuracy"]["covers"] == SEEDS_AND_EXAMPLES for item in compared):
        text += "; of differences in the test metric, over training seeds and test examples"
    if count < FEWEST_REPLICATES:
        text = f"no intervals: they need at least {FEWEST_REPLICATES} replicates, and there are {count}"
    return {"arms": described, "comparisons": compared, "intervals": text}


def _describe_arm(arm: Arm, replicates: Sequence[Searched]) -> dict[str, Any]:
    last = [searched.levels[-1] for searched in replicates]
    measured = {name: [level.get(name) for level in last] for name in (*FIGURES, *WHERE_THERE)}
    return {
        "name": arm.name,
        "family": arm.family,
        "method": arm.method.name,
        "options": as_plain(arm.method),
        "density": fmean(level["density"] for level in last),
        "prunable": last[0].get("total"),
        "plot_density": arm.density,
        "recipe": as_plain(arm.recipe),
        "replicates": [searched.levels for searched in replicates],
        "origins": [searched.origin for searched in replicates],
        **{name: figure(measured[name]) for name in FIGURES},
        # Both in evaluation mode, on unaugmented examples: a running mean of training is of other networks.
        "gap": figure(_minus(measured["train_accuracy_eval"], measured["val_accuracy"])),
        "shift": figure(_minus(measured["val_accuracy"], measured["test_accuracy"])),
        **{name: figure(measured[name]) for name in WHERE_THERE if any(v is not None for v in measured[name])},
    }


def _minus(first: Sequence[float | None], second: Sequence[float | None]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(first, second, strict=True)]


def _compare(
    arm: Mapping[str, Any], first: Mapping[str, Any], outcomes: tuple[Outcomes, Outcomes] | None
) -> dict[str, Any]:
    """`arm` minus `first` in every figure both have: paired where all replicates began with the same weights.

    Paired differences have Student's t-interval of their mean, others Welch's. That of the test metric is over seeds
    and test examples where `outcomes` are given, with the interval over seeds alone beside.
    """
    paired = arm["origins"] == first["origins"]
    shared = [name for name in (*FIGURES, "gap", "shift", *WHERE_THERE) if name in arm and name in first]
    differences = {name: _difference(arm[name]["values"], first[name]["values"], paired) for name in shared}
    tested = differences["test_accuracy"]
    tested |= {"covers": SEEDS, "seeds_alone": {"interval": tested["interval"]}}
    if outcomes is not None and tested["interval"] is not None:
        own, others = outcomes
        whole = crossed_paired(own, others) if paired else crossed_difference(Sample.of(own), Sample.of(others))
        tested |= {"interval": list(whole.interval) if whole.interval else None, "covers": SEEDS_AND_EXAMPLES}
    return {"arm": arm["name"], "against": first["name"], "paired": paired, **differences}


def _difference(first: Sequence[float | None], second: Sequence[float | None], paired: bool) -> dict[str, Any]:
    if paired:
        paired_difference = figure(_minus(first, second))
        return {"difference": paired_difference["mean"], "interval": paired_difference["interval"]}
    a, b = ([value for value in values if value is not None] for values in (first, second))
    if not a or not b:
        return {"difference": None, "interval": None}
    welch = difference(a, b)
    bounds = welch.interval if min(len(a), len(b)) >= FEWEST_REPLICATES else None
    return {"difference": welch.difference, "interval": list(bounds) if bounds else None}
