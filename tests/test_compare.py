"""Comparisons of arms on digits: figures by hand, stages found again, mistakes, and the command line."""

from __future__ import annotations

import io
import json
import math
import pickle
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tombola as tb
from tombola.cli import main
from tombola.cli.studies import Comparison, comparison_verb
from tombola.data.config import DataSpec
from tombola.methods import METHODS
from tombola.methods.dense import DenseTraining
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.runs.stage import Stage
from tombola.search.driver import JobInWorkspace
from tombola.search.presets import preset
from tombola.search.request import Request
from tombola.study import compare
from tombola.study.compare import Arm, Searched, Setting, run_comparison, summarise
from tombola.train.options import Options
from tombola.train.recipe import Recipe
from trial_results import level_figures

TINY = {"length": "6it", "eval_every": "3it"}
SETTING = Setting(ModelSpec("mlp"), DataSpec("digits"), TINY)
OPTIONS = Options(threads=1)


def arms() -> list[Arm]:
    return [
        SETTING.arm("Dense", "dense"),
        SETTING.arm("IMP, 50 %", "imp", {"density": 0.5, "rounds": 1}, {"lr": 0.01}, family="IMP"),
    ]


def run(out: Path, asked: list[Arm] | None = None, **more: Any) -> dict[str, Any]:
    given = {"replicates": 2, "options": OPTIONS, **more}
    return run_comparison("try", arms() if asked is None else asked, "mlp", "digits", out, **given).as_dict()


# -- dense


def test_dense_keeps_everything_and_borrows_the_recipes_of_imp() -> None:
    ticket = tb.find("mlp", "digits", DenseTraining(), recipe=TINY, options=OPTIONS)
    assert ticket.density == 1
    assert ticket.provenance["method"] == {
        "name": "dense",
        "version": 1,
        "activations": "float",
        "norms": False,
        "hand_on": "last",
        "dropout": 0.0,
    }
    lender = preset(METHODS["imp"], "resnet-20", "cifar10")
    assert lender.method
    assert preset(METHODS["dense"], "resnet-20", "cifar10") == replace(lender, method={})


# -- figures


def searched(test: float | None, val: float = 0.9, origin: str = "a") -> Searched:
    train = {"train_accuracy": 0.7, "train_accuracy_eval": 1.0}  # below validation: a running mean under dropout
    return Searched((level_figures(density=1.0, test_accuracy=test, val_accuracy=val, **train),), origin)


def summarised(*given: Any) -> dict[str, Any]:
    """Arms, comparisons and the words on intervals, as a result's JSON holds them."""
    found = summarise(*given)
    parts = {"arms": found.arms, "comparisons": found.comparisons}
    return {name: [record.as_dict() for record in part] for name, part in parts.items()} | {
        "intervals": found.intervals
    }


def summary(first: list[Searched], second: list[Searched]) -> dict[str, Any]:
    return summarised(arms(), [first, second])


def test_differences_are_paired_where_the_weights_are_the_same() -> None:
    found = summary([searched(x) for x in (0.5, 0.6, 0.7)], [searched(x) for x in (0.6, 0.7, 0.8)])
    (compared,) = found["comparisons"]
    assert (compared["arm"], compared["against"], compared["paired"]) == ("IMP, 50 %", "Dense", True)
    # all differences are 0.1: the paired interval has no width, Welch's would
    assert compared["test_accuracy"]["difference"] == pytest.approx(0.1)
    assert compared["test_accuracy"]["interval"] == pytest.approx([0.1, 0.1])
    assert compared["shift"]["difference"] == pytest.approx(-0.1)


def test_differences_are_welchs_where_the_weights_differ() -> None:
    found = summary([searched(x) for x in (0.5, 0.6, 0.7)], [searched(x, origin="b") for x in (0.6, 0.7, 0.8)])
    (compared,) = found["comparisons"]
    half = 2.7764451051977987 * 0.1 * math.sqrt(2 / 3)  # t(0.975, 4), standard deviations of 0.1
    assert not compared["paired"]
    assert compared["test_accuracy"]["interval"] == pytest.approx([0.1 - half, 0.1 + half])


