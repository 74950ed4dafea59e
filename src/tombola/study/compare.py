"""Comparisons of arms: every method with its own recipe, over the same seeds, with intervals and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.methods.describe import describe, describe_training
from tombola.methods.find import machine, parameters, replicate_seed, search, validate
from tombola.methods.request import Request, as_data, check_jobs, loaded, name_of_model
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.runs.carry import Order, carry_out
from tombola.runs.jobs import limit_threads, map_jobs
from tombola.runs.record import named, shared
from tombola.study.setting import Arm, Setting, check_arms
from tombola.study.statistics import FEWEST_REPLICATES, difference, figure
from tombola.ticket.origin import Origin
from tombola.ticket.tensors import hash_state
from tombola.train.options import Options
from tombola.train.progress import Progress, show_progress

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
    check_jobs(jobs, spec, source)
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

        def result_of(searches: Sequence[Sequence[Searched]], counted: Mapping[str, Any] | None) -> dict[str, Any]:
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
                **summarise(arms, searches),
                "note": note,
            }

        def work(directory: Path) -> dict[str, Any]:
            with limit_threads(options.threads):
                searches = _search_all(arms, requests, splits, directory, jobs, progress)
            return result_of(searches, parameters(requests[0], splits, searches[0][0].levels[-1]["total"]))

        label = f"{study}-{name_of_model(spec)}-{splits.name}"
        order = Order(Path(out), label, "study", machine(options, jobs), options.force)
        done = carry_out(order, config, lambda: _validate_all(arms, requests, splits, progress), work, progress)
        # series and note are not science: they may change without new training
        result = named(result_of([_searched(arm) for arm in done.result["arms"]], done.result.get("parameters")))
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
        [_under(job.folder, level.result) for level in levels],
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


def summarise(arms: Sequence[Arm], searches: Sequence[Sequence[Searched]]) -> dict[str, Any]:
    """Every arm's figures, and its differences from the first arm, as the result's JSON holds them."""
    described = [_describe_arm(arm, found) for arm, found in zip(arms, searches, strict=True)]
    count = len(searches[0])
    enough = count >= FEWEST_REPLICATES
    return {
        "arms": described,
        "comparisons": [_compare(arm, described[0]) for arm in described[1:]],
        "intervals": f"95 % t-intervals over {count} replicates"
        if enough
        else f"no intervals: they need at least {FEWEST_REPLICATES} replicates, and there are {count}",
    }


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


def _compare(arm: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """`arm` minus `first` in every figure both have: paired where all replicates began with the same weights.

    Paired differences have Student's t-interval of their mean, others Welch's.
    """
    paired = arm["origins"] == first["origins"]
    shared = [name for name in (*FIGURES, "gap", "shift", *WHERE_THERE) if name in arm and name in first]
    return {
        "arm": arm["name"],
        "against": first["name"],
        "paired": paired,
        **{name: _difference(arm[name]["values"], first[name]["values"], paired) for name in shared},
    }


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
