"""Searches across initialisations: overlaps and jackknife by hand, the study on digits, its stages, page and errors."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from cli_calls import call, last_json
from elsewhere import elsewhere
from tombola.errors import TombolaError
from tombola.mask import Mask
from tombola.models.spec import ModelSpec
from tombola.report.page import write_report
from tombola.report.read import read_run
from tombola.results.initialisations import InitialisationsResult, MaskPairs
from tombola.results.statistics import figure
from tombola.study.initialisations.agreement import agreements, alike, correlation, over_pairs, pairs_of
from tombola.study.initialisations.figures import MASKS
from tombola.study.initialisations.pairs import Drawn, pairs_of_masks
from tombola.study.initialisations.plan import Initialisations
from tombola.study.initialisations.run import initialisations
from tombola.study.initialisations.words import sentence
from tombola.ticket.ticket import Ticket
from tombola.train.options import Options

TINY = {"length": "6it", "eval_every": "3it", "batch_size": 60}
PLAN = Initialisations(density=0.3, imp={"rounds": 1}, inits=("kaiming_normal", "signed_constant"))
ONE = Options(threads=1)


def mask(*rows: list[int]) -> Mask:
    return Mask({"w": torch.tensor(rows, dtype=torch.bool)})


# -- by hand


def test_overlap_of_two_masks_by_hand() -> None:
    # 2 and 3 of 6 kept, one by both; by chance 2 * 3 / 6 = 1
    layer, every = alike(mask([1, 1, 0], [0, 0, 0]), mask([1, 0, 1], [1, 0, 0]))
    assert (layer.name, every.name) == ("w", "all layers")
    (found, same) = agreements([[layer, every]], figure)
    assert found.jaccard.mean == pytest.approx(1 / 4)
    assert found.jaccard_by_chance.mean == pytest.approx(1 / (2 + 3 - 1))
    assert found.ratio.mean == pytest.approx(1.0)
    # by input: (1, 2), (1, 0), (0, 1) kept of two each -> 1 expected too
    assert found.ratio_same_inputs.mean == pytest.approx(1.0)
    assert found.ratio_same_sizes.mean is None
    assert same.replace(name="w") == found


def test_the_sentence_tells_the_methods_apart() -> None:
    def pair(kind: str, masks: tuple[str, str], ratio: float | None) -> Any:
        return SimpleNamespace(kind=kind, masks=masks, whole=SimpleNamespace(ratio=SimpleNamespace(mean=ratio)))

    both, imp, learned = ("IMP ticket", "supermask"), ("IMP ticket", "IMP ticket"), ("supermask", "supermask")
    given = [pair("methods", both, 1.03), pair("methods", both, 1.05), pair("schemes", imp, 1.13)]
    given += [pair("schemes", imp, 1.2), pair("schemes", learned, 9.33), pair("seeds", imp, None)]
    assert sentence(0.1, given) == (
        "At density 10.00 %, masks share, in times of what chance gives: the two methods on the same weights 1.03 to "
        "1.05; under two schemes of one seed IMP ticket 1.13 to 1.20, supermask 9.33."
    )


def test_chance_of_the_same_sizes_needs_one_order() -> None:
    first, second = mask([1, 1, 0, 0]), mask([1, 1, 0, 0])
    large = {"w": torch.tensor([[1, 1, 0, 0]])}
    assert alike(first, second, (large, large))[0].sizes is not None
    # both keep all large weights and no small one: 2 shared, 2 expected within the sizes
    assert agreements([alike(first, second, (large, large))], figure)[0].ratio_same_sizes.mean == 1.0
    assert agreements([alike(first, second, (large, large))], figure)[0].ratio.mean == 2.0
    assert alike(first, second, (large, {"w": torch.tensor([[1, 0, 1, 0]])}))[0].sizes is None


def test_the_jackknife_over_pairs_by_hand() -> None:
    assert pairs_of(3) == [(0, 1), (0, 2), (1, 2)]
    found = over_pairs(3)([1.0, 2.0, 6.0])
    # mean 3; without replicate 0 the pair (1, 2) alone: 3 * 3 - 2 * 6
    assert found.values == (-3.0, 5.0, 7.0)
    assert found.mean == 3.0
    assert found.interval == figure([-3.0, 5.0, 7.0]).interval
    assert over_pairs(4)([2.0] * 6).interval == (2.0, 2.0)
    assert over_pairs(2)([0.5]) == figure([0.5])
    broken = over_pairs(3)([1.0, None, 2.0])
    assert (broken.mean, broken.interval) == (1.5, None)


def test_the_jackknife_of_sums_of_replicates_is_the_t_interval() -> None:
    # where a pair's value is (x_i + x_j) / 2, the mean over pairs is the mean of x, and so is its interval
    x = [1.0, 4.0, 2.0, 9.0]
    found = over_pairs(4)([(x[i] + x[j]) / 2 for i, j in pairs_of(4)])
    assert found.values == pytest.approx(x)


def test_correlation_of_weights_by_hand() -> None:
    one = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.ones(5)}
    assert correlation(one, {"a": torch.tensor([2.0, 4.0, 6.0]), "b": torch.zeros(5)}) == pytest.approx(1.0)
    assert correlation(one, {"a": -one["a"], "b": torch.arange(5.0)}) == pytest.approx(-1.0)
    assert correlation({"b": torch.ones(5)}, {"b": torch.arange(5.0)}) is None


def test_every_kind_of_pair_by_hand() -> None:
    inits, names = ("x", "y"), ("A", "B")
    rows = {("x", 0): [1, 1, 0, 0], ("x", 1): [0, 0, 1, 1], ("y", 0): [1, 1, 0, 0], ("y", 1): [1, 0, 1, 0]}
    masks = {(init, number, seed): mask(rows[init, number]) for init, number in rows for seed in range(3)}
    weights = {(init, seed): Drawn({"w": torch.arange(4.0).view(1, 4)}) for init in inits for seed in range(3)}
    found = list(pairs_of_masks(inits, names, 3, masks, weights))
    assert [(one.kind, one.inits, one.masks, one.pairs) for one in found] == [
        ("methods", ("x", "x"), ("A", "B"), 3),
        ("methods", ("y", "y"), ("A", "B"), 3),
        *(("seeds", (init, init), (name, name), 3) for name in names for init in inits),
        *(("schemes", ("x", "y"), (name, name), 3) for name in names),
        *(("schemes and seeds", ("x", "y"), (name, name), 6) for name in names),
    ]
    ratios = [one.whole.ratio.mean for one in found]
    assert ratios == [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 2.0, 1.0]
    assert [one.weights.mean for one in found if one.weights] == pytest.approx([1.0, 1.0])
    assert len({one.name for one in found}) == len(found)
    alone = list(pairs_of_masks(("x",), names, 1, masks, weights))
    assert [one.kind for one in alone] == ["methods"]


# -- the study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> InitialisationsResult:
    out = tmp_path_factory.mktemp("i")
    return initialisations("mlp", "digits", PLAN, recipe=TINY, out=out, replicates=3, options=ONE)


def folder(study: InitialisationsResult) -> Path:
    assert study.run is not None
    return Path(study.run)


def of(study: InitialisationsResult, kind: str, *names: str) -> MaskPairs:
    return next(one for one in study.overlaps if one.kind == kind and set(names) <= {*one.inits, *one.masks})


def test_overlaps_are_those_of_the_tickets_on_disk(study: InitialisationsResult) -> None:
    tickets = {
        (one.init, one.mask): [Ticket.load(folder(study) / file) for file in one.tickets] for one in study.accuracy
    }
    imp = tickets["kaiming_normal", "IMP ticket"]
    pairs = [(imp[i].mask & imp[j].mask).counts() for i, j in pairs_of(3)]
    kept = sum(count for count, _ in imp[0].mask.counts().values())
    shared = [sum(count for count, _ in counts.values()) for counts in pairs]
    jaccard = sum(both / (2 * kept - both) for both in shared) / 3
    assert of(study, "seeds", "kaiming_normal", "IMP ticket").whole.jaccard.mean == pytest.approx(jaccard)
    supermask = tickets["signed_constant", "supermask"]
    other = tickets["signed_constant", "IMP ticket"]
    both = sum(count for count, _ in (supermask[1].mask & other[1].mask).counts().values())
    sizes = [sum(count for count, _ in one.mask.counts().values()) for one in (supermask[1], other[1])]
    assert of(study, "methods", "signed_constant").whole.jaccard.values[1] == both / (sum(sizes) - both)


def test_schemes_of_one_seed_share_their_random_numbers(study: InitialisationsResult) -> None:
    shared = of(study, "schemes").weights
    assert shared is not None
    assert shared.mean == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)  # of a normal number and its sign
    assert all(one.weights is None for one in study.overlaps if one.kind != "schemes")


def test_accuracies_are_those_of_the_searches(study: InitialisationsResult) -> None:
    assert [(one.init, one.mask) for one in study.accuracy] == [
        (init, mask) for mask in ("dense", *MASKS) for init in PLAN.inits
    ]
    first, second = study.accuracy[2:4]
    assert first.against_first is None
    assert second.against_first is not None
    wanted = [a - b for a, b in zip(second.accuracy.known, first.accuracy.known, strict=True)]
    assert second.against_first.values == tuple(wanted)
    found = tb.find(
        ModelSpec("mlp", init="signed_constant"),
        "digits",
        {"density": 0.3, "rounds": 1},
        recipe=TINY,
        options=ONE,
    )
    assert found.mask == Ticket.load(folder(study) / second.tickets[0]).mask


def test_masks_move_to_the_weights_of_other_schemes(study: InitialisationsResult) -> None:
    cells = {(one.mask, one.found, one.on): one for one in study.transfer}
    assert len(cells) == len(study.transfer) == 2 * (2 * 2 + 2)
    moved = cells["IMP ticket", "kaiming_normal", "signed_constant"]
    own = cells["IMP ticket", "signed_constant", "signed_constant"]
    chance = cells["random as IMP ticket", "signed_constant", "signed_constant"]
    tickets = [Ticket.load(folder(study) / one.tickets[0]) for one in (moved, own, chance)]
    assert {ticket.origin.weights_hash for ticket in tickets} == {tickets[1].origin.weights_hash}
    searched = next(one for one in study.accuracy if (one.init, one.mask) == ("kaiming_normal", "IMP ticket"))
    assert tickets[0].mask == Ticket.load(folder(study) / searched.tickets[0]).mask
    assert tickets[2].mask.counts() == tickets[1].mask.counts()
    assert moved.against_own_trained is not None
    assert moved.against_own_trained.values[0] == moved.trained.known[0] - own.trained.known[0]
    assert moved.against_random_untrained is not None
    assert moved.against_random_untrained.values[0] == moved.untrained.known[0] - chance.untrained.known[0]
    assert own.against_own_trained is None
    assert chance.against_random_trained is None


def test_a_study_cut_short_finds_its_stages_again(study: InitialisationsResult) -> None:
    run = folder(study)
    given: dict[str, Any] = {"recipe": TINY, "out": run.parent, "replicates": 3, "options": ONE}
    assert initialisations("mlp", "digits", PLAN, **given) == study.replace(reused=True)
    gone = "kaiming-normal-supermask/replicate-2", "transfer/replicate-1/imp-kaiming_normal-on-signed_constant"
    (run / "result.json").unlink()
    for name in gone:
        shutil.rmtree(run / name)
    kept = {file: file.stat().st_mtime_ns for file in run.rglob("metrics.csv")}
    assert "not finished" in " ".join(read_run(run).missing)
    assert {row.arm for row in tb.results(run)} >= {"kaiming-normal-imp-ticket", "signed-constant-supermask"}
    assert initialisations("mlp", "digits", PLAN, **given) == study
    assert kept == {file: file.stat().st_mtime_ns for file in kept}


def test_other_processes_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"recipe": TINY, "replicates": 1, "options": ONE}
    one = initialisations("mlp", "digits", PLAN, out=tmp_path / "one", **given)
    monkeypatch.setattr("tombola.search.driver.map_jobs", elsewhere)
    two = initialisations("mlp", "digits", PLAN, out=tmp_path / "two", jobs=2, **given)
    assert one.replace(run=None) == two.replace(run=None)
    assert "no intervals" in one.intervals
    assert {pairs.kind for pairs in one.overlaps} == {"methods", "schemes"}


def test_its_page_and_its_tables(study: InitialisationsResult, tmp_path: Path) -> None:
    made = write_report([folder(study)], tmp_path)
    page = made.html.read_text()
    for heading in ("How good the tickets are", "How alike the masks are: two seeds", "Supermask: masks move"):
        assert heading in page
    names = {file.stem for file in made.figures}
    assert {"initialisations-accuracy", "initialisations-methods", "initialisations-transfer-supermask"} <= names
    rows = list(tb.results(folder(study)))
    assert len(rows) == 3 * (6 + 12)
    assert {row.arm for row in rows} >= {"kaiming_normal, dense", "supermask of kaiming_normal on signed_constant"}


def test_the_command_line(tmp_path: Path) -> None:
    words = [
        "study",
        "initialisations",
        "--model",
        "mlp",
        "--data",
        "digits",
        "--imp",
        "{rounds: 1}",
        "--density",
        "0.3",
    ]
    words += ["--length", "6it", "--eval_every", "3it", "--replicates", "1", "--threads", "1", "--transfer", "false"]
    words += ["--out", str(tmp_path), "--inits", "[kaiming_normal]"]
    found = last_json(*words)
    assert (found["kind"], found["inits"], found["transfer"]) == ("initialisations", ["kaiming_normal"], [])
    json.dumps(found)
    status, out, _ = call(*words)
    assert status == 0
    assert "already finished" in out
    assert "How alike the masks are" in out


# -- mistakes


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"inits": ()}, "inits is empty"),
        ({"inits": ("kaiming_normal", "kaiming_normal")}, "twice"),
        ({"inits": ("nonsense",)}, "nonsense"),
        ({"inits": 3}, "inits is 3"),
        ({"density": 1.0}, "density is 1"),
        ({"imp": {"rewind": "1it"}}, "set it to init"),
        ({"imp": {"nonsense": 1}}, "nonsense"),
        ({"supermask": {"scale_fan": True}}, "start from different weights"),
        ({"supermask": {"exclude": ["fc1.*"]}}, "include and exclude"),
    ],
)
def test_mistakes_are_met_before_anything_is_written(plan: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=says):
        initialisations("mlp", "digits", Initialisations(**plan), recipe=TINY, out=tmp_path, options=ONE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "give a network by name"),
        (ModelSpec("mlp", init="kaiming_normal"), "leave init out"),
        (ModelSpec("mlp", checkpoint="some.pt"), "leave checkpoint out"),
    ],
)
def test_weights_that_no_scheme_draws_are_refused(model: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=says):
        initialisations(model, "digits", PLAN, recipe=TINY, out=tmp_path, options=ONE)
    assert not list(tmp_path.iterdir())