def test_figures_of_an_arm_by_hand() -> None:
    found = summary([searched(x, val=0.8) for x in (0.5, 0.6, 0.7)], [searched(0.5)] * 3)
    dense = found["arms"][0]
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # t(0.975, 2)
    assert dense["test_accuracy"]["interval"] == pytest.approx([0.6 - half, 0.6 + half])
    assert dense["gap"]["mean"] == pytest.approx(0.2)
    assert dense["shift"]["values"] == pytest.approx([0.3, 0.2, 0.1])
    assert "bits_per_weight" not in dense
    assert found["intervals"] == "95 % t-intervals over 3 replicates"


@pytest.mark.parametrize("origin", ["a", "b"])
def test_few_or_missing_values_give_no_interval(origin: str) -> None:
    first = [searched(x) for x in (0.5, None, 0.7)]
    found = summary(first, [searched(0.5, origin=origin)] * 3)
    assert found["arms"][0]["test_accuracy"]["mean"] == pytest.approx(0.6)
    assert found["arms"][0]["test_accuracy"]["interval"] is None
    assert found["comparisons"][0]["test_accuracy"]["difference"] == pytest.approx(-0.1)
    assert found["comparisons"][0]["test_accuracy"]["interval"] is None
    nothing = summary([searched(None)] * 2, [searched(None, origin=origin)] * 2)
    tested = nothing["comparisons"][0]["test_accuracy"]
    assert (tested["difference"], tested["interval"]) == (None, None)
    assert nothing["intervals"] == "no intervals: they need at least 3 replicates, and there are 2"


def test_differences_of_the_test_metric_cover_the_examples_where_they_are_known() -> None:
    first = np.ones((3, 359), np.float32)
    second = first.copy()
    second[:, :3] = 0
    dense, pruned = ([searched(float(x.mean()), origin="a") for x in arm] for arm in (first, second))
    alone = summary(dense, pruned)["comparisons"][0]["test_accuracy"]
    found = summarised(arms(), [dense, pruned], [first, second])
    tested = found["comparisons"][0]["test_accuracy"]
    assert alone["covers"] == "training seeds alone"
    assert alone["interval"] == pytest.approx([-3 / 359] * 2, abs=1e-6)  # three searches that agree: no width
    assert tested["covers"] == "training seeds and test examples"
    assert tested["seeds_alone"]["interval"] == alone["interval"]
    assert tested["interval"][0] < -3 / 359 < 0 < tested["interval"][1]
    assert tested["difference"] == alone["difference"]
    assert "over training seeds and test examples" in found["intervals"]
    assert found["comparisons"][0]["val_accuracy"] == summary(dense, pruned)["comparisons"][0]["val_accuracy"]
    unpaired = [replace(x, origin="b") for x in pruned]
    assert summarised(arms(), [dense, unpaired], [first, second])["comparisons"][0]["test_accuracy"]["covers"] == (
        "training seeds and test examples"
    )
    draw = np.random.default_rng(0)
    luck = draw.normal(size=(3, 1)) + draw.normal(size=(3, 359))  # what both arms share, seed by seed
    mine, others = (np.float32(luck + 0.1 * draw.normal(size=(3, 359)) > -1) for _ in range(2))
    told = [[searched(float(x.mean()), origin=start) for x in arm] for arm, start in ((mine, "a"), (others, "a"))]
    apart = [told[0], [replace(x, origin="b") for x in told[1]]]
    widths = [
        np.diff(summarised(arms(), both, [mine, others])["comparisons"][0]["test_accuracy"]["interval"])
        for both in (told, apart)
    ]
    assert widths[0] < widths[1] / 2  # paired by seed
    partly = summarised(arms(), [dense, pruned], [first, None])
    assert partly["comparisons"][0]["test_accuracy"] == alone


# -- runs


