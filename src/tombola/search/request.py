"""A search as it was asked for: model, data, method, recipe; presets fill in what is left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from tombola.data.config import DataSpec
from tombola.data.registry import load_data
from tombola.data.splits import Splits, make_splits
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.machine.cores import held_to_cores
from tombola.machine.ranks import ALONE, Ranks
from tombola.methods import method_class
from tombola.methods.base import Method
from tombola.models.spec import ModelSpec
from tombola.names import unknown
from tombola.nn.forward import input_dtype
from tombola.parameters import unwrap
from tombola.rng.seeds import checked_seed
from tombola.runs.jobs import check_single_process
from tombola.runs.progress import Progress, Silent
from tombola.search.presets import preset
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options
from tombola.train.recipe import Recipe

Made = TypeVar("Made")


MOST = 10_000
"""Replicates, at most: no study has had more."""


@dataclass(frozen=True)
class Request:
    """One search, complete and picklable if model and data are given by name."""

    model: nn.Module | ModelSpec
    data: Splits | DataSpec
    method: Method
    recipe: Recipe
    seed: int = 0
    replicates: int = 1
    options: Options = Options()
    start: Ticket | None = None

    def __post_init__(self) -> None:
        check_replicates(self.replicates)
        object.__setattr__(self, "seed", checked_seed(self.seed))

    @property
    def parts(self) -> tuple[nn.Module | ModelSpec, Splits | DataSpec]:
        """What other processes need by name."""
        return self.model, self.data


def make_request(
    model: nn.Module | ModelSpec | str,
    data: Any,
    method: Method | Mapping[str, Any] | str | None = None,
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seed: int = 0,
    replicates: int = 1,
    options: Options | None = None,
    start: Ticket | str | Path | None = None,
) -> Request:
    """A complete request from what the user gave; presets fill in what is left open."""
    ticket = start if start is None or isinstance(start, Ticket) else Ticket.load(start)
    spec = as_model(model)
    _check_kinds(spec, method)
    source = as_data(data, model)
    kind = type(method) if isinstance(method, Method) else method_class(method if isinstance(method, str) else "imp")
    named = preset(kind, name_of_model(spec), source.name)
    options_given = None if isinstance(method, str | Method) else method
    chosen = method if isinstance(method, Method) else made(kind, named.method, options_given)
    if ticket is not None and not chosen.goes_on_from_tickets:
        raise TombolaError(
            f"method {chosen.name} cannot start from a ticket, and would not keep its mask; leave start out"
        )
    if not isinstance(recipe, Recipe):
        recipe = made(Recipe, named.recipe, recipe)
    return Request(spec, source, chosen, recipe, seed, replicates, options or Options(), ticket)


def made(kind: type[Made], named: Mapping[str, Any], given: Mapping[str, Any] | None) -> Made:
    """A dataclass of the fields in `named`, changed by those given; a TombolaError for an unknown field.

    What is one already is taken as it is.
    """
    if isinstance(given, kind):
        return given
    if given is not None and not isinstance(given, Mapping):
        title = kind.__name__
        raise TombolaError(f"{title} is given as {described(given)}; give a {title}, or a mapping of its fields")
    if is_dataclass(kind) and given is not None:
        known = [part.name for part in fields(kind) if part.init]
        for name in given:
            if name not in known:
                raise TombolaError(f"{kind.__name__} cannot be made of {given}: {unknown('field', name, known)}")
    try:
        return kind(**{**named, **(given or {})})
    except TypeError as error:
        raise TombolaError(f"{kind.__name__} cannot be made of {given}: {error}") from None


def _check_kinds(model: Any, method: Any) -> None:
    """TombolaError if the model is none, or the method is neither open, a name, a mapping nor a method."""
    if not isinstance(model, nn.Module | ModelSpec):
        raise TombolaError(
            f"the model is {described(model)}; give a module, a ModelSpec, or the name or import path of a network"
        )
    if method is None or isinstance(method, Mapping | str):
        return
    if not isinstance(method, Method):
        raise TombolaError(
            f"the method is {described(method)}; give an instance of a method, such as IterativePruning(density=0.1, "
            "rounds=10), a method's name or import path, or a mapping of iterative pruning's fields"
        )


def check_replicates(replicates: Any) -> None:
    """TombolaError unless it is a whole number of at least 1."""
    if isinstance(replicates, bool) or not isinstance(replicates, int | np.integer) or not 0 < replicates <= MOST:
        raise TombolaError(
            f"replicates is {replicates!r}; a whole number is needed, from 1 to {MOST:,}, and for a verdict at least 3"
        )


def as_model(model: nn.Module | ModelSpec | str) -> nn.Module | ModelSpec:
    """A model as the library's calls take it: a text is a name."""
    return ModelSpec(model) if isinstance(model, str) else model


def as_data(data: Any, model: Any = None) -> Splits | DataSpec:
    """Data as the library's calls take it; floats are held in double precision for a live `model` in it.

    Raises:
        TombolaError: it is none of these.
    """
    if isinstance(data, Splits | DataSpec):
        return data
    if isinstance(data, str):
        return DataSpec(data)
    if callable(data):
        data = data("data", 0)
    if isinstance(data, Splits):
        return data
    if not isinstance(data, tuple | list) or not 1 <= len(data) <= 4:
        form = (
            f"a {type(data).__name__} of {len(data)}" if isinstance(data, tuple | list) else f"a {type(data).__name__}"
        )
        raise TombolaError(
            f"the data is {form}; give a data set's name, a DataSpec, Splits, (train, val, test) or (train, val, test, "
            "task) with a pair (x, y), a TensorDataset or a map-style dataset for each part, or a function that gives "
            "one of the last three"
        )
    double = isinstance(model, nn.Module) and input_dtype(unwrap(model)) == torch.float64
    return make_splits(*data, floats=torch.float64 if double else torch.float32)


def check_jobs(jobs: int, *parts: nn.Module | ModelSpec | Splits | DataSpec, ranks: Ranks = ALONE) -> int:
    """How many processes it will be: `jobs`, or as many as there are cores.

    Raises:
        TombolaError: below 1; several are asked for and a part is given live, or there are several `ranks`; a launcher
            has started several, and these are not their ranks.
    """
    if ranks.size == 1:
        check_single_process()
    jobs = held_to_cores("jobs", jobs)
    if jobs > 1 and ranks.size > 1:
        raise TombolaError(
            f"jobs is {jobs}, but {ranks.size} processes that torchrun started train together; set jobs to 1"
        )
    if jobs > 1 and any(isinstance(part, nn.Module | Splits) for part in parts):
        raise TombolaError(f"jobs is {jobs}, but several processes need model and data by name; set jobs to 1")
    return jobs


def loaded(data: Splits | DataSpec, progress: Progress | None = None) -> Splits:
    """The data itself."""
    if isinstance(data, Splits):
        return data
    with (progress or Silent()).track(f"reading {data.name}", None):
        return load_data(data)


def name_of_model(model: nn.Module | ModelSpec) -> str:
    """The name of a network: its registry name or import path, or the class of a live module."""
    return type(unwrap(model)).__name__ if isinstance(model, nn.Module) else model.label
