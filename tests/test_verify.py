"""Verify on tiny networks: replicates that differ, arms that begin where they should, outcomes kept and found again."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tombola as tb
from tombola.cli import main
from tombola.data.config import DataSpec
from tombola.data.splits import Task, make_splits
from tombola.methods.imp import IterativePruning
from tombola.report.page import write_report
from tombola.rng.seeds import derive
from tombola.runs.integrity import DamagedWarning
from tombola.runs.stage import OUTCOMES, Stage
from tombola.search.driver import JobInWorkspace
from tombola.study import demo
from tombola.study import verify as module
from tombola.study.arms import ARMS, VerificationSetup, fresh_network, random_mask
from tombola.train.history import Row, read_csv
from tombola.train.options import Options
from tombola.train.outcomes import read_outcomes
from trial_results import untimed_verdict

TINY = {"length": "6it", "eval_every": "3it"}
OPTIONS = Options(threads=1)


def ticket(**options: Any) -> tb.Ticket:
    return tb.find("mlp", "digits", IterativePruning(density=0.5, rounds=1, **options), recipe=TINY, options=OPTIONS)


def run(found: tb.Ticket, out: Path | None = None, **more: Any) -> dict[str, Any]:
    return tb.verify(found, replicates=3, options=OPTIONS, out=out, **more).as_dict()


# -- every replicate is another training


def test_every_replicate_has_seeds_orders_masks_and_weights_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[tuple[str, str], int] = {}

    def noting(setup: Any, subject: Any, name: str, *, seed: int, stage: Any, label: str) -> Any:
        seeds[name, label] = seed
        return run_arm(setup, subject, name, seed=seed, stage=stage, label=label)

    run_arm = module.run_arm
    monkeypatch.setattr(module, "run_arm", noting)
    found = ticket()
    result = run(found, tmp_path)
    assert len(seeds) == 3 * len(ARMS) == len(set(seeds.values()))
    assert seeds["ticket", "ticket-1"] == derive(0, "verify", "ticket", 1)

    # another order of the data: the same weights at first, other losses on the way
    for arm in ARMS:
        logs = [read_csv(Path(result["run"]) / f"{arm}-{index}" / "metrics.csv") for index in range(3)]
        assert len({log[-1].train_loss for log in logs}) == 3, arm
    first = [read_csv(Path(result["run"]) / f"ticket-{index}" / "metrics.csv")[0].val_loss for index in range(3)]
    assert len(set(first)) == 1

    own = [seed for (name, _), seed in seeds.items() if name == "random"]
    masks = [random_mask(found, seed) for seed in own]
    weights = [fresh_network(VerificationSetup(found), seed).state_dict()["fc1.weight"] for seed in own]
    for one in range(3):
        for two in range(one):
            assert masks[one] != masks[two]
            assert not torch.equal(weights[one], weights[two])


@pytest.mark.parametrize(("rewind", "start"), [("init", 0), ("2it", 2), ("lr:4it", 4)])
def test_ticket_and_dense_begin_at_the_rewound_step_and_controls_at_0(rewind: str, start: int, tmp_path: Path) -> None:
    found = ticket(rewind=rewind)
    subject = VerificationSetup(found)
    assert {name: make(subject, 0).start for name, make in ARMS.items()} == {
        "ticket": start,
        "dense": start,
        "random": 0,
        "reinit": 0,
    }
    directory = Path(tb.verify(found, replicates=1, options=OPTIONS, out=tmp_path).run)
    steps = {arm: [row.step for row in read_csv(directory / f"{arm}-0" / "metrics.csv")] for arm in ARMS}
    assert steps["dense"] == steps["ticket"]
    assert steps["dense"][0] >= start
    assert steps["random"] == steps["reinit"]
    assert steps["random"][0] == 0
    assert {log[-1] for log in steps.values()} == {6}  # rewound steps count


# -- figures


def trial_of(low: float | None, losses: dict[int, float], outcomes: Tensor | None = None) -> Any:
    result = SimpleNamespace(
        val_loss_min=low,
        test_accuracy=low,
        early_stop_iteration=max(losses),
        early_stop_observed=low != 0.5,
        steps=2 * max(losses),
    )
    rows = [Row(step, 0.0, 0.0, 0.0, 0.0, loss, 0.0, 0.0) for step, loss in losses.items()]
    return SimpleNamespace(result=result, history=rows, outcomes=outcomes)


def test_arms_are_timed_to_the_dense_networks_mean_lowest_loss() -> None:
    values = torch.tensor([1.0, 0.0, 1.0])
    trials = {
        "ticket": [trial_of(0.1, {0: 0.9, 5: 0.61, 10: 0.59}, values), trial_of(0.2, {0: 0.3, 5: 0.6})],
        "dense": [
            trial_of(0.5, {0: 1.0, 10: 0.6, 20: 0.5}, values),
            trial_of(0.7, {0: 1.0, 10: 0.8, 30: 0.7}, 1 - values),  # never at 0.6, the mean of 0.5 and 0.7
        ],
    }
    ticket, dense = (module.figures(trials)[arm] for arm in ("ticket", "dense"))
    assert (ticket.to_dense_loss, dense.to_dense_loss) == ((10, 0), (10, None))
    assert (ticket.evaluated_every, dense.evaluated_every) == (5, 20)
    assert (ticket.test_accuracy, ticket.early_stop, ticket.steps) == ((0.1, 0.2), (10, 5), (20, 10))
    assert (ticket.early_stop_observed, dense.early_stop_observed) == ((True, True), (False, True))
    assert ticket.outcomes is None  # not known of every replicate
    assert dense.outcomes is not None
    assert dense.outcomes.tolist() == [[1, 0, 1], [0, 1, 0]]
    trials["dense"][1] = trial_of(None, {0: 1.0})  # a loss that was no number: there is nothing to be timed to
    timed = module.figures(trials)
    assert {arm: found.to_dense_loss for arm, found in timed.items()} == dict.fromkeys(trials, (None, None))
    assert timed["dense"].evaluated_every == 10


def test_what_a_tickets_file_says_of_its_start_is_not_trusted() -> None:
    found = ticket()
    starts = {3: 3, 0: 0, -2: 0, "4": 0, None: 0, 2.5: 0}
    for said, start in starts.items():
        assert VerificationSetup(replace(found, provenance={**found.provenance, "rewound_steps": said})).start == start
    without = {key: value for key, value in found.provenance.items() if key not in ("rewound_steps", "method")}
    bare = replace(found, provenance={**without, "method": "imp"})
    assert VerificationSetup(bare).start == 0
    assert random_mask(bare, 1).counts() == found.mask.counts()  # element by element


# -- outcomes


def test_outcomes_are_kept_for_every_network_and_found_again(tmp_path: Path) -> None:
    found = ticket()
    in_memory = untimed_verdict(run(found))
    on_disk = untimed_verdict(run(found, tmp_path))
    directory = Path(on_disk.pop("run"))
    assert {key: value for key, value in on_disk.items() if key in in_memory} == in_memory
    assert in_memory["test_set"] == {"examples": 359, "resolution": 1 / 359}
    for arm in ARMS:
        for index in range(3):
            values = read_outcomes(directory / f"{arm}-{index}")
            assert values is not None
            assert values.mean() == pytest.approx(on_disk["arms"][arm]["test_accuracy"][index])

    (directory / "result.json").unlink()  # killed before the end: all stages are found, nothing is trained
    times = {file: file.stat().st_mtime_ns for file in directory.rglob("*.csv")}
    again = run(found, tmp_path)
    assert again["comparisons"] == in_memory["comparisons"]
    assert times == {file: file.stat().st_mtime_ns for file in directory.rglob("*.csv")}

    metrics = directory / "ticket-0" / "metrics.csv"
    for spoil in (Path.unlink, lambda file: shutil.copy(metrics, file)):
        (directory / "result.json").unlink()
        spoil(directory / "dense-1" / OUTCOMES)
        with pytest.warns(DamagedWarning, match=rf"dense-1/{OUTCOMES} "):  # the stage is done again
            assert run(found, tmp_path)["comparisons"] == in_memory["comparisons"]

    (directory / "result.json").unlink()
    before = Stage(directory / "dense-1")
    done = before.result()
    (before.directory / OUTCOMES).unlink()
    before.finish(done)  # as stages of before, which kept no outcomes
    partly = run(found, tmp_path)["comparisons"]
    assert partly["dense"]["covers"] == "training seeds alone"
    assert partly["dense"]["lower"] == in_memory["comparisons"]["dense"]["seeds_alone"]["lower"]
    assert partly["random"] == in_memory["comparisons"]["random"]


def test_outcomes_come_back_from_other_processes(tmp_path: Path) -> None:
    found = module.Verification(VerificationSetup(ticket()), DataSpec("digits"), tb.Recipe(**TINY), 1, options=OPTIONS)
    sent = pickle.loads(pickle.dumps(JobInWorkspace(module._Verify(found).train, ("dense", 0), found.data, tmp_path)))
    there = pickle.loads(pickle.dumps(sent()))
    values = read_outcomes(tmp_path / "dense-0")
    assert values is not None
    assert torch.equal(there.outcomes, values)


# -- metrics of other kinds


def squares(output: Tensor, target: Tensor) -> Tensor:
    return (1e4 * (output[:, 0] - target) ** 2).float()


def batch_mean(output: Tensor, target: Tensor) -> Tensor:
    return squares(output, target).mean()


def wrong(output: Tensor, target: Tensor) -> Tensor:
    return ((output[:, 0] > 0) != (target > 0)).float()


def loss(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output[:, 0], target)


def regression(task: Task) -> Any:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(180, 6, generator=draw)
    y = x @ torch.randn(6, generator=draw)
    return make_splits((x[:60], y[:60]), (x[60:80], y[60:80]), (x[80:], y[80:]), task=task)


def verdict_of(task: Task, tmp_path: Path, **more: Any) -> tuple[dict[str, Any], str]:
    """The verdict, and the page that shows it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    recipe = {"length": "20it", "batch_size": 20, "lr": 0.02, "eval_every": "5it"}
    data = regression(task)
    found = tb.find(net, data, IterativePruning(density=0.6, rounds=1), recipe=recipe, options=OPTIONS)
    result = run(found, tmp_path, data=data, model=net, **more)
    json.dumps(result, allow_nan=False)
    page = write_report([Path(result["run"])], tmp_path / "page").html.read_text(encoding="utf-8")
    return result, re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and are not the point."""
    monkeypatch.setattr("tombola.report.plots.run_plots", lambda *given: [])


@pytest.mark.usefixtures("no_figures")
def test_an_error_without_bounds_has_its_own_unit(tmp_path: Path) -> None:
    result, page = verdict_of(Task(loss, squares, "squared error", higher_is_better=False), tmp_path)
    dense = result["arms"]["dense"]["mean"]
    assert result["margin"] == pytest.approx(0.002 * dense)
    assert result["test_set"] == {"examples": 100, "resolution": None}
    text = result["sentence"]
    assert "points" not in text
    assert "in squared error, 0.2 % of the dense mean" in text
    assert {x["covers"] for x in result["comparisons"].values()} == {"training seeds and test examples"}
    gap = np.subtract(dense, result["arms"]["ticket"]["mean"])
    assert result["comparisons"]["dense"]["difference"] == pytest.approx(gap)  # above 0 the ticket is better
    assert "Difference (squared error)" in page
    assert "points" not in page


@pytest.mark.usefixtures("no_figures")
def test_one_number_per_batch_covers_seeds_alone_and_says_so(tmp_path: Path) -> None:
    task = Task(loss, batch_mean, "batch error", higher_is_better=False)
    result, page = verdict_of(task, tmp_path, margin=5.0, margin_kind="absolute")
    assert result["margin"] == 5.0
    assert result["test_set"] == {"examples": None, "resolution": None}
    assert {x["covers"] for x in result["comparisons"].values()} == {"training seeds alone"}
    assert "training seeds alone, not the choice of test examples" in result["sentence"]
    assert "training seeds alone" in page


@pytest.mark.usefixtures("no_figures")
def test_a_share_of_examples_by_another_name_has_an_absolute_margin(tmp_path: Path) -> None:
    result, _ = verdict_of(Task(loss, wrong, "error rate", higher_is_better=False), tmp_path)
    assert result["margin"] == 0.002
    assert result["test_set"]["resolution"] == 0.01
    assert "0.002 in error rate" in result["sentence"]


# -- demo and command line


def test_the_demo_asks_for_no_margin_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(demo, "run_find", lambda request, out: SimpleNamespace(ticket=request.model.name))
    monkeypatch.setattr(demo, "verify", lambda ticket, **more: asked.update(more))
    demo.run_demo(tmp_path)
    assert asked["replicates"] >= 3
    assert "margin" not in asked
    assert asked["options"].threads == 1


def test_the_command_line_shows_what_is_open(tmp_path: Path) -> None:
    ticket().save(tmp_path / "t.ticket")
    out, err = io.StringIO(), io.StringIO()
    argv = [
        "verify",
        str(tmp_path / "t.ticket"),
        "--replicates",
        "3",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
        "--json",
    ]
    with redirect_stdout(out), redirect_stderr(err):
        assert main([*argv, "--margin", "0.001", "--margin_kind", "relative"]) == 0
    result = json.loads(out.getvalue().splitlines()[-1])
    assert result["margin"] == pytest.approx(0.001 * result["arms"]["dense"]["mean"])
    assert "p, Holm" in err.getvalue()
    assert "0.1 % of the dense mean" in err.getvalue()
    bad = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(bad):
        assert main([*argv, "--margin", "-1"]) == 2
        assert main([*argv, "--margin_kind", "points"]) == 2
    lines = bad.getvalue().splitlines()
    assert len(lines) == 2
    assert "margin is -1.0; it must be a number of at least 0" in lines[0]
    assert "absolute" in lines[1]
