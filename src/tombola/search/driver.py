"""The driver of runs: what a search and every study have in common, from the first look at the data to the result.

A study defines the name and the configuration of its run, what is checked before anything is written, and what is
computed; see `Experiment`. It lies in this package because `find` is an experiment too, and studies are built on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from tombola.data.config import DataSpec
from tombola.data.splits import Splits
from tombola.machine.launch import several_started
from tombola.machine.ranks import ALONE, Ranks
from tombola.models.spec import ModelSpec
from tombola.results.codec import typed
from tombola.results.record import Record
from tombola.runs.carry import Order, carry_out, check_alike, check_out, finished
from tombola.runs.directory import RANKS, STACKED, canonical
from tombola.runs.jobs import check_single_process, limit_threads, map_jobs, threads_per_job
from tombola.runs.progress import Progress, Silent, show_progress
from tombola.runs.stage import RESULT, Stage
from tombola.search.origin import Starts
from tombola.search.request import check_jobs, loaded
from tombola.train.fabric import make_fabric, ranks_of
from tombola.train.loggers import check_picklable
from tombola.train.options import Options
from tombola.train.stacked.company import Company

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Together:
    """What a run shares with others that this process carries out at the same time: their data, stacked trainings."""

    splits: Splits
    company: Company


@dataclass(frozen=True)
class Workspace:
    """Where an experiment is carried out: its data, the bars, the run's directory (None: in memory), processes.

    `starts`: what its searches start from. `ranks`: the processes that do the same with it, each its part. `company`:
    trainings of other runs that its own may be stacked with.
    """

    data: Splits | DataSpec
    splits: Splits
    progress: Progress
    directory: Path | None = None
    processes: int = 1
    starts: Starts = field(default_factory=Starts, compare=False, repr=False)
    ranks: Ranks = ALONE
    company: Company | None = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """The run's directory, of an experiment that is never done in memory."""
        assert self.directory is not None
        return self.directory

    def stage(self, name: str) -> Stage | None:
        """The stage of that name, e.g. "ticket-0"; None in memory."""
        return None if self.directory is None else Stage(self.directory / name, self.ranks)

    def map(
        self, function: Callable[[Workspace, Job], Result], jobs: Sequence[Job], title: str
    ) -> Iterator[tuple[Job, Result]]:
        """(job, function(workspace, job)) for every job, in order, under a bar of that title.

        In several processes, each loads the data for itself; function and jobs must be picklable then.
        """
        items = [JobInWorkspace(function, job, self.data, self.directory) for job in jobs]
        with self.progress.track(title, len(jobs)) as update:
            results = map_jobs(JobInWorkspace.__call__, items, self.processes, here=self)
            for done, pair in enumerate(zip(jobs, results, strict=True), start=1):
                update(done)
                yield pair


@dataclass(frozen=True)
class JobInWorkspace(Generic[Job, Result]):
    """A job and its function, to be done in this process's workspace or, in another process, in one made there."""

    function: Callable[[Workspace, Job], Result]
    job: Job
    data: Splits | DataSpec
    directory: Path | None

    def __call__(self, here: Workspace | None = None) -> Result:
        return self.function(here or Workspace(self.data, loaded(self.data), Silent(), self.directory), self.job)


class Asked(Protocol):
    """What somebody asks for."""

    @property
    def data(self) -> Splits | DataSpec:
        """What it is done on."""

    @property
    def options(self) -> Options:
        """Device, threads, display, and whether to go on in spite of other versions."""

    @property
    def parts(self) -> tuple[nn.Module | ModelSpec | Splits | DataSpec, ...]:
        """What other processes need by name."""


Request = TypeVar("Request", bound=Asked)
Outcome = TypeVar("Outcome", bound=Record)


@dataclass(frozen=True)
class Experiment(ABC, Generic[Request, Outcome]):
    """What a run computes for a request; picklable where model and data are given by name."""

    kind: ClassVar[str] = "study"
    data_parallel: ClassVar[bool] = False
    """Whether several processes that torchrun starts can do it together."""
    request: Request

    @property
    @abstractmethod
    def result(self) -> type[Outcome]:
        """The record that it computes; it has the fields `run` and `reused`."""

    @abstractmethod
    def label(self, splits: Splits) -> str:
        """The beginning of the run's name."""

    @abstractmethod
    def config(self, splits: Splits) -> dict[str, Any]:
        """The scientific configuration, whose hash ends the run's name; `splits` is identified."""

    def admit(self, work: Workspace) -> None:
        """TombolaError for what is refused even where the run is finished."""
        return

    @abstractmethod
    def check(self, work: Workspace) -> None:
        """Meet every mistake before anything is trained or written; not called where the run is finished."""

    @abstractmethod
    def compute(self, work: Workspace) -> Outcome:
        """The result, with torch held to the threads of the options; finished stages are found again."""

    def renewed(self, work: Workspace, result: Outcome) -> Outcome:
        """A finished run's result with present names and notes, which are no part of the configuration."""
        return result


