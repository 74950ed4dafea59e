"""Searches over numbers, in sweeps and for arms of comparisons: proposals, trials as runs, the best, resuming."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import tombola as tb
from cli_calls import call, last_json
from tombola.errors import TombolaError
from tombola.study.sweep.ranges import Range, read_ranges
from tombola.study.sweep.settings import read_sweep
from tombola.study.sweep.tuned_arms import Tuning
from tombola.train.options import Options

OPTIONS = Options(progress=False, device="cpu")
TINY: Mapping[str, Any] = {
    "method": "at-init",
    "model": "mlp",
    "data": "digits",
    "recipe": {"length": "8it", "batch_size": 32},
}
SEARCH = {"recipe.lr": {"low": 1e-4, "high": 1e-1, "log": True}}


# ---- ranges ------------------------------------------------------------------------------------------------


def test_values_have_few_digits_and_stay_inside() -> None:
    assert Range(1e-4, 1e-1, log=True).rounded(0.0123456) == 0.01235
    assert Range(0.11111, 0.22222).rounded(0.111111) == 0.11111
    assert Range(0.1, 0.99996).rounded(0.99996) == 0.99996


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "search is 3, but it must be a mapping"),
        ({}, "but it must be a mapping"),
        ({"lr": 3}, "search has lr: 3, but it must be a range"),
        ({"lr": {"low": 1, "hig": 2}}, r"unknown part of the range of lr 'hig' \(did you mean high\?\)"),
        ({"lr": {"low": 1}}, "high of lr is None, but it must be a number"),
        ({"lr": {"low": "a", "high": 1}}, "low of lr is 'a', but it must be a number"),
        ({"lr": {"low": 2, "high": 1}}, "lr: the range 2 to 1 has no inside"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "cannot be logarithmic; begin it above 0"),
        ({"lr": {"low": 0, "high": 1, "log": 1}}, "log of lr is 1, but it must be true or false"),
    ],
)
def test_wrong_ranges_are_one_line(given: Any, message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        read_ranges(given, "x.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trials": 3}, "has trials, and nothing to search"),
        ({"search": SEARCH, "against": {"density": 1}}, "has against and search"),
        ({"search": SEARCH, "trials": 0}, "trials is 0, but it must be a whole number from 1 to 100,000"),
        ({"search": {"recipe.lrr": {"low": 1, "high": 2}}}, r"unknown field 'recipe.lrr' \(did you mean recipe.lr"),
        ({"search": {"density": {"low": 0.1, "high": 2}}}, "density 2.0.*: density is 2.0"),
        ({"search": SEARCH, "grid": {"lr": [1]}}, "recipe.lr is given twice, under two names"),
    ],
)
def test_a_wrong_search_is_one_line_before_anything_runs(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        tb.sweep({**TINY, **given}, out=tmp_path / "runs", options=OPTIONS)
    assert not (tmp_path / "runs").exists()


def test_the_best_is_written_as_a_sweep_that_can_be_run() -> None:
    sweep = read_sweep({**TINY, "lr": 3, "search": SEARCH, "grid": {"density": [0.5, 0.2]}, "seeds": 2}, "x")
    groups = sweep.groups()
    assert [len(group) for group in groups] == [2, 2]
    tried = sweep.tried(groups[1][1], {"recipe.lr": 0.5})
    assert tried.setting == {"density": 0.2, "recipe.lr": 0.5, "seed": 1}
    assert sweep.runnable(groups[1], {"recipe.lr": 0.5}) == {
        "method": "at-init",
        "model": "mlp",
        "data": "digits",
        "recipe.length": "8it",
        "recipe.batch_size": 32,
        "lr": 3,
        "grid": {"density": [0.2], "recipe.lr": [0.5]},
        "seeds": [0, 1],
    }


def test_optuna_is_asked_for_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(TombolaError, match=r"^Optuna is not installed; run pip install 'tombola\[optuna\]'$"):
        tb.sweep({**TINY, "search": SEARCH}, out=tmp_path / "runs", options=OPTIONS)
    assert not (tmp_path / "runs").exists()


# ---- trials are runs ---------------------------------------------------------------------------------------


def test_the_best_is_by_validation_and_a_search_begun_again_finds_its_trials(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    file, out = tmp_path / "search.yaml", tmp_path / "runs"
    content = {**TINY, "grid": {"density": [0.5]}, "search": SEARCH, "seeds": 2}
    file.write_text(yaml.safe_dump({**content, "trials": 2}))
    words = ["--out", str(out), "--jobs", "1", "--progress", "false", "--device", "cpu"]
    planned = last_json("sweep", str(file), *words, "--dry_run")
    assert (planned["count"], planned["ranges"]) == (4, {"recipe.lr": "0.0001 to 0.1, logarithmically"})
    assert not out.exists()
    short = last_json("sweep", str(file), *words)
    assert (short["trained"], short["found"]) == (4, 0)
    file.write_text(yaml.safe_dump({**content, "trials": 3}))
    longer = last_json("sweep", str(file), *words)
    assert (longer["trained"], longer["found"]) == (2, 4)  # the same first proposals, found finished
    (tuned,) = longer["tuned"]
    assert (tuned["setting"], tuned["trials"], tuned.get("failed", 0)) == ({"density": 0.5}, 3, 0)
    means = {one["setting"]["lr"]: one["val_accuracy"]["mean"] for one in longer["settings"]}
    assert len(means) == 3
    lr = max(means, key=lambda value: means[value])
    assert tuned["values"] == {"recipe.lr": lr}
    assert tuned["val_accuracy"] == pytest.approx(means[lr])
    best = last_json("sweep", str(Path(longer["run"]) / "best.yaml"), *words)
    assert (best["trained"], best["found"]) == (0, 2)


def test_a_trial_that_fails_is_counted_and_does_not_stop_the_search(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    ranges = {"density": {"low": 1e-9, "high": 1, "log": True}}  # the lowest cut the network
    found = tb.sweep({**TINY, "search": ranges, "trials": 4}, out=tmp_path, options=OPTIONS)
    (tuned,) = found.tuned
    assert tuned.failed == len(found.failed) > 0
    assert tuned.trials == 4
    low = {"density": {"low": 1e-9, "high": 1e-8, "log": True}}
    with pytest.raises(TombolaError, match="none of 1 trials could be carried out; the last: "):
        tb.sweep({**TINY, "search": low, "trials": 1}, out=tmp_path, options=OPTIONS)


# ---- arms of a comparison ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "more", "message"),
    [
        ("lrr", {}, r"unknown number to tune 'lrr' \(did you mean lr\?\)"),
        ("optimizer", {}, "unknown number to tune 'optimizer'"),
        ("lr: 1", {}, "tune is 'lr: 1'; give a number's name, or one with a range"),
        ("lr: 2..1", {}, "the range 2 to 1 has no inside"),
        ("lr", {"trials": 0}, "trials is 0"),
        ("lr", {"tune_seeds": 0}, "tune_seeds is 0"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(what: str, more: dict[str, int], message: str) -> None:
    with pytest.raises(TombolaError, match=message):
        Tuning(what, **more)


def test_ranges_of_arms() -> None:
    assert Tuning("recipe.lr: 1e-3..1e-1").range == Range(1e-3, 1e-1, log=True)
    assert Tuning("momentum: 0..0.9").range == Range(0, 0.9)
    assert (Tuning("lr").field, Tuning("lr").range) == ("lr", None)


def test_every_arm_of_a_comparison_has_its_own_tuned_rate(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    arms, out = tmp_path / "arms.yaml", tmp_path / "runs"
    arms.write_text("[{name: dense, method: dense}, {name: mask, method: edge-popup}]")
    words = ["--model", "mlp", "--arms", str(arms), "--length", "6it", "--batch_size", "32", "--replicates", "2"]
    words += ["--out", str(out), "--progress", "false", "--device", "cpu"]
    said = last_json("study", "compare", *words, "--tune", "lr: 1e-3..1", "--trials", "2")
    rates = {arm["name"]: arm["recipe"]["lr"] for arm in said["arms"]}
    assert all(1e-3 <= rate <= 1 for rate in rates.values())
    assert said["note"].startswith("Every arm has its own tuned lr: the best of 2 trials from 0.001 to 1")
    assert f"Chosen: dense {rates['dense']:g}, mask {rates['mask']:g}." in said["note"]
    trials = [run for run in last_json("runs", "--out", str(out))["runs"] if run["kind"] == "find"]
    assert len(trials) == 4
    seeds = {run["config"]["seed"] for run in trials}
    assert len(seeds) == 1
    assert not seeds & set(said["seeds"])
    again = last_json("study", "compare", *words, "--tune", "lr: 1e-3..1", "--trials", "2")
    assert (again["reused"], again["run"]) == (True, said["run"])
    status, _, err = call("study", "compare", *words, "--tune", "weight_decay")
    assert status == 2
    assert "weight_decay of arm 'dense' is 0.0, around which there is nothing to try; give a range" in err
