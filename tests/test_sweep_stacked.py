"""Sweeps whose runs are stacked: the runs that `find` makes, equal but for the rounding of sums."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tombola as tb
from cli_calls import call
from tombola.errors import TombolaError
from tombola.results.codec import read
from tombola.results.sweep import Stacked, SweepResult
from tombola.study.sweep.engines import EngineOptions
from tombola.study.sweep.on_stack import StackWarning
from tombola.train.options import Options

pytestmark = pytest.mark.filterwarnings("ignore::tombola.study.sweep.on_stack.StackWarning")

OPTIONS = Options(progress=False, device="cpu", threads=1)
STACKED = EngineOptions("stacked")
RECIPE = {"length": "12it", "eval_every": "8it", "batch_size": 32, "optimizer": "sgd", "lr": 0.05, "momentum": 0.9}
IMP: Mapping[str, Any] = {"method": "imp", "model": "mlp", "data": "digits", "rounds": 1, "recipe": RECIPE}
GRID: Mapping[str, Any] = {"grid": {"density": [0.5, 0.2]}, "seeds": 2}
HANG = 600.0


def swept(settings: Mapping[str, Any], out: Path, engine: EngineOptions | None = STACKED) -> SweepResult:
    return tb.sweep(settings, out=out, engine=engine, options=OPTIONS)


def tickets(out: Path) -> dict[Path, tb.Ticket]:
    return {file.relative_to(out): tb.Ticket.load(file) for file in sorted(out.rglob("network.ticket"))}


def assert_same_tickets(one: Path, other: Path, tolerance: float) -> None:
    """Weights that both keep within `tolerance`, and of masks the same but for as small a part."""
    here, there = tickets(one), tickets(other)
    assert here.keys() == there.keys()
    assert here
    for name, ticket in here.items():
        mask, other_mask = ticket.mask, there[name].mask
        assert mask.kept == other_mask.kept
        differing = sum(int((kept != other_mask[key]).sum()) for key, kept in mask.items())
        assert differing <= tolerance * mask.total
        again = there[name].build("final").state_dict()
        for key, value in ticket.build("final").state_dict().items():
            both = mask[key] & other_mask[key] if key in mask else torch.ones_like(value, dtype=torch.bool)
            torch.testing.assert_close(value[both], again[key][both], rtol=0, atol=tolerance)


CONV = {"model": "conv-2", "model_args": {"width": 0.125}}
CASES: Mapping[str, tuple[Mapping[str, Any], int, float]] = {
    "imp": ({**IMP, "model": "lenet-300-100"}, 24, 1e-5),
    "imp, rewound, adam": ({**IMP, "rewind": "5it", "recipe": {**RECIPE, "optimizer": "adam", "lr": 1e-3}}, 19, 1e-5),
    "snip": ({**IMP, "criterion": "snip"}, 24, 1e-5),
    "convolutions": ({**IMP, **CONV}, 24, 1e-2),  # rounding decides which of equal inputs a pool takes
    "edge-popup": ({"method": "edge-popup", "model": "mlp", "recipe": RECIPE}, 12, 1e-5),
}
"""Settings, iterations of each run, and how far float32 weights may lie apart in the end."""


@pytest.mark.parametrize("case", CASES)
def test_stacked_runs_are_those_of_find(case: str, tmp_path: Path) -> None:
    settings, steps, tolerance = CASES[case]
    result = swept({**settings, **GRID}, tmp_path / "stacked")
    assert not result.failed
    assert [search.stacked for search in result.searches] == [Stacked(steps=steps, runs=4)] * 4
    local = swept({**settings, **GRID}, tmp_path / "local", None)
    assert [search.run for search in result.searches] == [search.run for search in local.searches]
    assert_same_tickets(tmp_path / "stacked", tmp_path / "local", tolerance)
    for run in result.runs:
        files = {file.relative_to(tmp_path / "stacked" / run) for file in (tmp_path / "stacked" / run).rglob("*")}
        assert files == {file.relative_to(tmp_path / "local" / run) for file in (tmp_path / "local" / run).rglob("*")}


def test_they_are_recorded_found_again_and_never_mixed_with_others(tmp_path: Path) -> None:
    short = {**IMP, "model": "mlp", "recipe": {**RECIPE, "length": "6it"}, "density": 0.5}
    result = swept({**short, "seeds": 2}, tmp_path)
    for run in result.runs:
        assert json.loads((tmp_path / run / "run.json").read_text())["machine"]["stacked"] is True
    again = swept({**short, "seeds": 2}, tmp_path)
    assert (again.trained, again.found) == (0, 2)
    assert [one.stacked for one in again.searches] == [one.stacked for one in result.searches]
    assert read(SweepResult, Path(str(again.run)) / "result.json") is not None
    found = tb.find(
        tb.ModelSpec("mlp"), "digits", tb.IterativePruning(density=0.5, rounds=1),
        recipe=tb.Recipe(**short["recipe"]), seed=1, options=OPTIONS, out=tmp_path,
    )  # fmt: skip
    assert found.mask == tb.Ticket.load(next((tmp_path / result.runs[1]).rglob("level-01/network.ticket"))).mask
    assert len(list(tmp_path.glob("imp-*"))) == 2

    (tmp_path / result.runs[0] / "result.json").unlink()
    local = swept({**short, "seeds": 2}, tmp_path, None)
    assert "begun with stacked True (now False)" in str(local.failed[0].error)
    assert swept({**short, "seeds": 2}, tmp_path).trained == 1  # alone at the table, and still of the same kind


def test_who_was_alone_is_told(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    listed: Sequence[Mapping[str, Any]] = [
        {"method": "imp", "rounds": 1, "density": 0.5},
        {"method": "imp", "rounds": 1, "density": 0.2, "recipe.clip_norm": 1.0},
        {"method": "imp", "rounds": 1, "density": 1e-9},
        {"method": "imp", "rounds": 1, "density": 0.3},
    ]
    recipe = {**RECIPE, "length": "6it"}
    grid.write_text(yaml.safe_dump({"model": "mlp", "recipe": recipe, "grid": [dict(one) for one in listed]}))
    words = ["--engine", "stacked", "--stack", "4", "--device", "cpu", "--progress", "false"]
    status, said, err = call("sweep", str(grid), "--out", str(tmp_path / "runs"), *words)
    assert status == 2, err  # of the one that has nothing to keep
    assert "1 of 4 runs failed" in err.splitlines()[-1]
    done = [line for line in said.splitlines() if line.startswith("done")]
    lines = {line.split("density ")[1].split(" ")[0].rstrip(","): line for line in done}
    assert lines["0.5"].endswith(": stacked with 1 other")
    assert lines["0.3"].endswith(": stacked with 1 other")
    assert lines["0.2"].endswith(": trained alone; its gradients are clipped (clip_norm)")


def test_no_gain_on_a_cpu_is_said_in_a_line(tmp_path: Path) -> None:
    with pytest.warns(StackWarning, match="on a CPU"):
        swept({**IMP, "model": "mlp", "recipe": {**RECIPE, "length": "2it"}, "density": 0.5}, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"engine": "stacked", "jobs": 2},
            "jobs is for runs beside each other; set engine to local, or leave",
        ),
        ({"engine": "stacked", "cpus_per_run": 2}, "cpus_per_run is for Ray"),
        ({"stack": 2}, "stack is for stacked runs; set engine to stacked"),
        ({"engine": "stacked", "stack": 0}, "stack is 0; give a whole number of at least 1"),
    ],
)
def test_options_without_an_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        EngineOptions(**given)


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    long = {**IMP, "model": "mlp", "recipe": {**RECIPE, "length": "400it", "eval_every": "100it"}, **GRID}
    grid, cut = tmp_path / "grid.yaml", tmp_path / "cut"
    grid.write_text(yaml.safe_dump(long))
    words = ["--engine", "stacked", "--threads", "1", "--checkpoint_seconds", "0", "--progress", "false"]
    command = [sys.executable, "-m", "tombola", "sweep", str(grid), "--out", str(cut), "--device", "cpu", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + HANG
    while len(list(cut.glob("imp-*/replicate-0/*/checkpoint.pt"))) < 4:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not list(cut.glob("imp-*/result.json")), "killed too late to show anything"
    result = swept(long, cut)
    assert not result.failed
    assert all(one.stacked is not None and 0 < one.stacked.steps < 800 for one in result.searches)
    swept(long, tmp_path / "whole")
    here, there = tickets(cut), tickets(tmp_path / "whole")
    assert here.keys() == there.keys()
    assert [one.mask.kept for one in here.values()] == [one.mask.kept for one in there.values()]


@pytest.mark.cuda
def test_a_graph_of_the_step_on_a_gpu(tmp_path: Path) -> None:
    on_gpu = Options(progress=False, device="cuda")
    for case in ("imp", "edge-popup", "convolutions"):
        settings, steps, tolerance = {**CASES[case][0], **GRID}, *CASES[case][1:]
        result = tb.sweep(settings, out=tmp_path / case, engine=STACKED, options=on_gpu)
        assert [search.stacked for search in result.searches] == [Stacked(steps=steps, runs=4)] * 4
        tb.sweep(settings, out=tmp_path / f"{case}-local", options=on_gpu)
        assert_same_tickets(tmp_path / case, tmp_path / f"{case}-local", max(tolerance, 1e-4))