def test_an_arm_is_judged_by_its_last_level_and_found_again(tmp_path: Path) -> None:
    result = run(tmp_path)
    directory = Path(result["run"])
    dense, pruned = result["arms"]
    assert [len(levels) for levels in pruned["replicates"]] == [2, 2]
    assert (dense["density"], pruned["density"]) == (1.0, pytest.approx(0.5, abs=1e-3))
    assert pruned["test_accuracy"]["values"] == [levels[-1]["test_accuracy"] for levels in pruned["replicates"]]
    assert (dense["family"], pruned["family"], pruned["recipe"]["lr"]) == (None, "IMP", 0.01)
    for arm in result["arms"]:
        files = [
            directory / level[part] for found in arm["replicates"] for level in found for part in ("metrics", "ticket")
        ]
        assert all(file.is_file() for file in files)
    assert (directory / "imp-50" / "replicate-1" / "level-01" / "result.json").is_file()
    assert result["comparisons"][0]["paired"]
    assert result["comparisons"][0]["test_accuracy"]["interval"] is None

    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert run(tmp_path) == {**result, "reused": True}
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}

    other = [arms()[0], replace(arms()[1], family="Magnitude", density=0.5)]
    assert "summary" not in result
    renamed = run(tmp_path, other, note="tuned", summary="Why?")
    assert renamed["summary"] == "Why?"
    assert (renamed["run"], renamed["note"], renamed["arms"][1]["family"]) == (result["run"], "tuned", "Magnitude")
    assert renamed["arms"][1]["replicates"] == pruned["replicates"]
    assert Stage(directory).result() == {key: value for key, value in renamed.items() if key not in ("run", "reused")}


