"""Weights that a criterion bars (score -inf): never kept without a word."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cli_calls import call, last_json
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.methods.imp import IterativePruning
from tombola.parameters import prunable
from tombola.report.page import write_report
from tombola.search.find import find, search
from tombola.search.request import make_request
from tombola.select.barred import TiedScoresWarning
from tombola.select.criteria import Context
from tombola.select.patterns import NM, parse_pattern
from tombola.select.select import BarredWeightsWarning, EmptyLayerWarning, Selection, select, selection
from tombola.train.recipe import Recipe

INF = math.inf
PATTERNS = ("element", "block:2", "block:4", "inputs:2", "inputs:4", "channel")


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def barred_scores(seed: int, share: float, shape: tuple[int, ...] = (12, 10)) -> Tensor:
    source = draw(seed)
    scores = torch.randn(shape, generator=source)
    return scores.masked_fill(torch.rand(shape, generator=source) < share, -INF)


# ---- refused by name


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_select_refuses_to_keep_what_is_barred(scope: str) -> None:
    scores = {"a": torch.ones(6), "b": torch.tensor([1.0, -INF, -INF, 2.0])}
    density = {"layer": 0.75, "global": 0.9}[scope]
    where = {"layer": "layer 'b' is to keep 3 units", "global": "the network is to keep 9 units"}[scope]
    left = {"layer": "only 2 of", "global": "only 8 of"}[scope]
    with pytest.raises(TombolaError, match=f"{where}, but {left} .* above -inf.* fill=") as told:
        select(scores, density=density, scope=scope)
    assert "\n" not in str(told.value)
    assert select(scores, counts={"a": 6, "b": 2}).counts() == {"a": (6, 6), "b": (2, 4)}
    assert select(scores, counts=8, scope="global").kept == 8


@pytest.mark.parametrize("pattern", [*PATTERNS, "2:4"])
def test_a_layer_of_nothing_but_minus_infinity_is_refused_in_every_pattern(pattern: str) -> None:
    scores = {"w": torch.full((8, 8), -INF)}
    more: dict[str, Any] = {} if pattern == "2:4" else {"density": 0.5}
    with pytest.raises(TombolaError, match=r"'w'.* above -inf"):
        select(scores, pattern=pattern, **more)
    with pytest.warns(BarredWeightsWarning, match="32 of the 32 kept weights"):
        mask = select(scores, pattern=pattern, fill=draw(), **more)
    assert mask.kept == 32


def test_n_of_m_refuses_a_group_with_too_few() -> None:
    scores = {"w": torch.tensor([[3.0, -INF, -INF, -INF, 1.0, 2.0, 3.0, -INF]])}
    with pytest.raises(TombolaError, match=r"'w'.*2:4"):
        select(scores, pattern="2:4")
    with pytest.warns(BarredWeightsWarning, match="1 of the 4 kept"):
        kept = select(scores, pattern="2:4", fill=draw())["w"]
    assert kept[0, 0]
    assert kept[0, :4].sum() == 2
    assert kept[0, 4:].tolist() == [False, True, True, False]


# ---- filled at random


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    pattern=st.sampled_from(PATTERNS),
    scope=st.sampled_from(["layer", "global"]),
    density=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_a_filled_selection_keeps_the_best_first_and_counts_right(
    seed: int, share: float, pattern: str, scope: str, density: float
) -> None:
    scores = {"a": barred_scores(seed, share), "b": barred_scores(seed + 1, share, (5, 4))}
    found = selection(scores, density=density, scope=scope, pattern=pattern, signed=True, fill=draw(seed))
    shape = parse_pattern(pattern)
    assert not isinstance(shape, NM)
    units = {name: shape.units(score.shape) for name, score in scores.items()}
    kept = {name: shape.whole(mask) for name, mask in found.mask.items()}
    if scope == "layer":
        assert {name: int(k.sum()) for name, k in kept.items()} == {n: round(density * u) for n, u in units.items()}
    else:
        assert sum(int(k.sum()) for k in kept.values()) == round(density * sum(units.values()))
    sizes = {name: shape.score(score, signed=True) for name, score in scores.items()}
    whole = {"": torch.cat([*sizes.values()])} if scope == "global" else sizes
    picked = {"": torch.cat([*kept.values()])} if scope == "global" else kept
    for name, score in whole.items():
        open_ = score > -INF
        if (picked[name] & ~open_).any():  # a barred unit is kept only where all others are
            assert picked[name][open_].all()
        elif picked[name].any() and not picked[name].all():  # else the largest are
            assert score[picked[name]].min() >= score[~picked[name]].max()
    for name, mask in found.mask.items():
        barred = int((mask & (scores[name] == -INF)).sum())
        assert found.barred.get(name, 0) == barred
        assert found.drawn.get(name, 0) <= barred
    again = selection(scores, density=density, scope=scope, pattern=pattern, signed=True, fill=draw(seed))
    assert again.mask == found.mask


def test_the_fill_is_uniform_over_places_and_over_layers() -> None:
    """Not the first rows: every barred place is as likely as any other, in the layer and over all layers."""
    scores = {"a": torch.full((4, 10), -INF), "b": torch.full((2, 10), -INF)}
    source, runs = draw(1), 600
    for scope, counts in (("layer", {"a": 10, "b": 5}), ("global", 15)):
        times = {name: torch.zeros(score.shape) for name, score in scores.items()}
        for _ in range(runs):
            for name, mask in selection(scores, counts=counts, scope=scope, fill=source).mask.items():  # type: ignore[arg-type]
                times[name] += mask
        for count in times.values():  # 0.25 of the runs, 5 standard deviations
            assert ((count / runs - 0.25).abs() < 5 * math.sqrt(0.25 * 0.75 / runs)).all(), scope


def test_the_fill_of_n_of_m_is_uniform_within_the_group() -> None:
    scores = {"w": torch.tensor([[1.0, -INF, -INF, -INF, -INF]])}
    source, runs = draw(2), 600
    times = torch.zeros(5)
    for _ in range(runs):
        times += selection(scores, pattern="3:5", fill=source).mask["w"][0]
    assert times[0] == runs
    assert ((times[1:] / runs - 0.5).abs() < 5 * math.sqrt(0.25 / runs)).all()


def test_only_candidates_are_drawn() -> None:
    scores = {"w": torch.tensor([[1.0, -INF, -INF, -INF, 2.0, -INF, 5.0, -INF]])}
    open_ = Mask({"w": torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0]])})
    for seed in range(8):
        found = selection(scores, counts={"w": 3}, candidates=open_, fill=draw(seed))
        assert found.mask.nested_in(open_)
        assert found.mask["w"][0, 0]
        assert found.mask["w"][0, 4]
        assert found.barred == found.drawn == {"w": 1}
        halves = selection(scores, pattern="2:4", candidates=open_, fill=draw(seed))
        assert halves.mask.nested_in(open_)
        assert halves.mask.kept == 4
        assert halves.barred == {"w": 2}
    with pytest.raises(TombolaError, match="only 2 of 4 "):
        select(scores, counts={"w": 3}, candidates=open_)
    with pytest.raises(TombolaError, match="only 4 are candidates"):  # no fill goes beyond the candidates
        select(scores, counts={"w": 5}, candidates=open_, fill=draw())


def test_what_is_barred_within_a_unit_comes_along_and_is_told() -> None:
    scores = {"w": torch.tensor([[-INF, 4.0], [1.0, 1.0], [-INF, -INF]])}
    with pytest.warns(BarredWeightsWarning, match=r"^1 of the 4 kept weights .* w 1 of 4"):
        mask = select(scores, counts={"w": 2}, pattern="channel")
    assert mask["w"].tolist() == [[True, True], [True, True], [False, False]]
    found = selection(scores, counts={"w": 2}, pattern="channel")
    assert (found.barred, found.drawn) == ({"w": 1}, {})
    found = selection(scores, counts={"w": 3}, pattern="channel", fill=draw())
    assert (found.barred, found.drawn) == ({"w": 3}, {"w": 2})


def test_without_minus_infinity_nothing_changes_and_nothing_is_drawn() -> None:
    scores = {"a": torch.randn(20, 9, generator=draw()), "b": torch.full((4,), INF)}
    source = draw(5)
    before = source.get_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select(scores, density=0.5, fill=source) == select(scores, density=0.5)
    assert torch.equal(source.get_state(), before)
    found = selection(scores, density=0.5)
    assert isinstance(found, Selection)
    assert (found.barred, found.drawn) == ({}, {})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_every_dtype(dtype: torch.dtype) -> None:
    if dtype == torch.int32:  # has no infinity: its lowest value is a score like any other
        scores = torch.tensor([torch.iinfo(dtype).min, 1, 2], dtype=dtype)
        assert select({"w": scores}, density=1.0).kept == 3
        return
    scores = torch.tensor([-INF, torch.finfo(dtype).min, 2.0], dtype=dtype)
    assert select({"w": scores}, counts={"w": 2})["w"].tolist() == [False, True, True]
    with pytest.raises(TombolaError, match="above -inf"):
        select({"w": scores}, counts={"w": 3})


# ---- ties


def test_ties_that_the_order_decides_are_counted() -> None:
    same = {"w": torch.ones(4, 5), "v": torch.arange(6.0)}
    assert selection(same, density=0.5).tied == {"w": 10}
    assert selection(same, density=1.0).tied == {}
    inf = {"w": torch.tensor([INF, INF, INF, 1.0])}
    assert selection(inf, counts={"w": 2}).tied == {"w": 2}
    assert selection(inf, counts={"w": 3}).tied == {}
    assert selection({"w": torch.tensor([0.0, -0.0, 5.0])}, counts={"w": 2}).tied == {"w": 1}
    assert selection(same, counts=8, scope="global").tied == {"w": 4}
    assert selection({"w": torch.ones(2, 4)}, pattern="2:4").tied == {"w": 4}
    assert selection({"w": torch.ones(4, 2)}, counts={"w": 2}, pattern="channel").tied == {"w": 4}


# ---- in the pruning loop


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def bar_everything(context: Context) -> dict[str, Tensor]:
    return {name: torch.full_like(w, -INF) for name, w in context.final.items()}


def bar_all_but_the_first_row(context: Context) -> dict[str, Tensor]:
    scores = bar_everything(context)
    for score in scores.values():
        score[0] = 1.0
    return scores


def equal(context: Context) -> dict[str, Tensor]:
    return {name: torch.ones_like(w) for name, w in context.final.items()}


EVERYTHING, FIRST_ROW = "test_barred.bar_everything", "test_barred.bar_all_but_the_first_row"
QUICK = {"length": "3it", "batch_size": 32, "lr": 0.1, "eval_every": "3it"}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("pattern", ["element", "block:2", "inputs:2", "channel"])
@pytest.mark.parametrize("criterion", ["large_final_diff_sign", FIRST_ROW, EVERYTHING])
@pytest.mark.filterwarnings("ignore::tombola.select.select.EmptyLayerWarning")
def test_levels_fill_at_random_say_so_and_record_it(criterion: str, pattern: str, scope: str) -> None:
    method = IterativePruning(
        density=0.5, rounds=2, scope=scope, pattern=pattern, criterion=criterion, prune_outputs=pattern == "channel"
    )
    with pytest.warns(BarredWeightsWarning, match=r"^criterion \w+ at level \d: .* score -inf") as told:
        ticket = find(net(), "digits", method, recipe=QUICK)
    assert {type(each.message) for each in told} <= {BarredWeightsWarning, EmptyLayerWarning}
    kept = ticket.provenance["barred_kept"]
    assert kept
    assert kept.keys() <= ticket.mask.keys()
    assert all(0 < count <= ticket.mask.counts()[name][0] for name, count in kept.items())
    if criterion == EVERYTHING:
        assert sum(kept.values()) == ticket.mask.kept


@pytest.mark.parametrize("pattern", ["element", "2:4"])
def test_the_fill_of_a_level_favours_no_rows(pattern: str) -> None:
    more = {} if pattern == "2:4" else {"density": 0.5, "rounds": 1}
    method = IterativePruning(pattern=pattern, criterion=FIRST_ROW, **more)  # type: ignore[arg-type]
    with pytest.warns(BarredWeightsWarning):
        first, again, other = (find(net(), "digits", method, recipe=QUICK, seed=seed) for seed in (0, 0, 1))
    rows = first.mask["1.weight"].float().mean(1)
    assert rows[0] == (0.5 if pattern == "2:4" else 1.0)
    assert rows[1:].min() > 0.15, rows
    assert rows[1:].max() < 0.75, rows
    assert first == again  # the draws are the run's own
    assert first.mask != other.mask


def test_nothing_is_said_or_recorded_where_nothing_is_barred() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ticket = find(net(), "digits", IterativePruning(density=0.5, rounds=1), recipe=QUICK)
    assert "barred_kept" not in ticket.provenance


def test_masks_of_later_levels_still_nest_where_weights_are_barred() -> None:
    network = net()
    request = make_request(network, "digits", IterativePruning(rate=0.3, levels=3, criterion="large_final_same_sign"))
    levels = search(replace(request, recipe=Recipe(**QUICK)))
    masks = [level.ticket.mask for level in levels]
    for larger, smaller in itertools.pairwise(masks):
        assert smaller.nested_in(larger)
    sizes = {name: w.numel() for name, w in prunable(network).items()}
    assert [mask.kept for mask in masks[1:3]] == [
        sum(round(n * (1 - (0.15 if name == "3.weight" else 0.3)) ** r) for name, n in sizes.items()) for r in (1, 2)
    ]


def test_the_table_the_json_the_report_and_the_study_say_it(tmp_path: Path) -> None:
    words = ["--data", "digits", "--model", "mlp", "--length", "3it", "--criterion", "large_final_diff_sign"]
    words += ["--density", "0.8", "--rounds", "1", "--out", str(tmp_path)]
    status, out, err = call("find", "imp", *words)
    assert status == 0, err
    assert re.search(r"tombola: warning: criterion large_final_diff_sign at level 1: [\d,]+ of the 13,619 kept", err)
    level = last_json("find", "imp", *words)["replicates"][0]["arms"]["ticket"][1]
    assert level["barred_kept"] == sum(layer["barred_kept"] for layer in level["layers"]) > 10_000
    assert f" {level['barred_kept']:,}\n" in out
    assert "although the criterion bars them" in out
    run = next(tmp_path.glob("imp-*"))
    ticket = str(run / "replicate-0/level-01/network.ticket")
    assert last_json("info", ticket)["barred_kept"] == level["barred_kept"]
    assert f"barred   {level['barred_kept']:,} of the 13,619 kept weights" in call("info", ticket)[1]
    verdict = last_json("verify", ticket, "--replicates", "1", "--length", "2it", "--out", str(tmp_path))
    assert verdict["barred_kept"] == level["barred_kept"]
    assert f"keeps {level['barred_kept']:,} are barred by its criterion" in verdict["sentence"]
    page = write_report([run], tmp_path / "page").html.read_text()
    assert f"{level['barred_kept']:,} of the 13,619 weights that the ticket keeps" in page
    arms = tmp_path / "arms.yaml"
    options = "{density: 0.8, rounds: 1, criterion: large_final_diff_sign}"
    arms.write_text(f"- {{name: dense, method: dense}}\n- {{name: odd, method: imp, options: {options}}}\n")
    study = ["study", "compare", "--arms", str(arms), "--replicates", "1", *words[:6], "--out", str(tmp_path)]
    status, out, err = call(*study)
    assert status == 0, err
    assert re.search(r"odd: [\d,]+ of the 13,619 kept weights are barred by its criterion", out)


def test_a_live_function_as_criterion_is_refused_at_once() -> None:
    with pytest.raises(TombolaError, match=r"criterion is a function; give .* import path, e.g. 'test_barred.equal'"):
        IterativePruning(criterion=equal)  # type: ignore[arg-type]


def test_equal_scores_that_the_order_decides_are_warned_of() -> None:
    with pytest.warns(TiedScoresWarning, match=r"criterion equal at level 1: 444 of the 444 kept .* come first"):
        find(net(), "digits", IterativePruning(density=0.5, rounds=1, criterion="test_barred.equal"), recipe=QUICK)
