"""The study of connectivity on digits: what is trained from where, stages, processes, its page and its errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from elsewhere import elsewhere
from test_cli import call, last_json
from tombola.errors import TombolaError
from tombola.report.page import write_report
from tombola.report.read import read_run
from tombola.results.connectivity import Connected, ConnectivityResult
from tombola.study.connectivity import run as module
from tombola.study.connectivity.plan import Connectivity
from tombola.study.connectivity.run import connectivity
from tombola.ticket.tensors import hash_state
from tombola.ticket.ticket import Ticket
from tombola.train.checkpoint import load_snapshot
from tombola.train.options import Options

TINY = {"length": "6it", "eval_every": "3it", "batch_size": 60}
PLAN = Connectivity(from_steps=("init", "2it"), density=0.3, rounds=1, points=3)
ONE = Options(threads=1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ConnectivityResult:
    return connectivity("mlp", "digits", PLAN, recipe=TINY, out=tmp_path_factory.mktemp("c"), replicates=3, options=ONE)


def folder(study: ConnectivityResult) -> Path:
    assert study.run is not None
    return Path(study.run)


def test_every_pair_starts_where_it_should(study: ConnectivityResult) -> None:
    assert [(pair.from_step, pair.level, pair.arm) for pair in study.pairs] == [
        (step, level, arm)
        for step in (0, 2)
        for level, arms in ((0, ["dense"]), (1, ["ticket", "random", "reinit"]))
        for arm in arms
    ]
    for step, place in ((0, "from-init"), (2, "from-2it")):
        for replicate in range(3):
            found = Ticket.load(folder(study) / place / f"replicate-{replicate}/level-01/network.ticket")
            begun = {arm: begins(study, arm, step, replicate) for arm in ("dense", "ticket", "random", "reinit")}
            both = {
                arm: {hash_state(ticket.origin.state_dict()) for ticket in tickets} for arm, tickets in begun.items()
            }
            assert both["dense"] == both["ticket"] == both["random"] != both["reinit"]
            assert all(len(hashes) == 1 for hashes in both.values())
            masks = {arm: tickets[0].mask for arm, tickets in begun.items()}
            assert masks["dense"].density == 1
            assert masks["ticket"] == masks["reinit"] == found.mask
            assert masks["random"].counts() == found.mask.counts()
            assert masks["random"] != found.mask
            if step:
                snapshot = load_snapshot(folder(study) / place / f"replicate-{replicate}/level-00/rewind.pt")
                state = begun["dense"][0].origin.state_dict()
                assert all(torch.equal(state[name], value) for name, value in snapshot.model.items())


def begins(study: ConnectivityResult, arm: str, step: int, replicate: int) -> list[Ticket]:
    pair = next(pair for pair in study.pairs if (pair.arm, pair.from_step) == (arm, step))
    return [Ticket.load(folder(study) / end) for end in pair.ends[replicate]]


def test_the_two_trainings_differ_in_the_order_of_data_alone(study: ConnectivityResult) -> None:
    pair = study.of("ticket", 2, 1)
    assert pair is not None
    first, second = begins(study, "ticket", 2, 0)
    assert first.digest != second.digest
    line = tb.barrier(first.build(), second.build(), "digits", points=3, recipe=TINY)
    assert line.test is not None
    assert line.test.metric == pair.lines[0].test.metric  # type: ignore[union-attr]
    assert pair.test_barrier.values[0] == line.test.barrier
    assert pair.distance.values[0] == line.distance > 0


def test_one_order_twice_has_no_barrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.derive
    monkeypatch.setattr(
        module, "derive", lambda seed, *words: real(seed, *(("order",) if words[0] == "order" else words))
    )
    found = connectivity("mlp", "digits", PLAN, recipe=TINY, out=tmp_path, replicates=1, options=ONE)
    for pair in found.pairs:
        barriers = pair.test_barrier, pair.test_loss_barrier, pair.train_barrier, pair.train_loss_barrier
        assert {barrier.mean for barrier in barriers} == {0.0}
        assert pair.distance.mean == 0.0


def test_differences_are_paired(study: ConnectivityResult) -> None:
    assert [(change.from_step, change.against) for change in study.differences] == [
        (step, control) for step in (0, 2) for control in ("random", "reinit")
    ]
    ticket, control = study.of("ticket", 0, 1), study.of("random", 0, 1)
    assert ticket is not None
    assert control is not None
    wanted = [a - b for a, b in zip(ticket.test_barrier.known, control.test_barrier.known, strict=True)]
    assert study.differences[0].test.values == tuple(wanted)
    assert study.differences[0].test.interval is not None


def test_a_study_cut_short_finds_its_stages_again(study: ConnectivityResult) -> None:
    run = folder(study)
    given: dict[str, Any] = {"recipe": TINY, "out": run.parent, "replicates": 3, "options": ONE}
    again = "random", "start"
    logs = [file for file in run.rglob("metrics.csv") if not any(name in str(file) for name in again)]
    kept = {file: file.stat().st_mtime_ns for file in logs}
    assert connectivity("mlp", "digits", PLAN, **given) == study.replace(reused=True)
    (run / "result.json").unlink()
    shutil.rmtree(run / "from-2it/replicate-1/random-a-01")
    shutil.rmtree(run / "from-2it/replicate-0/reinit-start-00")
    shutil.rmtree(next((run / "lines").glob("*ticket*")))
    assert "not finished" in " ".join(read_run(run).missing)
    assert {row.level for row in tb.results(run)} == {0, 1}
    assert connectivity("mlp", "digits", PLAN, **given) == study
    assert kept == {file: file.stat().st_mtime_ns for file in kept}


def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"recipe": TINY, "replicates": 1, "options": ONE}
    one = connectivity("mlp", "digits", PLAN, out=tmp_path / "one", **given)
    monkeypatch.setattr("tombola.search.driver.map_jobs", elsewhere)
    two = connectivity("mlp", "digits", PLAN, out=tmp_path / "two", jobs=2, **given)
    assert one.replace(run=None) == two.replace(run=None)


def test_a_live_model_with_norms_and_permuted_weights_as_another_initialisation(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))
    plan = Connectivity(from_steps=("2it",), density=0.4, rounds=2, at_levels=(2,), controls=("reinit",), points=3)
    found = connectivity(net, "digits", plan, recipe=TINY, out=tmp_path, replicates=1, options=ONE)
    assert [(pair.arm, pair.level) for pair in found.pairs] == [("ticket", 2), ("reinit", 2)]
    assert all(pair.lines[0].test is not None for pair in found.pairs)
    assert "no intervals" in found.intervals


def test_its_page_and_its_tables(study: ConnectivityResult, tmp_path: Path) -> None:
    made = write_report([folder(study)], tmp_path)
    page = made.html.read_text()
    for heading in ("Barrier against the step", "from iteration 2", "Along the line", "Tickets against their controls"):
        assert heading in page
    assert "Random mask" in page
    names = {file.stem for file in made.figures}
    assert {"connectivity-step", "connectivity-density-0", "connectivity-line-2"} <= names
    rows = list(tb.results(folder(study)))
    assert len(rows) == 8 * 3 * 2
    assert {row.arm for row in rows} >= {"dense from 0, order a", "reinit from 2, order b"}


def test_the_command_line(tmp_path: Path) -> None:
    words = ["study", "connectivity", "--model", "mlp", "--data", "digits", "--from_steps", "[init]", "--rounds", "1"]
    words += ["--length", "6it", "--eval_every", "3it", "--points", "3", "--replicates", "1", "--threads", "1"]
    words += ["--out", str(tmp_path), "--imp", "{scope: global}"]
    found = last_json(*words)
    assert (found["kind"], found["points"], found["from_steps"]) == ("connectivity", 3, [0])
    assert found["options"]["scope"] == "global"
    json.dumps(found)
    status, out, _ = call(*words)
    assert status == 0
    assert "already finished" in out
    assert "Barriers between two trainings" in out


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"from_steps": ()}, "from_steps is empty"),
        ({"from_steps": ("lr",)}, "would not be rewound"),
        ({"from_steps": ("soon",)}, "rewind 'soon' is not understood"),
        ({"from_steps": ("6it",)}, "from_steps names 6it: rewind is to iteration 6, but training has 6"),
        ({"from_steps": ("init", "0it")}, "iteration 0 twice: init and 0it"),
        ({"controls": ("luck",)}, "luck"),
        ({"points": 2}, "points is 2"),
        ({"at_levels": (5,), "rounds": 1}, "at_levels names level 5, but the search has levels 0, 1"),
        ({"imp": {"rewind": "lr"}}, "imp names rewind"),
        ({"imp": {"kept_action": "constant"}}, "kept_action is constant"),
        ({"imp": {"pruned_action": "freeze"}}, "pruned_action is freeze"),
        ({"imp": {"nonsense": 1}}, "nonsense"),
        ({"density": 2.0}, "density"),
    ],
)
def test_mistakes_are_met_before_anything_is_written(plan: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=says):
        connectivity("mlp", "digits", Connectivity(**plan), recipe=TINY, out=tmp_path, options=ONE)
    assert not list(tmp_path.iterdir())


def test_data_without_a_test_split_is_refused(tmp_path: Path) -> None:
    part = (torch.rand(40, 1, 8, 8), torch.arange(40) % 10)
    with pytest.raises(TombolaError, match="no test split"):
        connectivity("mlp", (part, part), PLAN, recipe=TINY, out=tmp_path, options=ONE)
    assert not list(tmp_path.iterdir())


def test_a_pair_is_named_by_what_it_is(study: ConnectivityResult) -> None:
    pair = study.of("dense", 0, 0)
    assert isinstance(pair, Connected)
    assert study.of("random", 0, 0) is None
    assert study.levels == (0, 1)
    assert study.subtitle == "study connectivity · mlp · digits"
