"""Curves and verifications on digits: arms, stages found again, processes, tickets of every origin."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.data.config import DataSpec
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.rng.seeds import derive
from tombola.runs.progress import Silent
from tombola.search.driver import Workspace
from tombola.search.find import replicate_seed, run_find
from tombola.search.request import Request, loaded, make_request
from tombola.select.patterns import parse_pattern
from tombola.study import curve
from tombola.study.arms import CONTROLS, VerificationSetup, fresh_network, random_mask
from tombola.study.curve import run_curve
from tombola.study.recorded import data_of
from tombola.train.options import Options

TINY = {"length": "6it", "eval_every": "3it"}


def request(**more: Any) -> Request:
    method = IterativePruning(rate=0.5, levels=2)
    return make_request("mlp", "digits", method, recipe=TINY, options=Options(threads=1), **more)


def test_a_curve_trains_controls_at_the_levels_asked_for(tmp_path: Path) -> None:
    result = run_curve(request(replicates=2), tmp_path, control_levels=[2])
    for replicate in result.replicates:
        ticket = replicate.arms["ticket"]
        assert [level.level for level in ticket] == [0, 1, 2]
        for name in CONTROLS:
            (control,) = replicate.arms[name]
            assert (control.level, control.kept) == (2, ticket[2].kept)
            assert 0 <= control.test_accuracy <= 1
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.csv")}
    assert run_curve(request(replicates=2), tmp_path, control_levels=[2]) == result.replace(reused=True)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.csv")}


def test_every_control_of_a_curve_is_a_draw_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tb.find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=TINY).save(tmp_path / "t.ticket")
    seeds = list[int]()

    def noting(*args: Any, seed: int, **more: Any) -> Any:
        seeds.append(seed)
        raise InterruptedError

    monkeypatch.setattr(curve, "run_arm", noting)
    for root, arm, replicate, level in itertools.product((0, 1), CONTROLS, (0, 1), (1, 2)):
        asked = request(seed=root)
        work = Workspace(asked.data, loaded(asked.data), Silent(), tmp_path)
        with pytest.raises(InterruptedError):
            curve._Curve(asked, CONTROLS, None).train_control(work, curve._Control(replicate, arm, level, "t.ticket"))
    assert len(set(seeds)) == len(seeds) == 16
    assert seeds[0] == derive(0, "control", CONTROLS[0], 0, 1)


@pytest.mark.parametrize(("wanted", "expected"), [(None, [1, 2, 3]), ([2], [2]), ([1, 3], [1, 3]), ([], [])])
def test_controls_are_trained_at_the_levels_asked_for_or_at_all(
    wanted: list[int] | None, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [SimpleNamespace(level=level, ticket=f"{level}.ticket") for level in range(4)]
    found: list[Any] = []
    monkeypatch.setattr(curve, "search_levels", lambda request, work, replicate: levels)
    monkeypatch.setattr(curve._Curve, "train_control", lambda self, work, control: control)
    monkeypatch.setattr(curve, "find_result", lambda request, splits, replicates, *more: found.extend(replicates))
    asked = request(replicates=2, seed=5)
    work = Workspace(asked.data, loaded(asked.data), Silent(), tmp_path)
    curve._Curve(asked, CONTROLS, None if wanted is None else tuple(wanted)).compute(work)
    assert len(found) == 2
    for index, replicate in enumerate(found):
        assert (replicate.replicate, replicate.seed) == (index, replicate_seed(5, index))
        assert replicate.ticket == "3.ticket"
        assert replicate.arms["ticket"] == tuple(levels)
        for name in CONTROLS:
            trained = replicate.arms[name]
            assert [(one.replicate, one.name) for one in trained] == [(index, name)] * len(expected)
            assert [(one.level, one.ticket) for one in trained] == [(n, f"{n}.ticket") for n in expected]
    with pytest.raises(tb.TombolaError, match="names level 4, but the search has levels 1, 2, 3"):
        curve._Curve(asked, ("random",), (2, 4)).compute(work)


def test_control_levels_are_checked_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(tb.TombolaError, match="level 3, but the search has levels 1, 2; name some of those"):
        run_curve(request(), tmp_path, control_levels=[1, 3])
    assert not list(tmp_path.iterdir())


def test_an_unknown_control_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(tb.TombolaError, match="allowed: random, reinit"):
        run_curve(request(), tmp_path, controls=["lucky"])


@pytest.mark.slow
def test_several_processes_find_the_same_tickets_as_one(tmp_path: Path) -> None:
    one = run_find(request(replicates=2), tmp_path / "one")
    two = run_find(request(replicates=2), tmp_path / "two", jobs=2)
    for first, second in zip(one.replicates, two.replicates, strict=True):
        files = [Path(run.run) / part.ticket for run, part in ((one, first), (two, second))]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_processes_need_names(tmp_path: Path) -> None:
    live = make_request(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "digits", recipe=TINY)
    with pytest.raises(tb.TombolaError, match="by name"):
        run_find(live, tmp_path, jobs=2)


@pytest.mark.parametrize("pattern", ["element", "block:4", "channel"])
def test_a_random_mask_keeps_as_much_of_every_layer_in_the_same_pattern(pattern: str) -> None:
    method = IterativePruning(density=0.5, rounds=1, pattern=pattern)
    ticket = tb.find("mlp", "digits", method, recipe=TINY)
    first, again, other = (random_mask(ticket, seed) for seed in (1, 1, 2))
    units = parse_pattern(pattern).whole  # type: ignore[union-attr]
    assert all(units(first[name]).sum() == units(kept).sum() for name, kept in ticket.mask.items())
    assert first == again
    assert first != other


def test_fresh_weights_follow_the_scheme_or_permute_what_there_is() -> None:
    named = tb.find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=TINY)
    first, other = (fresh_network(VerificationSetup(named), seed).state_dict()["fc1.weight"] for seed in (1, 2))
    assert not torch.equal(first, other)
    assert not torch.equal(first, VerificationSetup(named).origin().state_dict()["fc1.weight"])
    live = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    ticket = tb.find(live, "digits", {"density": 0.5, "rounds": 1}, recipe=TINY)
    permuted = fresh_network(VerificationSetup(ticket, live), 1).state_dict()["1.weight"]
    weight = live.state_dict()["1.weight"]
    assert not torch.equal(permuted, weight)
    assert torch.equal(permuted.flatten().sort().values, weight.flatten().sort().values)


@pytest.mark.parametrize("rewind", ["init", "2it", "lr:1it"])
def test_tickets_of_every_rewind_are_verified_from_where_they_start(rewind: str) -> None:
    method = IterativePruning(density=0.5, rounds=1, rewind=rewind)
    ticket = tb.find("mlp", "digits", method, recipe=TINY)
    start = {"init": 0, "2it": 2, "lr:1it": 1}[rewind]
    assert ticket.provenance["rewound_steps"] == start
    verdict = tb.verify(ticket, replicates=1)
    assert verdict.wins is None
    assert set(verdict.arms) == {"ticket", "dense", "random", "reinit"}


def test_other_data_than_the_tickets_is_refused_unless_forced() -> None:
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 10
    data = ((x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:]))
    ticket = tb.find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=TINY)
    with pytest.raises(tb.TombolaError, match="found on other data"):
        tb.verify(ticket, data, replicates=1)
    assert tb.verify(ticket, data, replicates=1, options=Options(force=True)).data == "data"


def test_a_ticket_never_causes_an_import() -> None:
    ticket = tb.find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=TINY)
    recorded = dict(ticket.provenance)
    hostile = tb.Ticket(
        origin=ticket.origin,
        mask=ticket.mask,
        provenance={**recorded, "data": {**recorded["data"], "name": "os.system"}},
    )
    with pytest.raises(tb.TombolaError, match="load by itself"):
        data_of(hostile, "data")


def test_the_data_of_a_ticket_is_the_data_it_was_found_on() -> None:
    spec = DataSpec("digits", val_size=50)
    ticket = tb.find(ModelSpec("mlp"), spec, {"density": 0.5, "rounds": 1}, recipe=TINY)
    assert data_of(ticket, "data").val_size == 50
