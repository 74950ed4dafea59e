"""Sweeps: which searches a file asks for, runs as `find` makes them, failures, and processes that are killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import tombola as tb
from cli_calls import call, last_json
from tombola.cli.sweep_settings import alone, searches_of
from tombola.errors import TombolaError
from tombola.machine import cores
from tombola.report.collection import read_collection
from tombola.report.collection_page import settings_table
from tombola.report.tables import Table
from tombola.results.settings import ComparedSetting, _contrast, compared
from tombola.results.statistics import figure
from tombola.study.sweep.engine import processes
from tombola.study.sweep.plan import Search
from tombola.study.sweep.settings import read_sweep
from tombola.train.options import Options

TINY: Mapping[str, Any] = {
    "method": "imp",
    "model": "mlp",
    "data": "digits",
    "rounds": 1,
    "recipe": {"length": "2it", "batch_size": 32},
}
OPTIONS = Options(progress=False, device="cpu")
HANG = 600.0


def searches(**more: Any) -> list[Search]:
    return searches_of(read_sweep({**TINY, **more}, "the sweep"), OPTIONS)


def file(folder: Path, **more: Any) -> str:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**TINY, **more}))
    return str(path)


# ---- what a file asks for ----------------------------------------------------------------------------------


def test_lists_are_crossed_seeds_last() -> None:
    found = searches(grid={"density": [0.5, 0.2], "recipe.lr": [0.1, 0.01]}, seeds=2)
    assert [tuple(one.setting.values()) for one in found] == [
        (density, lr, seed) for density in (0.5, 0.2) for lr in (0.1, 0.01) for seed in (0, 1)
    ]
    assert [list(one.setting) for one in found[:1]] == [["density", "recipe.lr", "seed"]]
    request = found[-1].request
    assert (request.method.density, request.recipe.lr, request.seed) == (0.2, 0.01, 1)  # type: ignore[attr-defined]
    assert (request.recipe.length, request.recipe.batch_size) == ("2it", 32)


def test_settings_may_be_listed_and_crossed_with_seeds() -> None:
    listed = [{"method": "edge-popup", "density": 0.3, "rounds": None}, {"density": 0.1}]
    with pytest.raises(TombolaError, match=r"density 0.3.*unknown field 'rounds'.*find edge-popup --help"):
        searches(grid=listed)
    only = {key: value for key, value in TINY.items() if key != "rounds"}
    sweep = read_sweep({**only, "grid": [listed[0] | {"scope": "global"}, {"rounds": 2}], "seeds": [7, 9]}, "x")
    del sweep.settings[0]["rounds"]  # type: ignore[attr-defined]
    found = searches_of(sweep, OPTIONS)
    assert [(one.request.method.name, one.request.seed) for one in found] == [
        ("edge-popup", 7),
        ("edge-popup", 9),
        ("imp", 7),
        ("imp", 9),
    ]


def test_fields_go_by_dotted_names_by_options_and_into_mappings() -> None:
    (one,) = searches(
        **{
            "model": {"name": "mlp", "args": {"hidden": [30]}},
            "method": {"name": "imp", "density": 0.5},
            "data.augment.crop": 1,
            "lr": 0.5,
            "model.init": "he_normal",
            "recipe.momentum": 0.8,
            "replicates": 2,
        }
    )
    request = one.request
    assert request.model.args == {"hidden": [30]}  # type: ignore[union-attr]
    assert request.model.init == "he_normal"  # type: ignore[union-attr]
    assert request.data.augment.crop == 1  # type: ignore[union-attr]
    assert (request.recipe.lr, request.recipe.momentum, request.replicates) == (0.5, 0.8, 2)
    widths = searches(**{"model_args.hidden": [30]}, grid={"model.args.hidden": [[10], [20]]})
    assert [x.request.model.args["hidden"] for x in widths] == [[10], [20]]  # type: ignore[union-attr]


def test_values_may_be_mappings_of_fields() -> None:
    found = searches(grid={"recipe": [{"lr": 0.1}, {"lr": 0.2, "momentum": 0}], "density": [0.5]})
    assert [dict(one.setting) for one in found] == [
        {"recipe.lr": 0.1, "density": 0.5},
        {"recipe.lr": 0.2, "recipe.momentum": 0, "density": 0.5},
    ]
    assert [(one.request.recipe.lr, one.request.recipe.length) for one in found] == [(0.1, "2it"), (0.2, "2it")]


def test_methods_are_compared_by_what_each_knows_of_what_all_share() -> None:
    found = searches(density=0.3, grid={"method": ["imp", "dense", {"name": "edge-popup", "density": 0.1}]})
    assert [one.request.method.name for one in found] == ["imp", "dense", "edge-popup"]
    assert (found[0].request.method.rounds, found[0].request.method.density) == (1, 0.3)  # type: ignore[attr-defined]
    assert found[2].request.method.density == 0.1  # type: ignore[attr-defined]
    with pytest.raises(TombolaError, match="unknown field 'roundz'"):
        searches(roundz=1, grid={"method": ["imp", "dense"]})


def test_best_values_of_one_of_several_methods_are_a_sweep_of_it_alone() -> None:
    sweep = read_sweep({**TINY, "grid": {"method": ["imp", "dense"]}, "search": {"lr": {"low": 0.1, "high": 1}}}, "x")
    for group in sweep.groups():
        one = read_sweep(alone(sweep, group).runnable(group, {"lr": 0.5}), "best.yaml")
        (search,) = searches_of(one, OPTIONS)
        assert (search.request.method.name, search.request.recipe.lr) == (group[0].setting["method"], 0.5)


def test_null_is_said_to_be_the_default() -> None:
    (one, _) = read_sweep({"grid": {"density": [None, 0.5]}, "seeds": [3]}, "x").groups()
    assert one[0].name == "density default, seed 3"


def test_the_note_on_settings_speaks_of_intervals_that_there_are() -> None:
    def table(*seeds: int) -> Table:
        settings = []
        for number, count in enumerate(seeds):
            values = figure([0.5 + 0.01 * number + 0.1 * seed * (1 + number) for seed in range(count)])
            one = ComparedSetting(
                setting={"density": number},
                runs=("run",),
                seeds=tuple(range(count)),
                metric="accuracy",
                higher_is_better=True,
                density=values,
                val_accuracy=values,
                test_accuracy=values,
            )
            settings.append(_contrast(one, settings[0] if settings else None))
        return settings_table(settings)

    assert "no intervals: they need 3 seeds" in table(2, 2).note
    assert "with its 95 % interval;" in table(3, 3).note
    assert "with its 95 % interval, where it has 3 seeds;" in table(3, 3, 1).note


def test_presets_are_those_of_each_setting() -> None:
    found = searches_of(read_sweep({"grid": {"model": ["lenet-300-100", "mlp"], "data": ["mnist"]}}, "x"), OPTIONS)
    assert found[0].request.recipe.length == "50000it"
    assert found[0].request.recipe != found[1].request.recipe


def test_a_part_of_a_mapping_stands_beside_the_rest_in_any_order() -> None:
    parts: dict[str, Any] = {"model.args.width": 9, "model_args": {"norms": True}}
    for given in (parts, dict(reversed(parts.items()))):
        found = searches_of(read_sweep({**given, "model": "mlp"}, "x"), OPTIONS)
        assert found[0].request.parts[0] == tb.ModelSpec("mlp", {"norms": True, "width": 9})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"densty": 0.1}, r"unknown field 'densty' \(did you mean density\?\); see tombola find imp --help"),
        ({"grid": {"recipe.lrr": [1]}}, r"recipe.lrr 1: unknown field 'recipe.lrr' \(did you mean recipe.lr"),
        ({"grid": {"density": [2]}}, r"density 2: density is 2.*"),
        ({"grid": {"density": ["a"]}}, r"density a: density is 'a', but it must be a number or null"),
        ({"grid": {"method": ["imp", "impp"]}}, r"method impp: unknown method 'impp' \(did you mean imp\?\)"),
        ({"grid": {"density": 0.1}}, r"grid has density: 0.1, but it must be a list of at least one value"),
        ({"grid": {"density": []}}, r"must be a list of at least one value"),
        ({"grid": {"density": [0.1, 0.1]}}, r"grid names 0.1 twice for density"),
        ({"grid": []}, r"grid is a list, but it must be a mapping of lists, or a list"),
        ({"grid": [3]}, r"setting 1 is 3, but it must be a mapping"),
        ({"seeds": 0}, r"seeds is 0, but it must be a number from 1 to 100,000"),
        ({"seeds": 100_000_000}, r"seeds is 100000000, but it must be a number from 1 to 100,000"),
        ({"grid": [{"recipe": {"lr": 1}}, {"lr": 2}, {"recipe.lr": 1.0}]}, r"settings 1 and 3 of grid are the same"),
        ({"grid": {"recipe": [{"lr": 1}], "recipe.lr": [2]}}, r"grid names recipe.lr twice; name it once"),
        ({"grid": {"recipe": [0.1]}}, r"grid: recipe is 0.1, but it must be a mapping such as"),
        ({"grid": {"method": ["imp", "dense"], "rounds": [1]}}, r"method dense, .*'rounds'.*by a list of settings"),
        ({"grid": {"model": ["mlpp"]}}, r"^the sweep, model mlpp: unknown model 'mlpp'"),
        ({"grid": {"data": ["digitss"]}}, r"^the sweep, data digitss: unknown data.*'digitss'"),
        ({"grid": {"data.val_size": [10**6]}}, r"^the sweep, data.val_size 1000000: "),
        ({"grid": {"density": [None, 2]}}, r"density 2: density is 2"),
        ({"seeds": [1, 1]}, r"seeds names one twice"),
        ({"seeds": 2, "grid": {"seed": [0]}}, r"names seed and seeds; name one of them"),
        ({"lr": 0.1, "recipe": {"lr": 0.2}}, r"lr is given twice, under two names"),
        ({"model_args": {"width": 8}, "model.args.width": 9}, r"model.args.width is given twice, under two names"),
        (
            {"grid": [{"lr": 0.1}, {"density": 0.5}, {"recipe.lr": 0.1}]},
            r"lr in setting 1 of grid and recipe.lr in setting 3 are one field under two names; give it one",
        ),
        ({"grid": [{"method": "imp"}, {"method.name": "dense"}]}, r"method in setting 1 .* method.name in setting 2"),
        (
            {"grid": [{"model_args": {"width": 8}}, {"model_args.width": 9}]},
            r"model_args in setting 1 .* model_args.width in setting 2",
        ),
        (
            {"grid": [{"lr": 0.1}, {"recipe.lr": 0.1}], "search": {"density": {"low": 0.1, "high": 0.5}}},
            r"lr in setting 1 .* recipe.lr in setting 2",
        ),
        ({"device": "cpu"}, r"device is no part of a search: give it to the sweep itself"),
        ({"recipe": 3}, r"recipe is 3, but it must be a mapping"),
        ({"against": 3}, r"against is 3, but it must be a mapping"),
        ({"grid": {"density": [0.5, 0.2]}, "against": {"lr": 1}}, r"against: unknown setting 'lr'; allowed: density"),
        ({"grid": {"density": [0.5, 0.2]}, "against": {"density": 1}}, r"against is density 1, which no run has"),
        ({"seed": -1}, r"seed is -1"),
        ({"replicates": 0}, r"replicates is 0"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError, match=message) as caught:
        tb.sweep({**TINY, **given}, out=tmp_path / "runs", options=OPTIONS)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    for text, message in (("[1]", "must be a mapping with a grid"), ("a: [", "is not readable YAML")):
        (tmp_path / "x.yaml").write_text(text)
        status, _, err = call("sweep", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "runs"))
        assert (status, len(err.splitlines())) == (2, 1)
        assert message in err
    status, _, err = call("sweep", str(tmp_path / "none.yaml"))
    assert (status, len(err.splitlines())) == (2, 1)
    assert "none.yaml" in err


# ---- runs --------------------------------------------------------------------------------------------------


def test_runs_are_those_of_find_and_finished_ones_are_skipped(tmp_path: Path) -> None:
    grid = file(tmp_path, grid={"density": [0.5, 0.2]}, seeds=2)
    out = str(tmp_path / "runs")
    find = ("find", "imp", "--model", "mlp", "--rounds", "1", "--length", "2it", "--batch_size", "32", "--out", out)
    first = last_json(*find, "--density", "0.2", "--seed", "1", "--progress", "false")
    planned = last_json("sweep", grid, "--out", out, "--dry_run")
    assert (planned["count"], planned["finished"]) == (4, 1)
    assert [run["state"] for run in planned["runs"]] == ["new", "new", "new", "finished"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [Path(first["run"]).name]  # nothing was written
    dry = tb.sweep(grid, out=out, options=OPTIONS, dry_run=True)
    assert [one.run for one in dry.searches] == [run["run"] for run in planned["runs"]]
    assert (dry.found, dry.trained, len(list((tmp_path / "runs").iterdir()))) == (1, 0, 1)
    done = last_json("sweep", grid, "--out", out, "--jobs", "1", "--progress", "false")
    assert (done["trained"], done["found"]) == (3, 1)
    assert [one["run"] for one in done["searches"]] == [run["run"] for run in planned["runs"]]
    assert done["searches"][0]["setting"] == {"density": 0.5, "seed": 0}
    again = last_json("sweep", grid, "--out", out, "--jobs", "1", "--progress", "false")
    assert (again["trained"], again["found"], again["run"]) == (0, 4, done["run"])
    folder = Path(done["run"])
    assert [one["setting"] for one in done["settings"]] == [{"density": 0.5}, {"density": 0.2}]
    assert done["settings"][1]["pairs"] == 2
    with (folder / "results.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["method.density"], row["seed"], row["level"]) for row in rows] == [
        (density, seed, level) for density in ("0.5", "0.2") for seed in "01" for level in "01"
    ]
    page = (folder / "report.html").read_text()
    assert all(f'href="../{one["run"]}"' in page for one in done["searches"])
    second = last_json(*find, "--density", "0.5", "--progress", "false")
    assert second["reused"] is True
    assert Path(second["run"]).name == done["searches"][0]["run"]
    listed = last_json("runs", "--out", out)["runs"]
    assert {(run["kind"], run["state"]) for run in listed} == {("find", "finished"), ("sweep", "finished")}


def test_settings_that_come_to_the_same_are_one_run(tmp_path: Path) -> None:
    listed = [{"density": 0.5}, {"density": 0.5, "recipe.lr": 1e-3}]
    lr = searches()[0].request.recipe.lr
    listed[1]["recipe.lr"] = lr
    found = tb.sweep({**TINY, "grid": listed}, out=tmp_path, options=OPTIONS)
    assert len(found.searches) == 2
    assert (found.trained, len(found.runs)) == (1, 1)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    grid = file(tmp_path, grid={"density": [1e-9, 0.5]})
    out = str(tmp_path / "runs")
    status, said, err = call("sweep", grid, "--out", out, "--jobs", "1", "--progress", "false", "--json")
    assert status == 2
    assert "1 of 2 runs failed" in err.splitlines()[-1]
    assert "density 1e-09:" in err
    assert '"trained": 1' in said.splitlines()[-1]
    result = tb.sweep(grid, out=out, options=OPTIONS)
    assert [search.error is None for search in result.searches] == [False, True]
    assert (result.found, result.trained, len(result.failed)) == (1, 0, 1)
    assert [one.name for one in result.settings] == ["density 0.5"]  # though it is the only one, and differs in nothing
    page = read_collection(Path(str(result.run)))
    assert settings_table(compared(page.searches)).rows[0][0] == "0.5"


def test_threads_are_shared_and_do_not_depend_on_the_number_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    monkeypatch.setattr("tombola.study.sweep.engine.usable_cores", lambda: 8)
    four = Options(device="cpu", threads=4)
    assert processes(None, Options(device="cpu")).jobs == 8
    assert processes(None, four).jobs == 4
    assert (processes(2, four).jobs, processes(2, four).threads) == (2, 4)
    assert processes(None, Options(device="cuda:1", threads=4)).jobs == 1  # one GPU is shared by none
    with pytest.raises(TombolaError, match="jobs is 0"):
        processes(0, Options())


def modified(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:  # replaced, or done with
        return None


def children(process: int) -> list[int]:
    """Worker processes that train: Python's own resource tracker is none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == process and "spawn_main" in command:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(cores.usable_cores() < 2, reason="one core, one process")
