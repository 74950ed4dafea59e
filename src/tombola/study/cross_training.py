"""Two searches on the same weights: what their masks share, and how each mask does by the other's kind of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from torch import nn

from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.formats import Fixed
from tombola.levels.rewind import Rewind
from tombola.levels.search import level_result
from tombola.mask import Mask, prunable
from tombola.models.spec import ModelSpec
from tombola.plain import as_plain
from tombola.results.statistics import FEWEST_REPLICATES, figure
from tombola.rng.seeds import derive
from tombola.runs.carry import Order, carry_out, check_out
from tombola.runs.jobs import limit_threads, map_jobs
from tombola.runs.progress import Progress, Silent, show_progress
from tombola.runs.stage import TICKET, Stage
from tombola.runs.versions import versions
from tombola.search.describe import code_of, describe_data, describe_model, describe_training
from tombola.search.find import machine, parameters, replicate_seed, search, validate
from tombola.search.origin import start_from
from tombola.search.request import Request, as_data, check_jobs, loaded, name_of_model
from tombola.study.arms import random_mask
from tombola.study.mask_overlap import compare_tickets, over_replicates
from tombola.study.setting import Arm, check_arms
from tombola.ticket.tensors import hash_state
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.fabric import make_fabric
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from tombola.train.trial import TrainingSetup, run_trial

__all__ = ["DEFAULT_INIT", "compare_files", "run_overlap"]

DEFAULT_INIT = "kaiming_normal"
"""Both searches begin with the same weights; these differ in size, as magnitudes must to mean anything."""

_RATIO = Fixed("ratio", 2)

MASKS = ("dense", "first", "second", "random-first", "random-second")
"""The masks that are tried in every replicate, on the same weights."""

NORMS = (
    "Untrained networks keep the norm layers' first statistics, which training would have changed: compare them "
    "with one another only."
)


def run_overlap(
    arms: tuple[Arm, Arm],
    model: nn.Module | ModelSpec | str,
    data: Any,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    replicates: int = 3,
    options: Options | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Search with both arms from the same weights, compare the masks, and train each as the other was.

    In every replicate both masks, random masks with the layer densities of each, and the dense network are tested
    twice: on the weights they began with, untrained, as a supermask works; and with the weights trained under the
    mask, as a lottery ticket is, in the same data order. Searches lie in `<run>/<arm>/replicate-<r>/`, the
    networks trained afterwards in `<run>/exchange/replicate-<r>/`; finished stages are found again.

    Args:
        arms: the two searches; their methods must start from the weights that they are given.
        model: as in `find`; a network by name without an initialisation gets DEFAULT_INIT.
        recipe: how weights are trained under the masks; None takes the first arm's.
        jobs: processes that share searches and trainings out (model and data given by name).

    Returns:
        JSON-able: `layers` and `whole` (numbers as mean, interval and values over replicates), `accuracy` by mask,
        `differences`, a `sentence`, and the `run`.

    Raises:
        TombolaError: an arm cannot work here or the two would not start from the same weights and layers, which is
            told before anything is trained.
    """
    check_arms(arms)
    spec, source = _from_one_start(model), as_data(data, model)
    jobs = check_jobs(jobs, spec, source)
    check_out(Path(out))
    options = options or Options()
    with show_progress(options.progress) as progress:
        splits = loaded(source, progress)
        requests = tuple(Request(spec, source, arm.method, arm.recipe, seed, replicates, options) for arm in arms)
        study = _Study(arms, (requests[0], requests[1]), recipe or arms[0].recipe)

        def config() -> dict[str, Any]:
            splits.identify(progress.track)
            return {
                "study": "overlap",
                "model": describe_model(spec),
                "data": describe_data(source, splits),
                "task": splits.task.identity,
                "arms": [{"name": arm.name, **describe_training(arm.method, arm.recipe)} for arm in arms],
                "recipe": as_plain(study.recipe),
                "code": code_of(study.recipe),
                "seed": seed,
                "replicates": replicates,
            }

        def work(directory: Path) -> dict[str, Any]:
            with limit_threads(options.threads):
                return _run(study, splits, directory, jobs, progress)

        label = f"overlap-{name_of_model(spec)}-{splits.name}"
        order = Order(Path(out), label, "study", machine(options, jobs), options.force)
        done = carry_out(order, config, lambda: _check(study, splits, progress), work, progress)
        return {**done.about, **done.result}