def run(
    experiment: Experiment[Any, Outcome], out: Path, processes: int = 1, together: Together | None = None
) -> Outcome:
    """The experiment's run under `out`, found finished or carried out now; `together`: with other runs.

    Raises:
        TombolaError: a mistake in what is asked for; nothing has been written then.
    """
    options = experiment.request.options
    with _workspace(experiment, processes, out, together) as work:
        splits = work.splits

        def config() -> dict[str, Any]:
            splits.identify(work.progress.track)
            return experiment.config(splits)

        def check() -> None:
            with limit_threads(options.threads):
                experiment.check(work)

        def compute(directory: Path) -> dict[str, Any]:
            with limit_threads(options.threads):
                return experiment.compute(replace(work, directory=directory)).as_dict()

        order = Order(
            out,
            experiment.label(splits),
            experiment.kind,
            machine(options, work.processes, work.ranks, stacked=together is not None),
            options.force,
            work.ranks,
        )
        done = carry_out(order, config, check, compute, work.progress)
        result = typed(experiment.result, done.result, done.directory / RESULT)
        renewed = experiment.renewed(replace(work, directory=done.directory), result)
        if renewed != result:
            with order.open(config()) as opened:
                opened.finish(renewed.as_dict())
        return renewed.replace(run=str(done.directory), reused=done.reused)


@dataclass(frozen=True)
class Place:
    """Where an experiment's run lies, the configuration that it is named by, and whether it is finished."""

    directory: Path
    config: Mapping[str, Any]
    finished: bool


def place_of(experiment: Experiment[Any, Any], splits: Splits, out: Path) -> Place:
    """The place of an experiment's run under `out`; `splits` is its data, identified."""
    config = experiment.config(splits)
    directory = Order(out, experiment.label(splits), experiment.kind, {}).directory(config)
    return Place(directory, config, finished(directory, config) is not None)


def run_in_memory(
    experiment: Experiment[Any, Any], compute: Callable[[Workspace], Result], processes: int = 1
) -> Result:
    """What `compute` gives of a checked experiment, with the run's directory None: nothing is written."""
    with _workspace(experiment, processes) as work, limit_threads(experiment.request.options.threads):
        experiment.check(work)
        work.splits.identify(work.progress.track)
        if work.ranks.size > 1:
            check_alike(canonical(experiment.config(work.splits)), work.ranks)
        return compute(work)


@contextmanager
def _workspace(
    experiment: Experiment[Any, Any], processes: int, out: Path | None = None, together: Together | None = None
) -> Iterator[Workspace]:
    asked = experiment.request
    ranks = _ranks(experiment)
    processes = check_jobs(processes, *asked.parts, ranks=ranks)
    check_picklable(asked.options.loggers, processes)
    if out is not None:
        check_out(out, ranks)
    with show_progress(asked.options.progress if ranks.writes else False) as progress:
        data = asked.data if together is None else together.splits
        splits = ranks.in_turn(lambda: loaded(data, progress))  # which one process may have to download first
        company = None if together is None else together.company
        work = Workspace(asked.data, splits, progress, processes=processes, ranks=ranks, company=company)
        check_alike(experiment.label(splits), ranks)
        experiment.admit(work)
        yield work


def _ranks(experiment: Experiment[Any, Any]) -> Ranks:
    """The processes that do it together; a TombolaError where there are several and it is not to be shared."""
    if several_started() is None:
        return ALONE
    if not experiment.data_parallel:
        check_single_process()
    return ranks_of(make_fabric(experiment.request.options.device, shared=True))


def device_of(options: Options) -> str:
    """The kind of device that a run goes to: cpu or cuda."""
    device = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return device.partition(":")[0]


def machine(options: Options, processes: int = 1, ranks: Ranks = ALONE, *, stacked: bool = False) -> dict[str, Any]:
    """What the bits of a result depend on besides configuration and versions."""
    with limit_threads(options.threads):
        several = {**({RANKS: ranks.size} if ranks.size > 1 else {}), **({STACKED: True} if stacked else {})}
        return {"device": device_of(options), "threads": threads_per_job(processes), **several}