def test_a_sweep_that_is_killed_and_one_whose_worker_is_killed_end_with_the_same_bytes(tmp_path: Path) -> None:
    long = {**TINY, "recipe": {"length": "600it", "batch_size": 32, "eval_every": "100it"}}
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({**long, "grid": {"density": [0.5]}, "seeds": 2}))
    words = ["--jobs", "2", "--threads", "2", "--checkpoint_seconds", "0", "--progress", "false", "--device", "cpu"]

    def checkpoints(out: Path) -> list[Path]:
        return list(out.glob("imp-*/replicate-0/*/checkpoint.pt"))

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tombola", "sweep", str(grid), "--out", str(out), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def begun(process: subprocess.Popen[str], out: Path) -> None:
        before, end = {file: modified(file) for file in checkpoints(out)}, time.monotonic() + HANG
        while not any(modified(file) != before.get(file) for file in checkpoints(out)):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)

    cut = tmp_path / "cut"
    sweep = start(cut)
    begun(sweep, cut)
    sweep.kill()
    sweep.communicate()
    assert not list(cut.glob("imp-*/result.json")), "killed too late to show anything"
    sweep = start(cut)
    begun(sweep, cut)
    os.kill(children(sweep.pid)[0], signal.SIGKILL)
    _, err = sweep.communicate(timeout=HANG)
    assert sweep.returncode == 0, err
    assert "was killed by SIGKILL; its job goes on in a new one" in err
    whole = tmp_path / "whole"
    tb.sweep(str(grid), out=whole, options=Options(progress=False, device="cpu", threads=1))
    tickets = {file.relative_to(whole): file.read_bytes() for file in whole.rglob("network.ticket")}
    assert len(tickets) == 4
    assert {name: (cut / name).read_bytes() for name in tickets} == tickets
