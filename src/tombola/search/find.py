"""Find a ticket: any method, any model, any data, as a library call or as a run on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola.coverage import Coverage, coverage, warn_of_left_out
from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.fields import checked, described
from tombola.levels.search import Level, Search
from tombola.methods.base import Method
from tombola.models.spec import ModelSpec
from tombola.parameters import parameters_by_name
from tombola.plain import as_plain
from tombola.results.record import LeftOut, Parameters
from tombola.results.search import TICKET, Replicate, SearchResult
from tombola.results.trial import LevelResult
from tombola.rng.seeds import derive
from tombola.runs.jobs import limit_threads
from tombola.runs.progress import Progress, Silent
from tombola.runs.versions import versions
from tombola.search.describe import SCORES_ONLY, describe, describe_training
from tombola.search.driver import Experiment, Place, Together, Workspace, place_of, run, run_in_memory
from tombola.search.origin import Start, Starts
from tombola.search.request import Request, loaded, make_request, name_of_model
from tombola.ticket.ticket import UNLIMITED, Ticket
from tombola.train.fabric import make_fabric
from tombola.train.options import Options
from tombola.train.penalty import penalised, regulariser
from tombola.train.recipe import Recipe
from tombola.train.stacked.company import Company
from tombola.train.state import Loop
from tombola.train.trial import TrainingSetup


@checked
def find(
    model: nn.Module | ModelSpec | str,
    data: Any,
    method: Method | Mapping[str, Any] | str | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seed: int = 0,
    options: Options | None = None,
    start: Ticket | str | Path | None = None,
    out: str | Path | None = None,
    loggers: Sequence[Any] = (),
) -> Ticket:
    """Find a ticket and return it.

    Args:
        model: any module (copied; its present weights are the origin), a network's name, or a ModelSpec.
        data: a data set's name, a DataSpec, Splits, (train, val, test), or a function (root, seed) -> Splits.
        method: a method's dataclass, e.g. `IterativePruning(density=0.1, rounds=10)`, taken as it is; by name or
            import path, with the preset of (method, model, data); None or a mapping of fields is iterative pruning,
            starting from its preset.
        recipe: how to train, taken as it is; None or a mapping of fields starts from the preset.
        seed: everything random derives from it.
        options: device and display.
        start: a ticket, or its file, to go on from: its network (trained weights where it has them) is the origin,
            and only what its mask keeps may be kept (pruning), or is what is kept first (learned masks).
        out: parent of the run directory; None keeps everything in memory.
        loggers: where training curves go besides: tensorboard, wandb, trackio, any `Logger`, or its import path.

    >>> data = (torch.randn(64, 4), torch.arange(64) % 2)
    >>> ticket = tb.find(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (data, data, data),
    ...                  tb.IterativePruning(density=0.25, rounds=1), recipe={"length": "2ep", "batch_size": 32})
    >>> ticket.mask
    Mask(2 layers, 12 of 48 kept, density 0.25)
    """
    options = options or Options()
    options = replace(options, loggers=(*options.loggers, *loggers))
    request = make_request(model, data, method, recipe=recipe, seed=seed, options=options, start=start)
    if out is None:
        return run_in_memory(_Find(request), lambda work: search_replicate(request, work)[-1].ticket)
    file = run_find(request, Path(out)).ticket
    assert file is not None
    return Ticket.load(file, max_weights=UNLIMITED)


def search(
    request: Request,
    progress: Progress | None = None,
    *,
    splits: Splits | None = None,
    directory: Path | None = None,
    replicate: int = 0,
    starts: Starts | None = None,
    prefix: str | None = None,
    dense: str | None = None,
    company: Company | None = None,
) -> list[Level]:
    """Run one replicate of a request; `splits` is its data if loaded, `directory` the run directory if any.

    `company`: trainings that this one's may be stacked with.

    Levels lie in the directory's folder `prefix` (None: replicate-<r>), level 0 in its folder `dense`, if given.
    """
    splits = splits or loaded(request.data)
    seed = replicate_seed(request.seed, replicate)
    start = (starts or Starts()).of(request, splits, seed)
    prefix = f"replicate-{replicate}" if prefix is None else prefix
    fabric = make_fabric(request.options.device, request.recipe.precision, shared=True)
    about: dict[str, Any] = {"method": request.method.name, "model": name_of_model(request.model), "data": splits.name}
    about |= {"options": as_plain(request.method)}
    setup = TrainingSetup(
        splits,
        request.recipe,
        fabric,
        request.options,
        progress or Silent(),
        directory=directory,
        about=about,
        company=company,
    )
    described = {
        **describe(request, splits),
        "seed": seed,
        "versions": versions(),
        **({SCORES_ONLY: True} if request.method.trains_scores_only else {}),
        **({"input_shape": list(splits.input_shape)} if isinstance(request.model, nn.Module) else {}),
        "parameters": sum(p.numel() for p in parameters_by_name(start.network()).values()),
    }
    prepared = _prepared(request, setup, start, seed, described)
    with torch.random.fork_rng(devices=[]):
        found = request.method.find(replace(prepared, directory=directory, prefix=prefix, dense=dense))
    return _checked(request.method, found)


def _checked(method: Method, found: Any) -> list[Level]:
    """The levels that a method of anyone's gives; TombolaError if they are none, or their numbers do not rise."""
    if not isinstance(found, list | tuple) or not found or not all(isinstance(level, Level) for level in found):
        first = next((item for item in found if not isinstance(item, Level)), None) if isinstance(found, list) else None
        shown = described(found) if first is None else f"a list with {described(first)}"
        raise TombolaError(
            f"find of method {method.name} gave {'an empty list' if found == [] else shown}, but it must give a list "
            "of levels, such as [train_under(search, mask)]"
        )
    numbers = [level.level for level in found]
    if any(one >= other for one, other in pairwise(numbers)):
        raise TombolaError(
            f"find of method {method.name} gave the levels {numbers}, but their numbers must rise: give a level's "
            "predecessor as `after`, and return them in order"
        )
    return list(found)


