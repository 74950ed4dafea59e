"""Runs compared by their settings: what differs, figures over seeds, paired differences, the page and the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import tombola as tb
from cli_calls import call
from report_runs import write_json
from tombola.errors import TombolaError
from tombola.report.page import write_report
from tombola.results.search import Replicate, SearchResult
from tombola.results.settings import (
    ComparedSetting,
    SearchRun,
    best,
    check_against,
    compared,
    differing,
    settings_of,
    short_names,
)
from trial_results import level_figures


def config(density: float, lr: float, seed: int, method: str = "imp", **more: Any) -> dict[str, Any]:
    return {
        "method": {"name": method, "version": 1, "density": density, **more},
        "model": {"name": "mlp", "args": {}},
        "data": {"name": "digits", "fingerprint": "abc"},
        "recipe": {"lr": lr, "length": "1ep"},
        "seed": seed,
        "replicates": 1,
    }


def search(val: float, test: float, seed: int, density: float = 0.5) -> SearchResult:
    return SearchResult(
        method="imp",
        model="mlp",
        data="digits",
        metric="accuracy",
        higher_is_better=True,
        input_shape=None,
        recipe={"length": "1ep"},
        parameters=None,
        replicates=(
            Replicate(
                replicate=0,
                seed=seed,
                ticket=None,
                arms={"ticket": (level_figures(0, val_accuracy=val, test_accuracy=test, density=density),)},
            ),
        ),
    )


def run(density: float, lr: float, seed: int, test: float, val: float | None = None, **more: Any) -> SearchRun:
    found = search(test if val is None else val, test, seed, density)
    return SearchRun(f"{density}-{lr}-{seed}", config(density, lr, seed, **more), found)


def test_settings_are_what_a_run_is_asked_for() -> None:
    assert settings_of(config(0.5, 0.1, 3)) == {
        "method.name": "imp",
        "method.density": 0.5,
        "model.name": "mlp",
        "data.name": "digits",
        "recipe.lr": 0.1,
        "recipe.length": "1ep",
        "replicates": 1,
    }


def test_what_differs_is_named_by_its_last_word_where_that_is_enough() -> None:
    several = [settings_of(config(0.5, lr, seed)) for lr in (0.1, 0.2) for seed in (0, 1)]
    assert differing(several) == ["recipe.lr"]
    assert short_names(["recipe.lr", "method.name"]) == {"recipe.lr": "lr", "method.name": "method"}
    assert short_names(["a.size", "b.size"]) == {"a.size": "a.size", "b.size": "b.size"}
    # a field that one method alone has is no difference; one with two values is
    others = [settings_of(config(0.5, 0.1, 0, "imp", rounds=1)), settings_of(config(0.5, 0.1, 0, "edge-popup"))]
    assert differing(others) == ["method.name"]


def test_figures_are_over_seeds_and_differences_paired_by_seed() -> None:
    runs = [run(0.5, 0.1, seed, test) for seed, test in ((0, 0.80), (1, 0.90), (2, 0.85))]
    runs += [run(0.2, 0.1, seed, test) for seed, test in ((2, 0.84), (0, 0.78), (1, 0.87))]
    first, second = compared(runs)
    assert (first.setting, second.setting) == ({"density": 0.5}, {"density": 0.2})
    assert first.test_accuracy.mean == pytest.approx(0.85)
    # t = 4.302653 with 2 degrees of freedom, standard deviation 0.05 over sqrt(3)
    assert first.test_accuracy.interval == pytest.approx((0.85 - 0.124208, 0.85 + 0.124208), abs=1e-5)
    assert (first.against, first.test_difference) == (None, None)
    assert (second.against, second.pairs, second.seeds) == ({"density": 0.5}, 3, (2, 0, 1))
    # -0.01, -0.02, -0.03: mean -0.02, deviation 0.01
    assert second.test_difference is not None
    assert second.test_difference.difference == pytest.approx(-0.02)
    assert second.test_difference.interval == pytest.approx((-0.02 - 0.0248414, -0.02 + 0.0248414), abs=1e-6)


def test_shared_seeds_alone_are_paired_and_none_are_welchs() -> None:
    runs = [run(0.5, 0.1, seed, 0.8) for seed in (0, 1)] + [run(0.2, 0.1, seed, 0.7 + seed / 10) for seed in (1, 2)]
    (_, second) = compared(runs)
    assert second.pairs == 1
    assert second.test_difference is not None
    assert second.test_difference.difference == pytest.approx(0.0)  # seed 1 alone
    apart = [run(0.5, 0.1, seed, 0.8) for seed in (0, 1)] + [run(0.2, 0.1, seed, 0.7) for seed in (2, 3)]
    (_, third) = compared(apart)
    assert third.pairs == 0
    assert third.test_difference is not None
    assert third.test_difference.difference == pytest.approx(-0.1)


def by_name(settings: tuple[ComparedSetting, ...]) -> dict[str, ComparedSetting]:
    return {one.name: one for one in settings}


def test_a_named_setting_is_compared_with_at_the_same_other_settings() -> None:
    runs = [run(d, lr, seed, 0.5 + d / 10 + lr) for d in (0.5, 0.2) for lr in (0.1, 0.2) for seed in (0, 1)]
    found = by_name(compared(runs, {"recipe.lr": 0.2}))
    assert found["density 0.5, lr 0.1"].against == {"density": 0.5, "lr": 0.2}
    assert found["density 0.2, lr 0.1"].against == {"density": 0.2, "lr": 0.2}
    assert found["density 0.2, lr 0.2"].against is None
    configs = [one.config for one in runs]
    check_against(configs, {"lr": "0.2"})  # as a command line may give it
    with pytest.raises(TombolaError, match=r"unknown setting 'lrr' \(did you mean lr\?\); allowed: density, lr"):
        check_against(configs, {"lrr": 1})
    with pytest.raises(TombolaError, match=r"against is lr 0.3, which no run has; settings: density 0.5, lr 0.1; "):
        check_against(configs, {"lr": 0.3})


def test_the_best_is_chosen_by_validation_alone() -> None:
    runs = [run(0.5, 0.1, 0, test=0.7, val=0.9), run(0.2, 0.1, 0, test=0.99, val=0.8)]
    top = best(compared(runs))
    assert top is not None
    assert top.setting == {"density": 0.5}
    worse = [one.replace(higher_is_better=False) for one in compared(runs)]
    top = best(worse)
    assert top is not None
    assert top.setting == {"density": 0.2}


# ---- the page and the table ----------------------------------------------------------------------------------


def make_runs(folder: Path, densities: tuple[float, ...], lrs: tuple[float, ...], seeds: int) -> None:
    for density in densities:
        for lr in lrs:
            for seed in range(seeds):
                name = f"imp-{density}-{lr}-{seed}"
                record = {"kind": "find", "name": name, "command": "c", "config": config(density, lr, seed)}
                write_json(folder / name / "run.json", record)
                accuracy = 0.6 + density / 10 + lr / 10 + seed / 100
                found = search(accuracy, accuracy - 0.01, seed, density)
                write_json(folder / name / "result.json", {"kind": "find", **found.as_dict()})


def test_a_folder_of_runs_is_one_page_with_few_figures(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs", (0.5, 0.2, 0.1), (0.1, 0.2), 3)
    (tmp_path / "runs" / "imp-0.5-0.1-0" / "report.html").write_text("x")
    (tmp_path / "runs" / "imp-0.5-0.1-1" / "result.json").unlink()
    page = write_report([tmp_path / "runs"], tmp_path / "page")
    text = page.html.read_text()
    names = {path.name for path in page.figures}
    assert {"settings-density.svg", "settings-lr.svg"} <= names
    assert len(names) <= 6  # two figures and a close-up, twice: nothing for each run
    assert 'href="../runs/imp-0.5-0.1-0/report.html"' in text
    assert 'href="../runs/imp-0.2-0.2-2"' in text
    assert "imp-0.5-0.1-1: can be resumed." in text
    assert "6 settings in 17 finished runs; the best by its mean validation accuracy" in text
    assert "density 0.5, lr 0.2" in text
    assert "t-intervals of the mean" in text
    again = write_report([tmp_path / "runs"], tmp_path / "page")
    assert again.html.read_text() == text
    other = write_report([tmp_path / "runs"], tmp_path / "other", {"lr": 0.2})
    assert "the setting that shares the rest" in other.html.read_text()
    with pytest.raises(TombolaError, match="against: unknown setting 'x'"):
        write_report([tmp_path / "runs"], tmp_path / "third", {"x": 1})
    with pytest.raises(TombolaError, match="against is for a folder of runs"):
        write_report([tmp_path / "runs" / "imp-0.2-0.2-2"], tmp_path / "third", {"lr": 1})


def test_what_cannot_be_read_is_said_and_left_out(tmp_path: Path) -> None:
    make_runs(tmp_path, (0.5, 0.2), (0.1,), 1)
    (tmp_path / "imp-0.5-0.1-0" / "result.json").write_text("{")
    write_json(tmp_path / "odd" / "run.json", {"kind": "verify", "name": "odd", "config": {}})
    write_json(tmp_path / "odd" / "result.json", {"kind": "verify"})
    text = write_report([tmp_path], tmp_path / "page.html").html.read_text()
    assert "imp-0.5-0.1-0: damaged: result.json is not readable JSON." in text
    assert "verify, finished" in text
    assert "1 setting in 1 finished run." in text


def test_report_takes_a_folder_on_the_command_line(tmp_path: Path) -> None:
    make_runs(tmp_path, (0.5, 0.2), (0.1, 0.2), 1)
    status, out, err = call("report", str(tmp_path), "--against", "{lr: 0.2}", "--json")
    assert (status, err.count("wrote")) == (0, 1)
    said = json.loads(out.splitlines()[-1])
    assert said["report"] == str(tmp_path / "report.html")
    assert said["recipe"] is None


def test_a_table_has_a_column_for_every_setting_that_differs(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs", (0.5, 0.2), (0.1,), 2)
    rows = tb.results(tmp_path / "runs")
    assert [(row.seed, rows.settings[row.run]) for row in rows] == [
        (seed, {"method.density": density}) for density in (0.2, 0.5) for seed in (0, 1)
    ]
    assert rows[:2].settings == rows.settings
    rows.write_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(line["seed"], line["method.density"]) for line in read] == [
        ("0", "0.2"),
        ("1", "0.2"),
        ("0", "0.5"),
        ("1", "0.5"),
    ]
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows.write_parquet(tmp_path / "rows.parquet")
    frame = pandas.read_parquet(tmp_path / "rows.parquet")
    assert frame["method.density"].tolist() == [0.2, 0.2, 0.5, 0.5]
    pandas.testing.assert_frame_equal(frame, rows.to_pandas())


def test_a_column_of_lists_and_words_is_text(tmp_path: Path) -> None:
    for number, value in enumerate(([1, 2], "a", None)):
        name = f"run-{number}"
        write_json(tmp_path / name / "run.json", {"kind": "find", "name": name, "config": config(0.5, 0.1, 0, x=value)})
        write_json(tmp_path / name / "result.json", {"kind": "find", **search(0.5, 0.5, 0).as_dict()})
    assert tb.results(tmp_path).columns["method.x"] == ["[1, 2]", "a", None]
