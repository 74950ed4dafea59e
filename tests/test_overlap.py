"""What two masks share: hand-computed masks, chance, signs and sizes; the study on digits; its page and its errors."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tombola as tb
from elsewhere import elsewhere
from report_runs import write_json
from test_cli import call, last_json
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.models.spec import ModelSpec
from tombola.report import style
from tombola.report.page import write_report
from tombola.report.read import read_run
from tombola.results.overlap import MaskSide, SharedLayer
from tombola.results.record import Figure
from tombola.results.statistics import figure
from tombola.study.cross_training import MASKS, _sentence, run_overlap
from tombola.study.mask_overlap import (
    Overlap,
    compare_tickets,
    kept_weights,
    overlap,
    overlap_within,
    pooled,
    strata_by_input,
    strata_by_size,
    whole,
)
from tombola.study.mask_pair import MaskPair, pair_arms
from tombola.study.setting import Arm, Setting
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options

TINY = {"length": "6it", "eval_every": "3it", "batch_size": 60}


def masks(**layers: list[list[int]]) -> tuple[Mask, Mask]:
    """Two masks from pairs of rows of 0 and 1."""
    return tuple(Mask({name: torch.tensor(rows[i]) for name, rows in layers.items()}) for i in range(2))  # type: ignore[return-value]


# -- counts


def test_counts_and_chance_by_hand() -> None:
    layers = overlap(*masks(w=[[1, 1, 0, 0], [1, 0, 1, 0]], v=[[1, 1, 1, 0], [1, 1, 0, 0]]))
    # w: 2*2/4 expected, 2*2*2*2 / (16*3) = 1/3; v: 3*2/4 expected, 3*2*1*2 / (16*3) = 1/4
    assert layers["w"] == Overlap(4, 2, 2, 1, 1.0, pytest.approx(1 / 3))  # type: ignore[arg-type]
    assert layers["v"] == Overlap(4, 3, 2, 2, 1.5, pytest.approx(1 / 4))  # type: ignore[arg-type]
    assert (layers["w"].ratio, layers["w"].jaccard, layers["w"].z) == (1.0, 1 / 3, 0.0)
    assert (layers["v"].ratio, layers["v"].jaccard) == (4 / 3, 2 / 3)
    assert layers["v"].z == pytest.approx(0.5 / 0.5)
    total = whole(layers.values())
    assert (total.total, total.first, total.second, total.both, total.expected) == (8, 5, 4, 3, 2.5)
    assert total.variance == pytest.approx(7 / 12)


@given(st.integers(2, 60), st.data())
def test_identical_and_disjoint_masks(total: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, total - 1))
    same = Overlap.of(total, kept, kept, kept)
    assert (same.ratio, same.jaccard) == (pytest.approx(total / kept), 1.0)
    assert same.z == pytest.approx(math.sqrt(total - 1))
    apart = Overlap.of(total, kept, total - kept, 0)
    assert (apart.ratio, apart.jaccard) == (0.0, 0.0)
    assert apart.z == pytest.approx(-math.sqrt(total - 1))


@given(st.integers(2, 50), st.data())
def test_chance_is_hypergeometric(total: int, data: st.DataObject) -> None:
    first, second = (data.draw(st.integers(0, total)) for _ in range(2))
    found = Overlap.of(total, first, second, 0)
    pairs = [math.comb(second, k) * math.comb(total - second, first - k) for k in range(min(first, second) + 1)]
    chances = [pair / math.comb(total, first) for pair in pairs]
    mean = math.fsum(k * chance for k, chance in enumerate(chances))
    assert found.expected == pytest.approx(mean)
    variance = math.fsum((k - mean) ** 2 * chance for k, chance in enumerate(chances))
    assert found.variance == pytest.approx(variance, abs=1e-9)


def test_independent_masks_lie_round_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    drawn = [Mask({"w": torch.rand(400, generator=draw) < 0.3}) for _ in range(400)]
    found = [z for a, b in zip(drawn[::2], drawn[1::2], strict=True) if (z := overlap(a, b)["w"].z) is not None]
    assert len(found) == 200
    assert abs(sum(found)) / 200 < 4 / math.sqrt(200)
    assert sum(z * z for z in found) / 200 == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize(
    ("counts", "ratio", "jaccard"),
    [((4, 0, 2, 0), None, 0.0), ((4, 0, 0, 0), None, None), ((4, 4, 2, 2), 1.0, 0.5), ((1, 1, 1, 1), 1.0, 1.0)],
)
def test_where_chance_leaves_no_choice_there_is_no_z(
    counts: tuple[int, int, int, int], ratio: float | None, jaccard: float | None
) -> None:
    found = Overlap.of(*counts)
    assert (found.ratio, found.jaccard, found.z) == (ratio, jaccard, None)


def test_shared_layer_densities_are_no_overlap() -> None:
    """Both keep all of one layer and none of the other: chance, given those densities, does the same."""
    found = whole(overlap(*masks(w=[[1, 1], [1, 1]], v=[[0, 0], [0, 0]])).values())
    assert (found.both, found.expected, found.ratio, found.z) == (2, 2.0, 1.0, None)


def test_chance_within_strata_by_hand() -> None:
    first, second = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0]]).bool(), torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    # inputs 0 to 3 have 2 weights each, of which (2, 2), (2, 1), (0, 1) and (0, 0) are kept: 2 + 1 + 0 + 0 expected
    assert overlap_within(first, second, strata_by_input(first)) == Overlap(8, 4, 4, 3, 3.0, 0.0)
    assert overlap_within(first, second, torch.zeros(2, 4, dtype=torch.int64)) == Overlap.of(8, 4, 4, 3)
    assert strata_by_input(torch.zeros(2, 3, 1, 2))[:, :, 0, 0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert strata_by_input(torch.zeros(3)).tolist() == [0, 0, 0]


def test_strata_by_size() -> None:
    assert strata_by_size(torch.tensor([0.4, -0.1, 0.3, -0.2]), bins=2).tolist() == [1, 0, 1, 0]
    assert strata_by_size(torch.tensor([1.0, -1.0, 1.0])).unique().numel() == 1  # of constants sizes tell nothing
    assert strata_by_size(torch.zeros(0)).numel() == 0
    counts = torch.bincount(strata_by_size(torch.randn(2000, generator=torch.Generator().manual_seed(1))))
    assert counts.tolist() == [100] * 20


def test_masks_of_the_largest_weights_share_no_more_than_their_sizes_say() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 200, generator=draw)
    drawn = [torch.rand(200, 200, generator=draw) < weight.abs() / 5 for _ in range(2)]
    plain = overlap(Mask({"w": drawn[0]}), Mask({"w": drawn[1]}))["w"]
    assert plain.z is not None
    assert plain.z > 20
    within = overlap_within(drawn[0], drawn[1], strata_by_size(weight))
    assert within.both == plain.both
    assert within.z is not None
    assert abs(within.z) < 5


# -- which weights


def test_signs_and_sizes_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    keep = torch.tensor([[True, False], [True, False]])
    found = kept_weights(keep, weight, torch.tensor([-1.0, 5.0]))
    assert (found.kept, found.positive, found.positive_by_chance) == (2, 1.0, 0.5)
    assert (found.magnitude, found.flipped) == (2 / 2.5, 0.5)
    assert kept_weights(keep, weight, torch.tensor([1, -1], dtype=torch.int8)).flipped == 0.5
    assert kept_weights(keep, weight).flipped is None
    none = kept_weights(torch.zeros_like(keep), weight, torch.tensor([]))
    assert (none.kept, none.positive, none.magnitude, none.flipped) == (0, None, None, None)
    assert kept_weights(keep, torch.zeros(2, 2)).magnitude is None


def test_layers_are_pooled_by_what_is_kept() -> None:
    keep = torch.tensor([True, True, True, False])
    big, small = torch.tensor([100.0, 100.0, 100.0, -100.0]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    whole_layers = pooled([kept_weights(keep, big), kept_weights(~keep, small)])
    assert (whole_layers.kept, whole_layers.positive) == (4, 3 / 4)
    assert whole_layers.positive_by_chance == (3 * 3 / 4 + 1 * 2 / 4) / 4
    assert whole_layers.magnitude == 1.0  # layers of other scales do not mix


def test_a_figure_needs_three_values_for_its_interval() -> None:
    assert figure([1.0, None]) == Figure(mean=1.0, interval=None, values=(1.0, None))
    assert figure([None]) == Figure(mean=None, interval=None, values=(None,))
    assert figure([1.0, 1.0, 1.0]).interval == (1.0, 1.0)


def shared(ratio: Figure, sizes: Figure) -> SharedLayer[Figure]:
    """What two masks share, as far as the sentence speaks of it."""
    none = figure([None])
    side = MaskSide(kept=none, density=none, positive=none, positive_by_chance=none, magnitude=none, flipped=none)
    return SharedLayer(
        name="all layers",
        total=10,
        both=none,
        expected=none,
        ratio=ratio,
        ratio_same_inputs=none,
        ratio_same_sizes=sizes,
        jaccard=none,
        z=none,
        first=side,
        second=side,
    )


@pytest.mark.parametrize(
    ("values", "claim"),
    [
        (
            [1.5, 1.6, 1.7],
            "1.60 times as many weights as random masks of the same layer densities would "
            "(1.35 to 1.85: more than chance)",
        ),
        ([0.5, 0.6, 0.7], "would (0.35 to 0.85: less than chance)"),
        ([0.9, 1.0, 1.1], "would (0.75 to 1.25: no significant difference from chance)"),
        ([0.9, 1.0], "0.95 times as many weights as random masks of the same layer densities would, and"),
    ],
)
def test_what_masks_share_is_more_or_less_than_chance_only_if_the_interval_leaves_out_1(
    values: list[float], claim: str
) -> None:
    text = _sentence(["A", "B"], shared(figure(values), figure([1.0] * len(values))))
    assert text.startswith("A and B share ")
    assert claim in text
    end = " (1.00 to 1.00: no significant difference from chance)." if len(values) > 2 else "."
    assert text.endswith(f"and 1.00 times as many as ones that favour large weights alike{end}")
    alone = _sentence(["A", "B"], shared(figure(values), figure([None])))
    assert "large weights" not in alone
    assert _sentence(["A", "B"], shared(figure([None]), figure([None]))) == (
        "A and B cannot share a weight: one of them keeps none."
    )


# -- tickets


def network(hidden: int = 6) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Linear(hidden, 10))


def found_ticket(model: nn.Module, density: float) -> Ticket:
    return tb.find(model, "digits", {"density": density, "rounds": 1}, recipe=TINY)


def test_tickets_of_a_users_own_model() -> None:
    model = network()
    first, second = found_ticket(model, 0.5), found_ticket(model, 0.25)
    found = compare_tickets(first, second).as_dict()  # stored origins need no model
    assert found["same_origin"]
    assert [row["name"] for row in found["layers"]] == list(first.mask)
    assert found["whole"]["both"] == (first.mask & second.mask).kept
    assert found["whole"]["second"]["kept"] == second.mask.kept
    assert 0 <= found["whole"]["first"]["flipped"] <= 1
    same = compare_tickets(first, first).as_dict()["whole"]
    assert (same["both"], same["jaccard"]) == (first.mask.kept, 1.0)


def test_an_untrained_layer_has_changed_no_sign_and_an_untrained_ticket_says_nothing() -> None:
    first = found_ticket(network(), 0.5)
    bare = Ticket(origin=first.origin, mask=first.mask)
    assert compare_tickets(bare, bare).as_dict()["whole"]["first"]["flipped"] is None
    assert first.trained is not None
    name = next(iter(first.trained))
    partly = Ticket(origin=first.origin, mask=first.mask, trained={name: first.trained[name]})
    rows = {row["name"]: row["first"]["flipped"] for row in compare_tickets(partly, partly).as_dict()["layers"]}
    assert [value for key, value in rows.items() if key != name] == [0.0]


def test_a_comparison_layer_by_layer() -> None:
    first = found_ticket(network(), 0.5)
    draw = torch.Generator().manual_seed(0)
    other = Mask({name: torch.rand(keep.shape, generator=draw) < 0.3 for name, keep in first.mask.items()})
    second = Ticket(origin=first.origin, mask=other)
    found, state = compare_tickets(first, second).as_dict(), first.origin.state_dict()
    layers = overlap(first.mask, other)
    rows = [*found["layers"], found["whole"]]
    assert [row["name"] for row in rows] == [*first.mask, "all layers"]
    inputs, sizes, sides = [], [], []
    for row, (name, layer) in zip(rows, layers.items(), strict=False):
        pair, weight = (first.mask[name], other[name]), state[name]
        inputs.append(overlap_within(*pair, strata_by_input(weight)))
        sizes.append(overlap_within(*pair, strata_by_size(weight)))
        sides.append(kept_weights(other[name], weight))
        assert row["ratio_same_inputs"] == inputs[-1].ratio
        assert row["ratio_same_sizes"] == sizes[-1].ratio
        assert row["first"]["magnitude"] == kept_weights(first.mask[name], weight).magnitude
        assert row["second"]["density"] == layer.second / layer.total
    for row, part in zip(rows, [*layers.values(), whole(layers.values())], strict=True):
        for key in ("total", "both", "expected", "ratio", "jaccard", "z"):
            assert row[key] == getattr(part, key), key
        assert (row["first"]["kept"], row["second"]["kept"]) == (part.first, part.second)
    for row, side in zip(rows, [*sides, pooled(sides)], strict=True):
        for key in ("positive", "positive_by_chance", "magnitude", "flipped"):
            assert row["second"][key] == getattr(side, key), key
    assert found["whole"]["ratio_same_inputs"] == whole(inputs).ratio
    assert found["whole"]["ratio_same_sizes"] == whole(sizes).ratio
    elsewhere = compare_tickets(first, found_ticket(network(), 0.5)).as_dict()
    assert not elsewhere["same_origin"]
    assert {row["ratio_same_sizes"] for row in (*elsewhere["layers"], elsewhere["whole"])} == {None}


def test_two_ticket_files_on_the_command_line(tmp_path: Path) -> None:
    recipe = ["--length", "6it", "--eval_every", "3it", "--model", "mlp", "--data", "digits", "--out", str(tmp_path)]
    files = [
        last_json("find", "imp", "--density", "0.3", "--rounds", "1", *recipe)["ticket"],
        last_json("find", "edge-popup", "--density", "0.3", "--init", "kaiming_normal", *recipe)["ticket"],
    ]
    found = last_json("study", "overlap", "--tickets", *files)
    assert found["names"] == files
    assert found["whole"]["first"]["density"]["mean"] == pytest.approx(0.3, abs=1e-3)
    assert not found["same_origin"]  # xavier against kaiming
    assert found["whole"]["second"]["flipped"]["mean"] is None
    status, out, _ = call("study", "overlap", "--tickets", *files)
    assert status == 0
    assert "The tickets start from different weights" in out
    other = found_ticket(network(), 0.5)
    other.save(tmp_path / "other.ticket")
    status, _, err = call("study", "overlap", "--tickets", files[0], str(tmp_path / "other.ticket"))
    assert (status, err.count("\n")) == (2, 1)
    assert "different layers" in err
    assert str(tmp_path / "other.ticket") in err
    with pytest.raises(TombolaError, match="same network"):
        compare_tickets(other, found_ticket(network(7), 0.5))


# -- the study


def arms(data: str = "digits", imp: Mapping[str, Any] | None = None, **pair: Any) -> tuple[Arm, Arm]:
    options = MaskPair(0.3, imp={"rounds": 1, **(imp or {})}, **pair)
    return pair_arms(Setting(ModelSpec("mlp"), DataSpec(data), TINY, options))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("study")
    return run_overlap(arms(), "mlp", "digits", out, replicates=3, options=Options(threads=1)).as_dict()


def test_the_study_tries_every_mask_on_the_same_weights(study: dict[str, Any]) -> None:
    run = Path(study["run"])
    assert study["same_origin"]
    for replicate in range(3):
        trained = {mask: Ticket.load(run / f"exchange/replicate-{replicate}/{mask}/network.ticket") for mask in MASKS}
        found = {
            "first": Ticket.load(run / f"imp-ticket/replicate-{replicate}/level-01/network.ticket"),
            "second": Ticket.load(run / f"supermask/replicate-{replicate}/level-01/network.ticket"),
        }
        assert {ticket.origin.weights_hash for ticket in (*trained.values(), *found.values())} == {
            trained["dense"].origin.weights_hash
        }
        assert trained["first"].origin.init == "kaiming_normal"
        for mask, ticket in found.items():
            assert trained[mask].mask == ticket.mask
            assert trained[f"random-{mask}"].mask.counts() == ticket.mask.counts()
            assert trained[f"random-{mask}"].mask != ticket.mask
        assert trained["dense"].density == 1
        assert study["whole"]["both"]["values"][replicate] == (found["first"].mask & found["second"].mask).kept
    rows = {row["mask"]: row for row in study["accuracy"]}
    # a supermask is untrained by nature: its search ended with the very network that is tested here
    assert rows["supermask"]["untrained"]["values"] == rows["supermask"]["searched"]["values"]
    assert rows["dense"]["searched"] is None
    gap = study["differences"][0]
    assert (gap["of"], gap["against"]) == ("supermask", "IMP ticket")
    pairs = zip(rows["supermask"]["trained"]["values"], rows["IMP ticket"]["trained"]["values"], strict=True)
    assert gap["trained"]["values"] == [a - b for a, b in pairs]
    assert study["whole"]["first"]["magnitude"]["mean"] > 1  # small weights were pruned
    assert study["note"] == ""


def test_a_study_cut_short_finds_its_stages_again(study: dict[str, Any]) -> None:
    run = Path(study["run"])
    options: dict[str, Any] = {"replicates": 3, "options": Options(threads=1)}
    kept = {file: file.stat().st_mtime_ns for file in run.rglob("metrics.csv") if "random-first" not in str(file)}
    assert run_overlap(arms(), "mlp", "digits", run.parent, **options).as_dict() == {**study, "reused": True}
    (run / "result.json").unlink()
    shutil.rmtree(run / "exchange/replicate-1/random-first")
    assert run_overlap(arms(), "mlp", "digits", run.parent, **options).as_dict() == study
    assert kept == {file: file.stat().st_mtime_ns for file in kept}


def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process gets, without what is loaded here, is enough (starting real ones takes most of a minute)."""

    options: dict[str, Any] = {"replicates": 1, "options": Options(threads=1)}
    one = run_overlap(arms(), "mlp", "digits", tmp_path / "one", **options).as_dict()
    monkeypatch.setattr("tombola.search.driver.map_jobs", elsewhere)
    two = run_overlap(arms(), "mlp", "digits", tmp_path / "two", jobs=2, **options).as_dict()
    assert {**one, "run": ""} == {**two, "run": ""}