def compare_files(
    first: str | Path, second: str | Path, *, trusted: Sequence[str] = (), max_weights: int | None = None
) -> dict[str, Any]:
    """`compare_tickets` of two ticket files, in the form of a study's result; nothing is trained.

    `max_weights` as in `Ticket.load`.
    """
    tickets = Ticket.load(first, max_weights=max_weights), Ticket.load(second, max_weights=max_weights)
    try:
        found = compare_tickets(*tickets, trusted=trusted)
    except TombolaError as error:
        raise TombolaError(f"{first} and {second} cannot be compared: {error}") from None
    return {
        "kind": "overlap",
        "names": [str(first), str(second)],
        "replicates": 1,
        **over_replicates([found]),
    }


@dataclass(frozen=True)
class _Study:
    arms: tuple[Arm, Arm]
    requests: tuple[Request, Request]
    recipe: Recipe

    @property
    def names(self) -> dict[str, str]:
        """Masks -> what they are called."""
        first, second = (arm.name for arm in self.arms)
        return dict(zip(MASKS, ("dense", first, second, f"random as {first}", f"random as {second}"), strict=True))


def _from_one_start(model: nn.Module | ModelSpec | str) -> nn.Module | ModelSpec:
    spec = ModelSpec(model) if isinstance(model, str) else model
    if isinstance(spec, ModelSpec) and spec.init is None and spec.checkpoint is None:
        return replace(spec, init=DEFAULT_INIT)
    return spec


def _check(study: _Study, splits: Splits, progress: Progress) -> None:
    """Meet every mistake before anything is trained: each search's own, and what keeps the two apart."""
    if splits.test is None:
        raise TombolaError("the data has no test split, so no mask can be tested; give data with a test split")
    origins, layers = [], []
    for arm, request in zip(study.arms, study.requests, strict=True):
        try:
            validate(request, splits, progress)
        except TombolaError as error:
            raise TombolaError(f"arm {arm.name!r}: {error}") from None
        rewind = arm.method.rewind
        if Rewind.parse(rewind) != Rewind():
            raise TombolaError(
                f"rewind of arm {arm.name!r} is {rewind}, but both masks must start from the same weights; "
                "set it to init"
            )
        network = start_from(request.model, splits, seed=request.seed, method=arm.method).network()
        origins.append(hash_state(dict(network.state_dict())))
        layers.append(list(prunable(network, arm.method.include, arm.method.exclude)))
    if origins[0] != origins[1]:
        raise TombolaError(
            f"{study.arms[0].name} and {study.arms[1].name} start from different weights; leave out what changes the "
            "initialisation of one of them (scale_fan)"
        )
    if layers[0] != layers[1]:
        odd = sorted(set(layers[0]) ^ set(layers[1]))
        raise TombolaError(
            f"{study.arms[0].name} and {study.arms[1].name} differ in {odd[0]!r}; set include and exclude alike"
        )


@dataclass(frozen=True)
class _Job:
    """One search (`mask` names whose), or one mask's tests with the tickets that the searches found."""

    study: _Study
    directory: Path
    replicate: int
    mask: str
    tickets: tuple[str, ...] = ()