def _prepared(request: Request, setup: TrainingSetup, start: Start, seed: int, provenance: Mapping[str, Any]) -> Search:
    return Search(
        setup=setup,
        origin=start.origin,
        seed=seed,
        provenance=provenance,
        architecture=start.architecture,
        trusted=start.trusted,
        mask=request.start.mask if request.start else None,
        start=request.start,
    )


def replicate_seed(seed: int, replicate: int) -> int:
    """The seed of one replicate; replicate 0 is the run that has no others."""
    return seed if replicate == 0 else derive(seed, "replicate", replicate)


def run_find(request: Request, out: Path, *, jobs: int = 1, together: Together | None = None) -> SearchResult:
    """Run a request in its run directory under `out`, or find it finished there; returns the run's result.

    `jobs` processes share the replicates out (model and data given by name). `together`: what it shares with other runs
    of this process.
    """
    return run(_Find(request), out, jobs, together)


def place_of_run(request: Request, splits: Splits, out: Path) -> Place:
    """The place of a request's run under `out`; `splits` is its data, identified."""
    return place_of(_Find(request), splits, out)


class _Find(Experiment[Request, SearchResult]):
    kind = "find"
    data_parallel = True
    result = SearchResult

    def label(self, splits: Splits) -> str:
        return f"{self.request.method.name}-{name_of_model(self.request.model)}-{splits.name}"

    def config(self, splits: Splits) -> dict[str, Any]:
        request = self.request
        return {**describe(request, splits), "seed": request.seed, "replicates": request.replicates}

    def check(self, work: Workspace) -> None:
        validate(self.request, work.splits, work.progress, work.starts)

    def compute(self, work: Workspace) -> SearchResult:
        searches = work.map(partial(search_levels, self.request), range(self.request.replicates), "replicates")
        replicates = [replicate_of(self.request, number, {TICKET: levels}) for number, levels in searches]
        return find_result(self.request, work.splits, replicates, work.starts)


def search_levels(request: Request, work: Workspace, replicate: int) -> list[LevelResult]:
    """The levels of one replicate."""
    return [level.result for level in search_replicate(request, work, replicate)]


