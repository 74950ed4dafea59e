"""Which engine carries out the runs of a sweep, as options (torch-free)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.errors import TombolaError
from tombola.fields import check_counts, check_fields
from tombola.names import check_known
from tombola.train.options import Options

if TYPE_CHECKING:
    from tombola.study.sweep.engine import Engine


@dataclass(frozen=True)
class EngineOptions:
    """What carries out the runs of a sweep.

    Args:
        engine: local (processes on this machine), ray (a Ray cluster, or a session on this machine; tombola[ray]) or
            stacked (in this process: runs that differ in seed or density alone train as one stacked network, equal but
            for rounding)
        jobs: runs at once on this machine, which share its threads (null: one for every thread; on a GPU, 1)
        address: of a Ray cluster, e.g. auto or ray://head:10001 (null: a session on this machine, for this sweep alone)
        cpus_per_run: CPUs that Ray gives each run, which are its threads
        gpus_per_run: GPUs that Ray gives each run, e.g. 0.5
        max_retries: times that Ray begins a run again whose worker was lost; it goes on from its last checkpoint
        stack: runs that are stacked at once, at most (null: 64)
    """

    engine: str = "local"
    jobs: int | None = None
    address: str | None = None
    cpus_per_run: int = 1
    gpus_per_run: float = 0.0
    max_retries: int = 3
    stack: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_known("engine", self.engine, ENGINES)
        check_counts(jobs=self.jobs, cpus_per_run=self.cpus_per_run, stack=self.stack)
        if not 0 <= self.gpus_per_run < float("inf"):
            raise TombolaError(f"gpus_per_run is {self.gpus_per_run}; give a number of at least 0")
        if self.max_retries < 0:
            raise TombolaError(f"max_retries is {self.max_retries}; give a whole number of at least 0")
        default = EngineOptions.__dataclass_fields__
        for name, (engines, whose) in _OF.items():
            if self.engine not in engines and getattr(self, name) != default[name].default:
                raise TombolaError(f"{name} is for {whose}; set engine to {engines[0]}, or leave {name} out")
        if self.address is not None and self.jobs is not None:
            raise TombolaError("jobs is for this machine, and a cluster shares the runs out itself; leave jobs out")

    def made(self, machine: Options) -> Engine:
        """The engine. `machine`: its threads are those of all runs on this machine together."""
        return ENGINES[self.engine](self, machine)


def _local(options: EngineOptions, machine: Options) -> Engine:
    from tombola.study.sweep.engine import processes

    return processes(options.jobs, machine)


def _ray(options: EngineOptions, machine: Options) -> Engine:
    from tombola.study.sweep.on_ray import RayEngine

    if machine.threads is not None:
        raise TombolaError("threads is for engine local; with Ray every run has cpus_per_run threads")
    return RayEngine(
        options.address, options.cpus_per_run, options.gpus_per_run, options.max_retries, at_once=options.jobs
    )


def _stacked(options: EngineOptions, machine: Options) -> Engine:
    from tombola.study.sweep.on_stack import StackEngine

    return StackEngine(machine) if options.stack is None else StackEngine(machine, options.stack)


ENGINES: Mapping[str, Callable[[EngineOptions, Options], Engine]] = {"local": _local, "ray": _ray, "stacked": _stacked}
_RAY = (("ray",), "Ray")
_OF: Mapping[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(("address", "cpus_per_run", "gpus_per_run", "max_retries"), _RAY),
    "jobs": (("local", "ray"), "runs beside each other"),
    "stack": (("stacked",), "stacked runs"),
}
"""Option -> the engines that heed it, and what it is for."""