def _run(study: _Study, splits: Splits, directory: Path, jobs: int, progress: Progress) -> dict[str, Any]:
    replicates = study.requests[0].replicates
    searched: dict[str, list[dict[str, Any]]] = {mask: [] for mask in ("first", "second")}
    tested: dict[str, list[dict[str, Any]]] = {mask: [] for mask in MASKS}
    here = {"progress": progress, "splits": splits}
    searches = [_Job(study, directory, index, mask) for index in range(replicates) for mask in searched]
    for job, level in _map(_search, searches, jobs, "searches", here):
        searched[job.mask].append(level)
    tickets = [(first["ticket"], second["ticket"]) for first, second in zip(*searched.values(), strict=True)]
    trials = [_Job(study, directory, index, mask, tickets[index]) for index in range(replicates) for mask in MASKS]
    for job, level in _map(_test, trials, jobs, "masks", here):
        tested[job.mask].append(level)
    pairs = [
        compare_tickets(
            *(Ticket.load(directory / level["ticket"], max_weights=UNLIMITED) for level in levels),
            **_architecture(study.requests[0].model),
        )
        for levels in zip(tested["first"], tested["second"], strict=True)
    ]
    return _result(study, splits, pairs, searched, tested)


def _architecture(model: nn.Module | ModelSpec) -> dict[str, Any]:
    """What a ticket of this network is built with."""
    return {"model": model} if isinstance(model, nn.Module) else {"trusted": (model.name,)}


def _map(
    function: Callable[..., Any], items: Sequence[_Job], jobs: int, label: str, here: Mapping[str, Any]
) -> Iterator[tuple[_Job, dict[str, Any]]]:
    progress = cast(Progress, here["progress"])
    with progress.track(label, len(items)) as update:
        for done, pair in enumerate(zip(items, map_jobs(function, items, jobs, **here), strict=True), start=1):
            update(done)
            yield pair


def _search(job: _Job, progress: Progress | None = None, splits: Splits | None = None) -> dict[str, Any]:
    """The last level of one search, its paths relative to the study's directory."""
    which = ("first", "second").index(job.mask)
    request, folder = job.study.requests[which], job.study.arms[which].folder
    levels = search(request, progress, splits=splits, directory=job.directory / folder, replicate=job.replicate)
    level = levels[-1].result.as_dict()
    return {**level, **{part: f"{folder}/{level[part]}" for part in ("metrics", "ticket")}}


def _test(job: _Job, progress: Progress | None = None, splits: Splits | None = None) -> dict[str, Any]:
    """One mask on the shared weights: as they are (`untrained`), and trained under it."""
    name = f"exchange/replicate-{job.replicate}/{job.mask}"
    stage = Stage(job.directory / name)
    done = stage.found()
    if done is not None:
        return done
    request, recipe = job.study.requests[0], job.study.recipe
    splits = splits or loaded(request.data)
    seed = replicate_seed(request.seed, job.replicate)
    fabric = make_fabric(request.options.device, recipe.precision)
    setup = TrainingSetup(splits, recipe, fabric, request.options, progress or Silent())
    start = start_from(request.model, splits, seed=seed, method=request.method)
    mask = _mask(job, seed)
    untrained = _untrained(setup, start.network(), mask)
    model = start.network()
    trial = run_trial(
        setup,
        model,
        seed=derive(seed, "exchange"),
        label=f"{job.study.names[job.mask]}  {mask.density:6.1%}",
        mask=mask if job.mask != "dense" else None,
        stage=stage,
    )
    assert trial.trained is not None
    ticket = Ticket.from_models(
        origin=start.origin,
        mask=mask,
        final_state=trial.trained.state,
        provenance={"study": "overlap", "mask": job.mask, "recipe": as_plain(recipe), "versions": versions()},
        model=start.architecture,
        trusted=start.trusted,
    )
    ticket.save(stage.directory / TICKET)
    result = {**level_result(0, mask, trial, name).as_dict(), "untrained": untrained}
    stage.finish(result)
    return result


def _mask(job: _Job, seed: int) -> Mask:
    first, second = (Ticket.load(job.directory / file, max_weights=UNLIMITED) for file in job.tickets)
    if job.mask == "dense":
        return Mask.full(first.mask)
    ticket = first if job.mask.endswith("first") else second
    return random_mask(ticket, derive(seed, "exchange", job.mask)) if job.mask.startswith("random") else ticket.mask