def test_a_live_model_keeps_its_weights(tmp_path: Path) -> None:
    found = run_overlap(arms(), network(), "digits", tmp_path, replicates=1, options=Options(threads=1)).as_dict()
    assert found["same_origin"]
    assert [row["name"] for row in found["layers"]] == ["1.weight", "2.weight"]
    assert "chance" not in found["sentence"]  # one replicate claims nothing


@pytest.mark.parametrize(
    ("imp", "pair", "says"),
    [
        ({"rewind": "2it"}, {}, "rewind of arm 'IMP ticket' is 2it"),
        ({"rewind": "lr"}, {}, "set it to init"),
        ({}, {"supermask": {"scale_fan": True}}, "start from different weights"),
        ({"exclude": ["fc3.*"]}, {}, "differ in 'fc3.weight'"),
        ({"rewind": "9it"}, {}, "arm 'IMP ticket': rewind is to iteration 9"),
    ],
)
def test_searches_that_cannot_be_compared_say_so_first(
    tmp_path: Path, imp: dict[str, Any], pair: dict[str, Any], says: str
) -> None:
    with pytest.raises(TombolaError, match=says):
        run_overlap(arms(imp=imp, **pair), "mlp", "digits", tmp_path).as_dict()
    assert not list(tmp_path.iterdir())


