"""Runs that differ in seed or density alone, in this process: their trainings are stacked, all else goes by turns.

Each run is a `find` as any other, in the directory that it always has (see `tombola.train.stacked.table`).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from torch import nn

from tombola.data.config import DataSpec
from tombola.plain import as_plain
from tombola.results.sweep import Stacked
from tombola.runs.directory import canonical
from tombola.runs.jobs import limit_threads
from tombola.search.describe import describe_training
from tombola.search.driver import Together, device_of
from tombola.search.request import Request, loaded
from tombola.study.sweep.engine import Crew, Ended, Job, carry_out, quiet
from tombola.train.options import Options
from tombola.train.stacked.company import Company
from tombola.train.stacked.table import together

MOST = 64
"""Runs that are stacked at once, unless said otherwise."""
_TOLD_APART = ("tensorboard",)
"""Loggers that several trainings can send to at once."""


class StackWarning(UserWarning):
    """Stacked training where it was not found to be faster."""


@dataclass(frozen=True)
class StackEngine:
    """Stacks of up to `at_once` runs in this process."""

    machine: Options
    at_once: int = MOST

    @contextmanager
    def session(self) -> Iterator[Crew]:
        """As `Engine` says."""
        if device_of(self.machine) == "cpu":
            warnings.warn(
                "engine stacked is meant for a GPU: on a CPU no gain was measured but for the smallest networks",
                StackWarning,
                stacklevel=4,
            )
        with limit_threads(self.machine.threads):
            yield _Table(self.at_once)


@dataclass(frozen=True)
class _Table:
    """This process, where runs of one kind meet."""

    at_once: int
    shows: bool = False

    def carried_out(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Ended]]:
        """As `Crew` says, one kind of runs after the other."""
        kinds: dict[Hashable, list[int]] = defaultdict(list)
        silent = [Job(quiet(job.request), job.out) for job in jobs]
        for place, job in enumerate(silent):
            kinds[kind_of_run(job.request)].append(place)
        for places in kinds.values():
            if (why := why_apart(silent[places[0]].request)) is not None:
                for place in places:
                    ended = carry_out(silent[place])
                    yield place, Ended(ended.error, Stacked(alone=why))
                continue
            for first in range(0, len(places), self.at_once):
                yield from _stacked({place: silent[place] for place in places[first : first + self.at_once]})


def _stacked(jobs: Mapping[int, Job]) -> Iterator[tuple[int, Ended]]:
    """Carry out runs of one kind at once."""
    places, splits = list(jobs), loaded(next(iter(jobs.values())).request.data)

    def function(job: Job) -> Callable[[Company], Ended]:
        return lambda company: carry_out(job, Together(splits, company))

    with closing(together([function(job) for job in jobs.values()])) as ending:
        for number, ended, how in ending:
            yield places[number], Ended(ended.error, how)


def kind_of_run(request: Request) -> Hashable:
    """What runs must have in common to be trained together: everything but seed and density."""
    training = describe_training(request.method, request.recipe)
    method = {key: value for key, value in training["method"].items() if key != "density"}
    model = id(request.model) if isinstance(request.model, nn.Module) else canonical(as_plain(request.model))
    data = canonical(as_plain(request.data)) if isinstance(request.data, DataSpec) else id(request.data)
    start = None if request.start is None else request.start.digest
    return canonical({**training, "method": method}), model, data, start, request.replicates


def why_apart(request: Request) -> str | None:
    """Why a run cannot be carried out by turns with others at all."""
    odd = [logger for logger in request.options.loggers if logger not in _TOLD_APART]
    return "its loggers are told of one training at a time" if odd else None
