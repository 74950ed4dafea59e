"""Pages of runs that are still under way say what is there, and what is not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from report_runs import LAYERS, TOTAL, write_json, write_log
from tombola.report import style
from tombola.report.page import write_report
from tombola.report.read import read_run
from tombola.report.words import verdict
from tombola.results.trial import LayerResult
from trial_results import level_figures


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")
    monkeypatch.setattr(style, "svg_bytes", lambda figure: b"<svg></svg>")


def stage(root: Path, folder: str, name: str, density: float, value: float = 0.9) -> None:
    """A finished stage, its files named as its search names them."""
    place = root / folder / name
    write_log(place / "metrics.csv", value, 900, random.Random(name), rows=4)
    level = level_figures(
        int(name.rpartition("-")[2]),
        density=density,
        kept=round(density * TOTAL),
        total=TOTAL,
        test_accuracy=value,
        val_accuracy=value,
        steps=1000,
        metrics=f"{folder.rpartition('/')[2]}/{name}/metrics.csv",  # as seen from the search's own directory
        layers=tuple(LayerResult(name=n, kept=round(density * t), total=t) for n, t in LAYERS.items()),
    )
    write_json(place / "result.json", level.as_dict())


def test_a_search_with_a_level_under_way(tmp_path: Path) -> None:
    config = {"method": {"name": "imp"}, "model": {"name": "lenet"}, "data": {"name": "digits"}}
    write_json(tmp_path / "run.json", {"kind": "find", "config": config})
    for level, density in enumerate((1.0, 0.5)):
        stage(tmp_path, "replicate-0", f"level-{level:02d}", density)
    write_log(tmp_path / "replicate-0" / "level-02" / "metrics.csv", 0.9, 900, random.Random(0), rows=4)
    run = read_run(tmp_path)
    assert run.find is not None
    assert (run.find.method, run.find.model, run.find.data) == ("imp", "lenet", "digits")
    assert [level.density for level in run.find.replicates[0].arms["ticket"]] == [1.0, 0.5]
    said = " ".join(run.missing)
    assert "The run has not finished" in said
    assert "replicate-0/level-02 has begun and not finished: its log reaches iteration 12,000." in said
    page = write_report([tmp_path], tmp_path / "out").html.read_text()
    assert "The run has not finished" in page


def test_replicates_are_in_their_order(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"kind": "find"})
    for number in (10, 2, 0):
        stage(tmp_path, f"replicate-{number}", "level-00", 1.0, 0.9 + number / 1000)
    find = read_run(tmp_path).find
    assert find is not None
    assert [rep.replicate for rep in find.replicates] == [0, 2, 10]


def test_a_study_shows_the_arms_that_have_something(tmp_path: Path) -> None:
    arms = [{"name": name, "method": {"name": method}} for name, method in (("Dense", "dense"), ("Joint 0.5", "joint"))]
    arms.append({"name": "Late one", "method": {"name": "joint"}})
    write_json(tmp_path / "run.json", {"kind": "study", "config": {"study": "joint", "arms": arms}})
    for number in (0, 1):
        stage(tmp_path, f"dense/replicate-{number}", "level-00", 1.0, 0.97)
    stage(tmp_path, "joint-0.5/replicate-0", "level-01", 0.5, 0.95)
    run = read_run(tmp_path)
    assert run.study is not None
    assert [(arm.name, len(arm.replicates)) for arm in run.study.arms] == [("Dense", 2), ("Joint 0.5", 1)]
    level = run.study.arms[1].replicates[0][0]
    assert level.metrics == str(tmp_path / "joint-0.5" / "replicate-0" / "level-01" / "metrics.csv")
    assert "Finished so far: Dense 2 replicates, Joint 0.5 1 replicate." in run.study.note
    page = write_report([tmp_path], tmp_path / "out").html.read_text()
    for phrase in ("The run has not finished", "Joint 0.5", "97.00"):
        assert phrase in page


def test_a_verification_shows_the_arms_that_were_trained(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"kind": "verify", "config": {"replicates": 5, "margin": 0.002}})
    for number in range(3):
        stage(tmp_path, "", f"ticket-{number}", 0.1, 0.96 + number / 1000)
    run = read_run(tmp_path)
    assert run.verify is not None
    assert run.verify.arms["ticket"].test_accuracy == (0.96, 0.961, 0.962)
    assert verdict(run) == "No verdict yet: 3 trainings of 20 finished."
    page = write_report([tmp_path], tmp_path / "out").html.read_text()
    assert "± 0.25" in page


def test_another_metric_of_an_unfinished_run_is_known(tmp_path: Path) -> None:
    task = {"metric_name": "rmse", "higher_is_better": False}
    write_json(tmp_path / "run.json", {"kind": "find", "config": {"task": task}})
    stage(tmp_path, "replicate-0", "level-00", 1.0, 35_000.0)
    find = read_run(tmp_path).find
    assert find is not None
    assert (find.metric, find.better) == ("rmse", "lower")


@pytest.mark.parametrize("kind", ["find", "study", "verify"])
def test_a_run_that_has_only_begun(tmp_path: Path, kind: str) -> None:
    write_json(tmp_path / "run.json", {"kind": kind, "config": {}})
    run = read_run(tmp_path)
    assert "No network has been trained to its end yet." in run.missing
    assert "No network has been trained" in write_report([tmp_path], tmp_path / "out").html.read_text()