def _untrained(setup: TrainingSetup, model: nn.Module, mask: Mask) -> float:
    """The masked network's metric on the test split, no weight having been trained."""
    assert setup.splits.test is not None
    mask.apply_(model)
    model.to(setup.fabric.device)
    return setup.scorer(model, setup.splits.test)().metric


def _result(
    study: _Study,
    splits: Splits,
    pairs: Sequence[Mapping[str, Any]],
    searched: Mapping[str, Sequence[Mapping[str, Any]]],
    tested: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    count, names = len(pairs), study.names
    shared = over_replicates(pairs)
    network = start_from(study.requests[0].model, splits, seed=0, method=study.requests[0].method).network()
    norms = any(name.endswith("running_mean") for name, _ in network.named_buffers())
    return {
        "kind": "overlap",
        "model": name_of_model(study.requests[0].model),
        "data": splits.name,
        "metric": splits.task.metric_name,
        "higher_is_better": splits.task.higher_is_better,
        "input_shape": list(splits.input_shape),
        "replicates": count,
        "seeds": [replicate_seed(study.requests[0].seed, index) for index in range(count)],
        "names": [arm.name for arm in study.arms],
        "methods": [arm.method.name for arm in study.arms],
        "recipe": as_plain(study.recipe),
        "parameters": parameters(study.requests[0], splits, tested["first"][0]["total"]).as_dict(),
        **shared,
        "accuracy": [
            {
                "mask": names[mask],
                "density": fmean(level["density"] for level in levels),
                "untrained": figure([level["untrained"] for level in levels]),
                "trained": figure([level["test_accuracy"] for level in levels]),
                "searched": figure([level["test_accuracy"] for level in searched[mask]]) if mask in searched else None,
                "metrics": [level["metrics"] for level in levels],
                "tickets": [level["ticket"] for level in levels],
            }
            for mask, levels in tested.items()
        ],
        "differences": [
            {
                "of": names[of],
                "against": names[against],
                "untrained": _difference(tested[of], tested[against], "untrained"),
                "trained": _difference(tested[of], tested[against], "test_accuracy"),
            }
            for of, against in (
                ("second", "first"),
                ("first", "random-first"),
                ("second", "random-second"),
                ("first", "dense"),
                ("second", "dense"),
            )
        ],
        "sentence": _sentence([arm.name for arm in study.arms], shared["whole"]),
        "intervals": f"95 % t-intervals over {count} replicates, differences paired by replicate"
        if count >= FEWEST_REPLICATES
        else f"no intervals: they need at least {FEWEST_REPLICATES} replicates, and there are {count}",
        "note": NORMS if norms else "",
    }


def _difference(of: Sequence[Mapping[str, Any]], against: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    return figure([a[key] - b[key] for a, b in zip(of, against, strict=True)])


def _sentence(names: Sequence[str], total: Mapping[str, Any]) -> str:
    """How much the masks share, against chance; no claim where the interval holds 1 or there is none."""
    ratio, sizes = total["ratio"], total["ratio_same_sizes"]
    if ratio["mean"] is None:
        return f"{names[0]} and {names[1]} cannot share a weight: one of them keeps none."
    many, more = (_RATIO.bare(found["mean"]) if found["mean"] is not None else "" for found in (ratio, sizes))
    text = (
        f"{names[0]} and {names[1]} share {many} times as many weights as random masks of the same layer densities "
        f"would{_claim(ratio)}"
    )
    if not more:
        return f"{text}."
    return f"{text}, and {more} times as many as ones that favour large weights alike{_claim(sizes)}."


def _claim(ratio: Mapping[str, Any]) -> str:
    if ratio["interval"] is None:
        return ""
    low, high = ratio["interval"]
    verdict = (
        "more than chance" if low > 1 else "less than chance" if high < 1 else "no significant difference from chance"
    )
    return f" ({_RATIO.ends(low, high)}: {verdict})"