def test_data_without_a_test_split_is_refused(tmp_path: Path) -> None:
    x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    with pytest.raises(TombolaError, match="no test split"):
        run_overlap(arms(), network(), ((x, y), (x, y), None), tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--density", "1"], "density is 1.0, but it must lie between 0 and 1"),
        (["--imp", "{density: 0.2}"], "imp names a density"),
        (["--imp", "{round: 3}"], "--imp: unknown key 'round' (did you mean rounds?)"),
        (["--supermask_recipe", "{lr: fast}"], "--supermask_recipe: lr is 'fast', but it must be a number"),
        (["--tickets", "a.ticket"], "expected 2 arguments"),
        (["--tickets", "a.ticket", "b.ticket"], "--model has no effect here"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str) -> None:
    status, _, err = call("study", "overlap", "--model", "mlp", "--data", "digits", *words)
    assert (status, err.count("\n")) == (2, 1), err
    assert says in err


def test_tickets_that_are_not_there_are_named() -> None:
    status, _, err = call("study", "overlap", "--tickets", "a.ticket", "b.ticket")
    assert (status, err.count("\n")) == (2, 1), err
    assert "a.ticket" in err


# -- the page


def test_the_page_shows_densities_overlap_and_accuracy(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")
    files = write_report([Path(study["run"])], tmp_path)
    names = {path.stem for path in files.figures}
    assert names == {"overlap-accuracy", "overlap-ratio", "overlap-inputs", "overlap-density"}
    text = files.html.read_text(encoding="utf-8")
    for phrase in (
        study["sentence"].split("(")[0],
        "random as supermask",
        "Which weights each mask keeps",
        "times chance",
    ):
        assert phrase in text, phrase


def test_a_run_of_one_replicate_or_without_layers_still_has_a_page(study: dict[str, Any], tmp_path: Path) -> None:
    empty = figure([None]).as_dict()
    row = {**study["whole"], **dict.fromkeys(("ratio", "ratio_same_inputs", "ratio_same_sizes", "z", "jaccard"), empty)}
    value = {**study, "replicates": 1, "layers": [row], "whole": row, "accuracy": [], "differences": []}
    write_json(tmp_path / "run" / "run.json", {"kind": "study", "name": "x"})
    write_json(tmp_path / "run" / "result.json", value)
    run = read_run(tmp_path / "run")
    assert any("no intervals" in note for note in run.missing)
    assert write_report([tmp_path / "run"], tmp_path / "page").html.exists()
    write_json(tmp_path / "run" / "result.json", {**value, "names": ["one"]})
    with pytest.raises(TombolaError, match=r"Expected `array` of length 2, got 1 - at `\$.names`"):
        read_run(tmp_path / "run")


def test_the_study_is_json(study: dict[str, Any]) -> None:
    assert json.loads(json.dumps(study, allow_nan=False)) == study