def search_replicate(
    request: Request, work: Workspace, replicate: int = 0, *, prefix: str | None = None, dense: str | None = None
) -> list[Level]:
    """`search` in a workspace."""
    return search(
        request,
        work.progress,
        splits=work.splits,
        directory=work.directory,
        replicate=replicate,
        starts=work.starts,
        prefix=prefix,
        dense=dense,
        company=work.company,
    )


def validate(request: Request, splits: Splits, progress: Progress | None = None, starts: Starts | None = None) -> None:
    """Meet every mistake that can be met before anything is trained or written: one step of everything, on copies.

    Warns:
        LeftOutWarning: where a good part of the network is not prunable by default (recurrent layers, embeddings).
    """
    method, options = request.method, request.options
    start = (starts or Starts()).of(request, splits, request.seed)
    network = start.network()
    covered = _covered(request, network) if method.prunes else None
    fabric = make_fabric(options.device, request.recipe.precision, shared=True)
    check_penalty(request, network)
    loop = Loop(network, splits, request.recipe, seed=request.seed, fabric=fabric)
    method.check(network, loop.steps_per_epoch, loop.total, mask=request.start.mask if request.start else None)
    with limit_threads(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when it counts
        setup = TrainingSetup(splits, request.recipe, fabric, options, progress or Silent())
        provenance = describe_training(method, request.recipe)  # not of the data, which need not be read for it
        method.dry_run(_prepared(request, setup, start, request.seed, provenance))
    if covered is not None:  # not beside a refusal, which tells more
        warn_of_left_out(covered)


def check_penalty(request: Request, network: nn.Module) -> None:
    """TombolaError if the recipe's penalty is none, or no weight that it could be of is ever trained."""
    if request.recipe.penalty is None:
        return
    regulariser(request.recipe.penalty)
    method = request.method
    if not method.trains_weights():
        raise TombolaError(
            f"penalty is {request.recipe.penalty}, but {method.name} trains no weights, which a penalty is on; leave "
            "penalty and strength out"
        )
    if not any(weight.parameter.requires_grad for weight in penalised(network)):
        raise TombolaError(
            f"penalty is {request.recipe.penalty}, but no prunable weight of the network requires a gradient; unfreeze "
            "some, or leave penalty and strength out"
        )


def parameters(request: Request, splits: Splits, masked: int, starts: Starts | None = None) -> Parameters:
    """What densities are a fraction of; `masked` weights are prunable."""
    start = (starts or Starts()).of(request, splits, request.seed)
    return denominator(_covered(request, start.network()), masked)


def denominator(covered: Coverage, masked: int) -> Parameters:
    """A network's parameters, of which `masked` are prunable."""
    left_out = tuple(LeftOut(name=p.name, shape=tuple(p.shape), size=p.size, why=p.why) for p in covered.left_out)
    return Parameters(total=covered.total, prunable=masked, left_out=left_out)


def _covered(request: Request, network: nn.Module) -> Coverage:
    return coverage(network, request.method.include, request.method.exclude)


def result_fields(request: Request, splits: Splits) -> dict[str, Any]:
    """What every result says of its network and data, as fields of its record."""
    return {
        "model": name_of_model(request.model),
        "data": splits.name,
        "metric": splits.task.metric_name,
        "higher_is_better": splits.task.higher_is_better,
        "input_shape": tuple(splits.input_shape),
    }


def find_result(
    request: Request, splits: Splits, replicates: Sequence[Replicate], starts: Starts | None = None
) -> SearchResult:
    """A finished search."""
    return SearchResult(
        **result_fields(request, splits),
        method=request.method.name,
        recipe=as_plain(request.recipe),
        parameters=parameters(request, splits, replicates[0].levels[-1].total, starts),
        replicates=tuple(replicates),
    )


def replicate_of(request: Request, number: int, arms: Mapping[str, Sequence[LevelResult]]) -> Replicate:
    """One repetition of a search with its arms."""
    return Replicate(
        replicate=number,
        seed=replicate_seed(request.seed, number),
        ticket=arms[TICKET][-1].ticket,
        arms={name: tuple(levels) for name, levels in arms.items()},
    )
