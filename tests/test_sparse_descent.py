"""Sparse double descent: its arms, their distances, what is found again, what is refused."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn

import tombola as tb
from cli_calls import call, last_json
from tombola.data.config import DataSpec
from tombola.data.splits import Task, make_splits
from tombola.errors import TombolaError
from tombola.report.descent_plots import descent_plots
from tombola.report.page import write_report
from tombola.report.plot import Plot
from tombola.results.codec import typed
from tombola.results.double_descent import DescentResult
from tombola.study.double_descent.density import ARMS, RECIPE, SparseDescent
from tombola.study.regime.place import distance
from tombola.ticket.ticket import Ticket

DATA = DataSpec(train_examples=200, label_noise=0.2)
SMALL = SparseDescent(network="mlp", rate=0.5, levels=2, recipe={"length": "6ep"})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> DescentResult:
    return tb.double_descent(SMALL, DATA, tmp_path_factory.mktemp("runs"), replicates=1)


def error(ticket: Ticket) -> float:
    splits = tb.data.registry.load_data(DATA)
    with torch.no_grad():
        wrong = ticket.build().eval()(splits.test.x).argmax(1) != splits.test.y  # type: ignore[union-attr]
    return float(wrong.double().mean())


def test_every_arm_has_every_level(found: DescentResult) -> None:
    assert tuple(found.series) == ARMS
    lottery = [point.density for point in found.series["lottery"]]
    assert lottery[0] == 1.0
    assert len(lottery) == 3
    for arm in ARMS[1:]:
        assert [point.density for point in found.series[arm]] == lottery[1:]
    for point in found.curve:
        assert point.memorised is not None
        assert 0 <= point.memorised <= 1
        assert point.distance is not None
        assert point.distance > 0
    assert [phase.name for phase in found.phases] == ["light", "critical", "sweet", "collapsed"]
    assert found.peak_of == "test_error"
    assert "Phases of lottery: light " in found.sentence


def test_the_lottery_is_iterative_pruning(found: DescentResult) -> None:
    """The same search by `find`, and what its tickets do on the test split."""
    method = tb.IterativePruning(rate=0.5, levels=2)
    ticket = tb.find("mlp", DATA, method, recipe=tb.Recipe(**{**RECIPE, "length": "6ep"}))  # type: ignore[arg-type]
    own = Ticket.load(Path(found.run or "") / "lottery" / "replicate-0" / "level-02" / "network.ticket")
    assert own.mask == ticket.mask
    assert found.series["lottery"][-1].test_error == pytest.approx(error(ticket), abs=1e-9)


def test_distances_are_from_the_initialisation(found: DescentResult) -> None:
    run = Path(found.run or "")
    dense = Ticket.load(run / "lottery" / "replicate-0" / "level-00" / "network.ticket")
    for arm in ("lottery", "finetune"):
        own = Ticket.load(run / arm / "replicate-0" / "level-01" / "network.ticket")
        first = dense.build("origin")
        own.mask.apply_(first)
        point = next(p for p in found.series[arm] if p.density == own.density)
        assert point.distance == pytest.approx(distance(own.build(), first)[0])


def test_arms_differ(found: DescentResult) -> None:
    at = {arm: points[-1] for arm, points in found.series.items()}
    assert len({point.train_loss for point in at.values()}) == len(ARMS)
    assert at["reinit"].norm != at["distill"].norm


def test_killed_at_any_stage_it_ends_with_the_same_numbers(found: DescentResult, tmp_path: Path) -> None:
    again = tb.double_descent(SMALL, DATA, tmp_path, replicates=1)
    run = Path(again.run or "")
    for lost in ("result.json", "curve-0/point-004/result.json", "curve-0/point-008/result.json"):
        (run / lost).unlink()
    (run / "lottery" / "replicate-0" / "level-02" / "result.json").unlink()
    resumed = tb.double_descent(SMALL, DATA, tmp_path, replicates=1)
    assert resumed.reused is False
    assert resumed.replace(run=None, reused=None) == found.replace(run=None, reused=None)


def test_its_tickets_can_be_placed_and_it_has_a_page(found: DescentResult, tmp_path: Path) -> None:
    placed = tb.regime(found.run or "")
    assert {ticket.series for ticket in placed.tickets} == {"lottery", "finetune"}
    errors = {(t.series, t.level): t.test_error for t in placed.tickets}
    assert errors["lottery", 2] == found.series["lottery"][-1].test_error
    page = write_report([found.run or ""], tmp_path / "page")
    text = page.html.read_text()
    for said in (
        "Wrong labels given",
        "Distance",
        "reinit",
        "Phases of lottery: light ",
        "lottery: kept weights return",
    ):
        assert said in text


def test_from_the_command_line(tmp_path: Path) -> None:
    words = ["--kind", "density", "--data", "digits", "--train_examples", "100", "--network", "mlp", "--levels", "1"]
    few = ["--recipe", "{length: 1ep}", "--arms", "[lottery, reinit]", "--replicates", "1", "--out", str(tmp_path)]
    result: dict[str, Any] = last_json("study", "double-descent", *words, *few)
    assert result["curve_kind"] == "density"
    assert [point["series"] for point in result["curve"]] == ["lottery", "lottery", "reinit"]
    assert {"density", "train_loss", "test_loss", "train_error", "test_error", "norm"} <= set(result["curve"][0])
    assert "The dense network has a training error of " in result["sentence"]  # after one epoch it fits nothing
    assert "Train longer" in result["sentence"]
    assert "memorised" not in result["curve"][0]  # no label is wrong
    assert {"peak", "threshold", "phases"} <= set(result)
    assert json.loads((Path(result["run"]) / "result.json").read_text())["phases"][0]["name"] == "light"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"arms": ("reinit",)}, "lottery comes first"),
        ({"arms": ("lottery", "reinit", "reinit")}, "every arm once"),
        ({"arms": ("lottery", "scratch")}, "unknown arm 'scratch'"),
        ({"levels": 0}, "levels is 0"),
        ({"rate": 1.0}, r"rate is 1\.0"),
        ({"rewind": "lr"}, "that is the arm finetune"),
        ({"recipe": {"epochs": 3}}, "epochs"),
        ({"finetune_lr": -1.0}, "finetune_lr is -1.0"),
        ({"finetune_lr": 0.1, "arms": ("lottery",)}, "which arms leaves out"),
        ({"recipe": {"lr": -1}}, "recipe: lr is -1"),
        ({"scope": "network"}, "scope"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=says):
        tb.double_descent(SparseDescent(network="mlp", **fields), DATA, tmp_path, replicates=1)
    assert not list(tmp_path.iterdir())


def test_targets_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    x = torch.zeros(20, 64)
    part = (x, x[:, :3])
    splits = make_splits(part, part, part, Task(nn.functional.mse_loss, nn.functional.mse_loss, "mse"))
    with pytest.raises(TombolaError, match="no classes"):
        tb.double_descent(SMALL, splits, tmp_path, replicates=1)
    assert not list(tmp_path.iterdir())


def test_an_unknown_network_is_one_line(tmp_path: Path) -> None:
    status, _, errors = call("study", "double-descent", "--kind", "density", "--network", "mpl", "--out", str(tmp_path))
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "mlp" in errors


def test_names_of_narrow_phases_stand_apart() -> None:
    kept = Path(__file__).parents[1] / "docs" / "results" / "mnist-sparse-descent" / "double-descent.json"
    (plot,) = descent_plots(typed(DescentResult, json.loads(kept.read_text())["result"], kept))
    assert isinstance(plot, Plot)
    canvas = FigureCanvasAgg(plot.figure)
    canvas.draw()
    names = {"light", "critical", "sweet", "collapsed"}
    boxes = [text.get_window_extent() for text in plot.figure.axes[0].texts if text.get_text() in names]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