def test_a_killed_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    searches = [0]

    def third_is_killed(*args: Any, **more: Any) -> Any:
        searches[0] += 1
        if searches[0] == 3:
            raise KeyboardInterrupt
        return search(*args, **more)

    search = compare.search_replicate
    monkeypatch.setattr(compare, "search_replicate", third_is_killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    logs = {file: file.stat().st_mtime_ns for file in tmp_path.glob("cut/*/*/replicate-0/*/metrics.csv")}
    assert len(logs) == 3
    resumed = run(tmp_path / "cut")
    assert logs == {file: file.stat().st_mtime_ns for file in logs}
    for one, two in zip(whole["arms"], resumed["arms"], strict=True):
        assert one["test_accuracy"] == two["test_accuracy"]


def test_a_search_can_go_to_another_process(tmp_path: Path) -> None:
    both = arms()
    request = Request(SETTING.model, SETTING.data, both[0].method, both[0].recipe, options=OPTIONS)
    study = compare._Comparison(request, "try", tuple(both), "")
    there = pickle.loads(pickle.dumps(JobInWorkspace(study.search, (1, 0), request.data, tmp_path)))()
    assert pickle.loads(pickle.dumps(there)) == there
    assert [level.level for level in there.levels] == [0, 1]


def test_every_arm_is_validated_before_anything_is_trained(tmp_path: Path) -> None:
    late = Arm("late", IterativePruning(density=0.5, rounds=1, rewind="7it"), Recipe(**TINY))
    with pytest.raises(tb.TombolaError, match="arm 'late': "):
        run(tmp_path, [*arms(), late])
    assert not list(tmp_path.iterdir())


def test_arms_need_names_apart(tmp_path: Path) -> None:
    with pytest.raises(tb.TombolaError, match="share the folder dense"):
        run(tmp_path, [SETTING.arm("dense", "dense"), SETTING.arm("Dense!", "dense")])
    with pytest.raises(tb.TombolaError, match="no arms"):
        run(tmp_path, [])
    with pytest.raises(tb.TombolaError, match="no letter or digit"):
        SETTING.arm("%", "dense")
    with pytest.raises(tb.TombolaError, match=r"arm 'a': unknown method 'dens' .did you mean dense"):
        SETTING.arm("a", "dens")


# -- command line


def call(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(argv)
    return status, out.getvalue(), err.getvalue()


LINE = ["--model", "mlp", "--data", "digits", "--length", "6it", "--eval_every", "3it", "--threads", "1"]
FILE = """
- {name: Dense, method: dense}
- name: N of M
  method: imp
  options: {pattern: 2:4}
  recipe: {lr: 3e-3, eval_every: 2it}
  family: IMP
  density: 0.5
"""


def test_study_compare(tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text(FILE)
    argv = ["study", "compare", "--arms", str(tmp_path / "arms.yaml"), *LINE, "--replicates", "1"]
    status, out, err = call(*argv, "--out", str(tmp_path / "runs"), "--note", "all tuned", "--json")
    assert status == 0, err
    result = json.loads(out.splitlines()[-1])
    assert "N of M" in err
    assert "all tuned" in err
    assert "no intervals" in err
    dense, pruned = result["arms"]
    assert (pruned["density"], pruned["plot_density"], pruned["family"]) == (0.5, 0.5, "IMP")
    assert (dense["recipe"]["lr"], pruned["recipe"]["lr"]) == (1.2e-3, 3e-3)
    assert (dense["recipe"]["eval_every"], pruned["recipe"]["eval_every"]) == ("3it", "2it")
    status, out, err = call("report", result["run"], "--out", str(tmp_path / "page"))
    assert (status, err) == (0, "")


MISTAKES = {
    "[{name: a, method: dens}]": ["arm 1", "'dens'", "did you mean dense?"],
    "[{name: a, metod: dense}]": ["arm 1", "'metod'", "did you mean method?"],
    "[{name: a, method: dense, optons: {}}]": ["'optons'", "did you mean options?"],
    "[{name: a, method: imp, options: {densty: 1}}]": ["options", "'densty'", "did you mean density?"],
    "[{name: a, method: imp, options: {density: x}}]": ["options", "density is 'x'", "a number"],
    "[{name: a, method: imp, options: {density: 3}}]": ["'a'", "density is 3.0"],
    "[{name: a, method: imp, options: 3}]": ["options is '3'", "a mapping"],
    "[{name: a, method: dense, recipe: {lrr: 1}}]": ["recipe", "'lrr'", "did you mean lr?"],
    "[{name: a, method: dense, density: 0}]": ["'a'", "density", "0.0"],
    "[{method: dense}]": ["arm 1 has no name"],
    "[{name: a}]": ["arm 1 has no method"],
    "[3]": ["arm 1 is '3'", "a mapping"],
    "{a: 1}": ["holds no list"],
    "[": ["not readable YAML"],
    "[]": ["no arms"],
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_in_a_file_of_arms(text: str, tmp_path: Path) -> None:
    (tmp_path / "arms.yaml").write_text(text)
    status, out, err = call("study", "compare", "--arms", str(tmp_path / "arms.yaml"), *LINE, "--out", str(tmp_path))
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert all(word in err for word in MISTAKES[text]), err
    assert [file.name for file in tmp_path.iterdir()] == ["arms.yaml"]


def test_study_compare_without_a_file() -> None:
    assert "--arms is missing" in call("study", "compare")[2]
    assert "none.yaml" in call("study", "compare", "--arms", "none.yaml")[2]


@dataclass(frozen=True)
class Rates:
    """Options of a study made up here.

    Args:
        low: the lower learning rate
        length: of both arms, in place of the recipe's
    """

    low: float = 0.01
    length: str = "4it"


def test_a_named_study_is_a_function_that_gives_arms(tmp_path: Path) -> None:
    def made(setting: Setting) -> list[Arm]:
        length = {"length": setting.options.length}
        assert "length" not in setting.recipe
        return [setting.arm(f"lr {rate}", "dense", None, {**length, "lr": rate}) for rate in (0.1, setting.options.low)]

    class Quiet:
        def line(self, text: str = "") -> None: ...
        def tables(self, *args: Any) -> None: ...
        def run(self, *args: Any) -> None: ...

    verb = comparison_verb(
        Comparison("rates", "Rates.", made, Rates, model="mlp", data="digits", note="a sweep", question="Why?")
    )
    given = verb.parse(
        ["--length", "6it", "--threads", "1", "--low", "0.02", "--replicates", "1", "--out", str(tmp_path)]
    )
    result = verb.run(given, Quiet())  # type: ignore[arg-type]
    assert [arm["recipe"]["lr"] for arm in result["arms"]] == [0.1, 0.02]
    assert {arm["recipe"]["length"] for arm in result["arms"]} == {"6it"}
    assert result["summary"] == "Why?"
    assert (result["study"], result["model"], result["note"]) == ("rates", "mlp", "a sweep")
