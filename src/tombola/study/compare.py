"""Comparisons of arms: every method with its own recipe, over the same seeds, with intervals and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.crossed import Sample, crossed_difference, crossed_paired
from tombola.results.statistics import FEWEST_REPLICATES, difference, figure
from tombola.runs.carry import Order, carry_out, check_out
from tombola.runs.jobs import limit_threads, map_jobs
from tombola.runs.progress import Progress, show_progress
from tombola.runs.record import named, shared
from tombola.search.describe import describe, describe_training
from tombola.search.find import machine, parameters, replicate_seed, search, validate
from tombola.search.request import Request, as_data, check_jobs, loaded, name_of_model
from tombola.study.setting import Arm, Setting, check_arms
from tombola.study.verdict import SEEDS, SEEDS_AND_EXAMPLES
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
        note: whether every arm has its own tuned learning rate; it stands in the result and on the page.
        jobs: processes that share the searches out (model and data given by name).

    Raises:
        TombolaError: an arm cannot work on this network and data, which is told before anything is trained.
    """
    check_arms(arms)
    spec, source = ModelSpec(model) if isinstance(model, str) else model, as_data(data, model)
    jobs = check_jobs(jobs, spec, source)
    check_out(Path(out))
    options = options or Options()
    with show_progress(options.progress) as progress:
        splits = loaded(source, progress)
        requests = [Request(spec, source, arm.method, arm.recipe, seed, replicates, options) for arm in arms]

        def config() -> dict[str, Any]:
            splits.identify(progress.track)
            described = describe(requests[0], splits)
            return {
                "study": study,
                **{part: described[part] for part in ("model", "data", "task")},
                "arms": [{"name": arm.name, **describe_training(arm.method, arm.recipe)} for arm in arms],
                "seed": seed,
                "replicates": replicates,
            }

        def result_of(
            directory: Path, searches: Sequence[Sequence[Searched]], counted: Mapping[str, Any] | None
        ) -> dict[str, Any]:
            return {
                "kind": "study",
                "study": study,
                "model": name_of_model(spec),
                "data": splits.name,
                "metric": splits.task.metric_name,
                "higher_is_better": splits.task.higher_is_better,
                "input_shape": list(splits.input_shape),
                "replicates": replicates,
                "seeds": [replicate_seed(seed, index) for index in range(replicates)],
                "recipe": shared([as_plain(arm.recipe) for arm in arms]),
                "parameters": counted,
                **summarise(arms, searches, [_outcomes(directory, found) for found in searches]),
                "note": note,
            }

        def work(directory: Path) -> dict[str, Any]:
            with limit_threads(options.threads):
                searches = _search_all(arms, requests, splits, directory, jobs, progress)
            counted = parameters(requests[0], splits, searches[0][0].levels[-1]["total"])
            return result_of(directory, searches, counted.as_dict())

        label = f"{study}-{name_of_model(spec)}-{splits.name}"
        order = Order(Path(out), label, "study", machine(options, jobs), options.force)
        done = carry_out(order, config, lambda: _validate_all(arms, requests, splits, progress), work, progress)
        # series and note are not science: they may change without new training
        result = named(
            result_of(done.directory, [_searched(arm) for arm in done.result["arms"]], done.result.get("parameters"))
        )
        if result != done.result:
            with order.open(config()) as run:
                run.finish(result)
        return {**done.about, **result}


def _validate_all(arms: Sequence[Arm], requests: Sequence[Request], splits: Splits, progress: Progress) -> None:
    for arm, request in zip(arms, requests, strict=True):
        try:
            validate(request, splits, progress)
        except TombolaError as error:
            raise TombolaError(f"arm {arm.name!r}: {error}") from None


@dataclass(frozen=True)
class _Job:
    request: Request
    directory: Path
    folder: str
    replicate: int


def _search_all(
    arms: Sequence[Arm], requests: Sequence[Request], splits: Splits, directory: Path, jobs: int, progress: Progress
) -> list[list[Searched]]:
    """Every arm's replicates; replicate by replicate, so that a killed study has whole comparisons."""
    items = [
        _Job(request, directory, arm.folder, replicate)
        for replicate in range(requests[0].replicates)
        for arm, request in zip(arms, requests, strict=True)
    ]
    found: list[list[Searched]] = [[] for _ in arms]
    with progress.track("searches", len(items)) as update:
        for index, searched in enumerate(map_jobs(_search, items, jobs, progress=progress, splits=splits)):
            found[index % len(arms)].append(searched)
            update(index + 1)
    return found


def _search(job: _Job, progress: Progress | None = None, splits: Splits | None = None) -> Searched:
    levels = search(job.request, progress, splits=splits, directory=job.directory / job.folder, replicate=job.replicate)
    return Searched(
        [_under(job.folder, level.result.as_dict()) for level in levels],
        _hash(levels[0].ticket.origin),
    )


def _under(folder: str, level: Mapping[str, Any]) -> dict[str, Any]:
    """A level whose paths are relative to the study's directory instead of the arm's."""
    return {**level, **{part: f"{folder}/{level[part]}" for part in ("metrics", "ticket") if level.get(part)}}


def _hash(origin: Origin) -> str:
    return origin.weights_hash or hash_state(origin.views())


def _searched(arm: Mapping[str, Any]) -> list[Searched]:
    """An arm's replicates as a finished result holds them."""
    return [Searched(*pair) for pair in zip(arm["replicates"], arm["origins"], strict=True)]


Outcomes: TypeAlias = NDArray[np.float32]
"""The test metric of every example, (replicates, examples)."""


def _outcomes(directory: Path, found: Sequence[Searched]) -> Outcomes | None:
    """The outcomes of an arm's last levels; None unless they were kept for every replicate, one by one and finite."""
    kept = [read_outcomes((directory / str(searched.levels[-1]["metrics"])).parent) for searched in found]
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
    described = [_describe_arm(arm, found) for arm, found in zip(arms, searches, strict=True)]
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


def _describe_arm(arm: Arm, found: Sequence[Searched]) -> dict[str, Any]:
    last = [searched.levels[-1] for searched in found]
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
        "replicates": [searched.levels for searched in found],
        "origins": [searched.origin for searched in found],
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
    found = {name: _difference(arm[name]["values"], first[name]["values"], paired) for name in shared}
    tested = found["test_accuracy"]
    tested |= {"covers": SEEDS, "seeds_alone": {"interval": tested["interval"]}}
    if outcomes is not None and tested["interval"] is not None:
        own, others = outcomes
        whole = crossed_paired(own, others) if paired else crossed_difference(Sample.of(own), Sample.of(others))
        tested |= {"interval": list(whole.interval) if whole.interval else None, "covers": SEEDS_AND_EXAMPLES}
    return {"arm": arm["name"], "against": first["name"], "paired": paired, **found}


def _difference(first: Sequence[float | None], second: Sequence[float | None], paired: bool) -> dict[str, Any]:
    if paired:
        found = figure(_minus(first, second))
        return {"difference": found["mean"], "interval": found["interval"]}
    a, b = ([value for value in values if value is not None] for values in (first, second))
    if not a or not b:
        return {"difference": None, "interval": None}
    welch = difference(a, b)
    bounds = welch.interval if min(len(a), len(b)) >= FEWEST_REPLICATES else None
    return {"difference": welch.difference, "interval": list(bounds) if bounds else None}
