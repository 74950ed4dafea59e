"""Runs on a Ray cluster, or on a Ray session of this machine that lasts as long as the sweep.

A run whose worker is lost (killed, or its machine gone) is begun again by Ray, and goes on from its last checkpoint in
the same directory: the folder of runs must be one that all machines of the cluster share.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError, in_short, not_installed
from tombola.formats import plural
from tombola.machine.cores import held_to_cores, usable_cores
from tombola.runs.jobs import limit_threads
from tombola.study.sweep.engine import Crew, Ended, Job, carry_out, quiet

_SILENCE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
"""Environment of a session of ours: nothing is reported to Ray's makers; runs without GPUs see none."""


class RayWarning(UserWarning):
    """Runs wait for machines that the cluster does not have yet."""


@dataclass(frozen=True)
class RayEngine:
    """A Ray cluster.

    Args:
        address: of the cluster; None: a session on this machine, or the one that this program has already begun.
        cpus_per_run, gpus_per_run: what each run is given; its threads are its CPUs.
        max_retries: times that a run is begun again whose worker was lost.
        at_once: runs at once of a session of ours; None: as many as there are cores for.
    """

    address: str | None = None
    cpus_per_run: int = 1
    gpus_per_run: float = 0.0
    max_retries: int = 3
    at_once: int | None = None

    @contextmanager
    def session(self) -> Iterator[Crew]:
        """A session of this sweep's own, ended with it; or the one that is there, which stays as it is.

        Raises:
            TombolaError: Ray is not installed, no cluster answers, or this machine has not what a run is to get.
        """
        ray = _imported()
        crew = _Cluster(ray, self)
        if ray.is_initialized():
            self.warn_if_none_fits(ray.nodes())
            yield crew
            return
        local = {} if self.address is not None else {"num_cpus": self._cpus(), "include_dashboard": False}
        with _environment_kept():
            os.environ.update({name: value for name, value in _SILENCE.items() if name not in os.environ})
            with _handlers_kept():
                try:
                    ray.init(self.address, configure_logging=False, log_to_driver=False, **local)
                except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                    where = (
                        f"no Ray cluster answers at {self.address}" if self.address else "Ray cannot be started here"
                    )
                    raise TombolaError(f"{where} ({in_short(error)}); check the address, or use engine local") from None
            try:
                if self.address is None:
                    self._check_resources(ray)
                else:
                    self.warn_if_none_fits(ray.nodes())
                yield crew
            finally:
                with _handlers_kept():
                    ray.shutdown()

    def _cpus(self) -> int:
        """CPUs of a session of ours."""
        if self.at_once is None:
            return max(usable_cores(), self.cpus_per_run)
        return held_to_cores("jobs", self.at_once) * self.cpus_per_run

    def warn_if_none_fits(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Warn where no machine of a cluster (`ray.nodes()`) has what a run is to get: runs wait until one joins."""
        alive = [node.get("Resources", {}) for node in nodes if node.get("Alive")]
        if any(one.get("CPU", 0) >= self.cpus_per_run and one.get("GPU", 0) >= self.gpus_per_run for one in alive):
            return
        warnings.warn(
            f"no machine of the Ray cluster has {plural(self.cpus_per_run, 'CPU')} and {self.gpus_per_run:g} GPUs for "
            "a run; runs wait until one joins",
            RayWarning,
            stacklevel=4,
        )

    def _check_resources(self, ray: Any) -> None:
        """TombolaError where this machine has not what a run is to get: Ray would wait for ever."""
        there = ray.cluster_resources()
        if self.gpus_per_run > there.get("GPU", 0):
            raise TombolaError(
                f"gpus_per_run is {self.gpus_per_run:g}, but Ray finds {there.get('GPU', 0):g} GPUs here; ask for fewer"
            )


@dataclass(frozen=True)
class _Cluster:
    """Ray, connected to."""

    ray: Any
    engine: RayEngine
    shows: bool = False

    def carried_out(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Ended]]:
        """As `Crew` says."""
        ray, wanted = self.ray, self.engine
        task = ray.remote(num_cpus=wanted.cpus_per_run, num_gpus=wanted.gpus_per_run, max_retries=wanted.max_retries)(
            carry_out_there
        )
        here = _Place(str(Path.cwd()), tuple(sys.argv), tuple(sys.path))
        waiting = {task.remote(_sent(job), here, wanted.cpus_per_run): index for index, job in enumerate(jobs)}
        try:
            while waiting:
                for done in ray.wait(list(waiting), num_returns=1)[0]:
                    yield waiting.pop(done), _got(ray, done)
        finally:
            for pending in waiting:  # the sweep is ended in the middle
                with contextlib.suppress(Exception):
                    ray.cancel(pending, force=True)


@dataclass(frozen=True)
class _Place:
    """What a worker takes over from the program that the sweep was begun in."""

    folder: str
    argv: tuple[str, ...]
    path: tuple[str, ...]


def carry_out_there(job: bytes, place: _Place, threads: int) -> Ended:
    """Carry out one run in a worker: relative paths, and the command in run.json, are as in the sweep's own program."""
    before, argv = Path.cwd(), sys.argv
    try:
        if Path(place.folder).is_dir():
            os.chdir(place.folder)
        sys.argv = list(place.argv)
        sys.path += [entry for entry in place.path if entry not in sys.path]
        with limit_threads(threads):
            return carry_out(pickle.loads(job))  # from the program that began this worker
    finally:
        sys.argv = argv
        os.chdir(before)


def _sent(job: Job) -> bytes:
    """The job, to be read when what it names can be imported."""
    return pickle.dumps(Job(quiet(job.request), job.out.resolve()))


def _got(ray: Any, done: Any) -> Ended:
    """How a run ended; one whose workers were lost too often has failed."""
    try:
        ended: Ended = ray.get(done)
    except ray.exceptions.RayError as error:
        return Ended(f"its Ray worker was lost too often ({in_short(error)}); memory may have run out")
    return ended


def _imported() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise not_installed("Ray", "tombola[ray]", "use engine local") from None


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Ray changes the environment of the program that begins a session; restored afterwards."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets a handler of SIGTERM of its own; here the program's stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
