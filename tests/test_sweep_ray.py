"""Sweeps on Ray: a real session on this machine, whose worker is killed in the middle of a run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import tombola as tb
from tombola.errors import TombolaError
from tombola.study.sweep.engines import EngineOptions
from tombola.study.sweep.on_ray import RayEngine, RayWarning
from tombola.train.options import Options

HANG = 900.0
OPTIONS = Options(progress=False, device="cpu", checkpoint_seconds=0)
BASE: Mapping[str, Any] = {"method": "imp", "model": "mlp", "rounds": 1, "density": 0.5, "batch_size": 32}
SHORT, LONG = {"recipe.length": "2it"}, {"recipe.length": "600it", "recipe.eval_every": "100it"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "rai"}, r"unknown engine 'rai' \(did you mean ray\?\); allowed: local, ray"),
        ({"jobs": 0}, "jobs is 0; give a whole number of at least 1"),
        ({"engine": "ray", "cpus_per_run": 0}, "cpus_per_run is 0"),
        ({"engine": "ray", "gpus_per_run": -1}, "gpus_per_run is -1"),
        ({"engine": "ray", "max_retries": -1}, "max_retries is -1"),
        ({"gpus_per_run": 1}, "gpus_per_run is for Ray; set engine to ray"),
        ({"address": "auto"}, "address is for Ray"),
        ({"engine": "ray", "address": "auto", "jobs": 2}, "leave jobs out"),
    ],
)
def test_wrong_engine_options_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        EngineOptions(**given)


def test_threads_are_cpus_per_run() -> None:
    with pytest.raises(TombolaError, match="threads is for engine local"):
        EngineOptions("ray").made(Options(threads=1))


def test_ray_is_asked_for_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        TombolaError, match=r"^Ray is not installed; run pip install 'tombola\[ray\]', or use engine local$"
    ):
        tb.sweep({**BASE, "length": "2it"}, out=tmp_path, engine=EngineOptions("ray"), options=OPTIONS)


def test_a_cluster_without_room_for_a_run_is_a_warning() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    RayEngine(cpus_per_run=4).warn_if_none_fits(nodes)
    for wanted in (RayEngine(cpus_per_run=8), RayEngine(gpus_per_run=0.5)):
        with pytest.warns(RayWarning, match="runs wait until one joins"):
            wanted.warn_if_none_fits(nodes)


def worker_of(out: Path) -> int | None:
    """The Ray worker that has a file of this run open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not (process / "cmdline").read_bytes().startswith(b"ray::"):
                continue
            links = [os.readlink(link) for link in (process / "fd").iterdir()]  # noqa: PTH115
        except OSError:
            continue
        if any(link.startswith(str(out)) for link in links):
            return int(process.name)
    return None


def run_of(out: Path, length: str) -> Path | None:
    for file in out.glob("imp-*/config.yaml"):
        if f"length: {length}" in file.read_text():
            return file.parent
    return None


def kill_the_long_one(out: Path, seen: dict[str, Any]) -> None:
    """Once the short run is finished and the long one has a checkpoint, kill the worker of the long one."""
    end = time.monotonic() + HANG
    while time.monotonic() < end and "killed" not in seen:
        time.sleep(0.02)
        short, long = run_of(out, "2it"), run_of(out, "600it")
        if short is None or long is None or not (short / "result.json").exists():
            continue
        if list(long.glob("replicate-0/*/checkpoint.pt")) and (worker := worker_of(long)) is not None:
            seen["finished"] = (short / "result.json").stat().st_mtime_ns
            seen["early"] = not (long / "result.json").exists()
            os.kill(worker, signal.SIGKILL)
            seen["killed"] = worker


@pytest.fixture
def not_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers give way to other programs, of which there may be many where tests run."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_loses_nothing_and_nothing_runs_twice(tmp_path: Path, not_nice: None) -> None:
    ray = pytest.importorskip("ray")
    handler, before = signal.getsignal(signal.SIGTERM), dict(os.environ)
    out, seen = tmp_path / "runs", dict[str, Any]()
    killer = threading.Thread(target=kill_the_long_one, args=(out, seen))
    killer.start()
    grid = {**BASE, "grid": [SHORT, LONG]}
    done = tb.sweep(grid, out=out, engine=EngineOptions("ray", jobs=2), options=OPTIONS)
    killer.join()
    assert seen["early"], "killed too late to show anything"
    assert (done.trained, done.found, done.failed) == (2, 0, ())
    short = run_of(out, "2it")
    assert short is not None
    assert (short / "result.json").stat().st_mtime_ns == seen["finished"]
    assert "default_worker" not in (short / "run.json").read_text()  # but the command of the sweep
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert dict(os.environ) == before
    whole = tb.sweep(grid, out=tmp_path / "whole", options=Options(progress=False, device="cpu", threads=1))
    assert whole.runs == done.runs
    for ticket in (tmp_path / "whole").rglob("network.ticket"):
        assert ticket.read_bytes() == (out / ticket.relative_to(tmp_path / "whole")).read_bytes()
    again = tb.sweep(grid, out=out, engine=EngineOptions("ray", jobs=2), options=OPTIONS)
    assert (again.trained, again.found) == (0, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_is_named_by_its_address_and_a_session_of_the_users_own_stays(tmp_path: Path, not_nice: None) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    handler, environment = signal.getsignal(signal.SIGTERM), dict(os.environ)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        grid = {**BASE, "grid": [{**SHORT, "density": 1e-9}, SHORT]}
        there = EngineOptions("ray", address=cluster.address)
        done = tb.sweep(grid, out=tmp_path, engine=there, options=OPTIONS)
        assert [search.error is None for search in done.searches] == [False, True]
        assert (done.trained, ray.is_initialized()) == (1, False)
        ray.init(cluster.address, configure_logging=False, log_to_driver=False)
        node = ray.get_runtime_context().get_node_id()
        again = tb.sweep({**grid, "seeds": [3]}, out=tmp_path, engine=EngineOptions("ray"), options=OPTIONS)
        assert again.trained == 1
        assert ray.is_initialized()
        assert ray.get_runtime_context().get_node_id() == node
    finally:
        ray.shutdown()
        cluster.shutdown()
        signal.signal(signal.SIGTERM, handler)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
