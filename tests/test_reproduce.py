"""Reproductions: reading values out of results, verdicts, the files, and a few of them run at a tiny length."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import tombola as tb
from cli_calls import call, last_json
from tombola.cli.reproduce import perform_step, verb_of
from tombola.errors import TombolaError
from tombola.report.page import write_report
from tombola.results.codec import typed
from tombola.results.reproduction import AGREES, DIFFERS, NOT_COMPARABLE, UNDECIDED, ReproductionResult
from tombola.results.trial import ChannelCount
from tombola.study.reproduce.definition import (
    FORMS,
    Claim,
    Form,
    Place,
    Reproduction,
    converted,
    names,
    read_reproduction,
)
from tombola.study.reproduce.judging import bounds, estimate, judge, rule
from tombola.study.reproduce.reading import Sample, column, sample
from tombola.study.reproduce.run import Asked, run_reproduction, steps_of, written
from trial_results import level_figures

OUTSIDE = {"jobs": 1, "threads": 1, "progress": False}


def claim(expect: str, **more: Any) -> Claim:
    return Claim(what="x", published="y", of=Place(arm="a"), expect=expect, **more)  # type: ignore[arg-type]


# ---- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "interval", "verdict"),
    [
        (claim("above"), (0.1, 0.3), AGREES),
        (claim("above"), (-0.3, -0.1), DIFFERS),
        (claim("above"), (-0.1, 0.1), UNDECIDED),
        (claim("above"), (0.0, 0.1), UNDECIDED),  # 0 is not left out
        (claim("above", than=0.2), (0.1, 0.3), UNDECIDED),
        (claim("above", than=0.05), (0.1, 0.3), AGREES),
        (claim("below"), (-0.3, -0.1), AGREES),
        (claim("below"), (0.1, 0.3), DIFFERS),
        (claim("below", ratio=True, against=Place(arm="b")), (0.5, 0.9), AGREES),
        (claim("below", ratio=True, against=Place(arm="b")), (0.5, 1.1), UNDECIDED),
        (claim("equal", within=0.2), (-0.1, 0.1), AGREES),
        (claim("equal", within=0.2), (0.3, 0.4), DIFFERS),
        (claim("equal", within=0.2), (0.1, 0.4), UNDECIDED),
        (claim("near", value=0.9, within=0.02), (0.89, 0.91), AGREES),
        (claim("near", value=0.9, within=0.02), (0.93, 0.94), DIFFERS),
        (claim("near", value=0.9, within=0.02), (0.91, 0.94), UNDECIDED),
        (claim("above"), None, UNDECIDED),
    ],
)
def test_a_verdict_is_where_the_interval_lies(given: Claim, interval: tuple[float, float] | None, verdict: str) -> None:
    assert judge(given, interval, whole=True) == verdict
    quick = NOT_COMPARABLE if given.expect == "near" else verdict
    assert judge(given, interval, whole=False) == quick


def test_rules_say_when_a_claim_agrees() -> None:
    assert rule(claim("above")) == "above 0"
    assert rule(claim("below", ratio=True, against=Place(arm="b"))) == "below 1"
    assert rule(claim("near", value=0.9, within=0.02)) == "between 88 and 92 %"
    assert rule(claim("above", than=-0.01, against=Place(arm="b"))) == "above -1 points"
    assert rule(claim("equal", than=1, within=0.1, unit="times chance")) == "between 0.9 and 1.1"
    assert bounds(claim("equal", within=0.5, than=1.0)) == (0.5, 1.5)


def test_differences_are_paired_where_replicates_are_and_otherwise_welchs() -> None:
    own, other = (0.5, 0.6, 0.7), (0.4, 0.5, 0.6)
    paired = estimate(own, other, paired=True, ratio=False)
    assert paired.interval is not None
    assert paired.interval == pytest.approx((0.1, 0.1))
    assert paired.mean == pytest.approx(0.1)
    free = estimate(own, other, paired=False, ratio=False)
    # Welch: variance 2 * 0.01 / 3, 4 degrees of freedom, t = 2.776445
    half = 2.776445 * math.sqrt(0.02 / 3)
    assert free.interval == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)


def test_a_ratio_is_one_of_geometric_means() -> None:
    found = estimate((1.0, 2.0, 4.0), (2.0, 4.0, 8.0), paired=True, ratio=True)
    assert found.mean == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5, 0.5))
    assert found.values == pytest.approx((0.5, 0.5, 0.5))


def test_two_values_or_unknown_ones_give_no_interval() -> None:
    assert estimate((0.5, 0.6), (0.4, 0.5), paired=True, ratio=False).interval is None
    assert estimate((0.5, 0.6, None), (0.4, 0.5, 0.6), paired=True, ratio=False).interval is None
    assert estimate((0.5, 0.6, None), (0.4, 0.5, 0.6), paired=False, ratio=False).interval is None
    assert estimate((None,), (0.4,), paired=False, ratio=False).mean is None
    assert estimate((0.0, 1.0, 1.0), (1.0, 1.0, 1.0), paired=True, ratio=True).interval is None  # no logarithm of 0


# ---- reading -------------------------------------------------------------------------------------------------------

CURVE: Mapping[str, Any] = {
    "kind": "double-descent",
    "peak": 1000,
    "curve": [{"features": 500, "test_error": 0.2}, {"features": 1000, "test_error": {"values": [0.4, 0.6]}}],
    "arms": [{"name": n, "density": d, "norm": d + len(n)} for n in ("ab", "abc") for d in (0.5, 0.25)],
}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("peak", (1000,)),
        ("curve[0].test_error", (0.2,)),
        ("curve[features=500].test_error", (0.2,)),
        ("curve[features=990].test_error", (0.4, 0.6)),
        ("curve[-1].features", (1000,)),
        ("arms[name=abc].norm", (3.5,)),
        ("arms[name=abc,density=0.3].norm", (3.25,)),
        ("arms[density=0.25,name=ab].norm", (2.25,)),
    ],
)
def test_a_path_leads_to_numbers(path: str, values: tuple[float, ...]) -> None:
    assert sample([CURVE], Place(path=path)).values == values
    twice = sample([CURVE, CURVE], Place(path=path))
    assert twice.values == (*values, *values)
    assert len(set(twice.origins)) == len(twice.values)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("valley", "leads nowhere; there are kind, peak, curve, arms"),
        ("curve[7].features", r"\[7\] leads nowhere"),
        ("curve[colour=red].features", "leads nowhere"),
        ("kind", "must lead to numbers"),
        ("peak}", "not readable from '}' on"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(path: str, said: str) -> None:
    with pytest.raises(TombolaError, match=said):
        sample([CURVE], Place(path=path))


def test_samples_are_paired_where_all_began_alike() -> None:
    one = Sample((1.0, 2.0), ("a", "b"))
    assert one.paired_with(Sample((3.0, 4.0), ("a", "b")))
    assert not one.paired_with(Sample((3.0, 4.0), ("a", "c")))
    assert not Sample((1.0,), (None,)).paired_with(Sample((1.0,), (None,)))


# ---- files ---------------------------------------------------------------------------------------------------------

SMALL = """
title: A mask against weights
paper: Nobody
claimed: a mask alone is worse
runs:
  arms:
    study:
      arms:
        - {name: dense, method: dense}
        - {name: mask, family: masks, density: 0.5, method: imp, options: {density: 0.5, rounds: 1}}
    shared: {model: mlp, data: digits, length: 4it, eval_every: 2it}
    quick: {replicates: 3}
    full: {replicates: 4}
  curve:
    command: study curve imp
    shared: {model: mlp, data: digits, length: 4it, eval_every: 2it, levels: 1, replicates: 1}
claims:
  - what: the mask is worse
    published: worse
    of: {run: arms, family: masks, density: 0.5}
    against: {arm: dense}
    expect: below
  - what: the mask has this accuracy
    published: 90 %
    of: {run: arms, arm: mask}
    expect: near
    value: 0.9
    within: 0.01
  - what: a ticket is better than a random mask
    published: better
    of: {run: curve, arm: ticket, density: 0.8}
    against: {arm: random, density: 0.8}
    expect: above
"""


def small(**changes: Any) -> dict[str, Any]:
    return {**yaml.load(SMALL, Loader=yaml.BaseLoader), **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runs": {}}, "at least one run"),
        ({"claims": []}, "at least one run and one claim"),
        ({"colour": "red"}, "colour"),
        ({"runs": {"arms": {"quick": {}}}}, "a command or a study"),
        ({"claims": [{"what": "a", "published": "b", "of": {"arm": "x"}, "expect": "above"}]}, "say which"),
        (
            {"claims": [{"what": "a", "published": "b", "of": {"run": "no", "arm": "x"}, "expect": "above"}]},
            "no run no",
        ),
        ({"claims": [{"what": "a", "published": "b", "of": {"run": "arms"}, "expect": "above"}]}, "one of them only"),
        (
            {"claims": [{"what": "a", "published": "b", "of": {"run": "arms", "arm": "x"}, "expect": "equal"}]},
            "within goes with",
        ),
        ({"claims": [{"what": "a", "published": "b", "of": {"run": "arms", "arm": "x"}, "expect": "so"}]}, "so"),
        ({"claims": [{"what": "a", "published": "b", "of": {"arm": "x", "column": "tset"}}]}, "unknown column 'tset'"),
        ({"runs": {"curve": {"command": "reproduce x.yaml"}}}, "reproductions within one; name the studies"),
        ({"runs": {"curve": {"command": "study curve imp", "shared": {"seed": 1}}}}, "seed is said where .* is run"),
        ({"runs": {"curve": {"command": "study curve imp", "quick": {"out": "x"}}}}, "out is said where .* is run"),
    ],
)
def test_files_that_hold_no_reproduction_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TombolaError, match=said):
        converted(small(**changes), "x.yaml")


def test_options_are_written_as_they_are_typed() -> None:
    assert list(written({"length": "-4it", "lr": -1, "clip_norm": None})) == [
        *("--length=-4it", "--lr=-1"),
        *("--clip_norm", "null"),
    ]
    options = {"densities": ["0.5", "0.2"], "imp": {"rounds": "1"}, "flag": True, "note": ["a b"], "of": ["2:4"]}
    assert list(written(options)) == [
        *("--densities", "[0.5,0.2]"),
        *("--imp", "{rounds: 1}"),
        *("--flag", "true"),
        *("--note", '["a b"]'),
        *("--of", '["2:4"]'),
    ]


class Asking(Exception):
    """Raised in place of the work."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", names())
def test_every_reproduction_asks_for_what_there_is(name: str, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    reproduction = read_reproduction(name)
    asked: dict[str, Any] = {}

    def ask(*args: Any, **more: Any) -> Any:
        asked["arms"] = args[1] if args and isinstance(args[0], str) else None
        raise Asking

    for place in WORK:
        monkeypatch.setattr(place, ask)
    arms: dict[str, Any] = {}
    for run, step in steps_of(reproduction, Asked(form, place={**OUTSIDE, "out": "runs", "data_root": "data"})):
        verb_of(step)
        with pytest.raises(Asking):
            perform_step(step)
        arms[run] = asked["arms"]
    assert set(arms) == set(reproduction.runs)
    for place in (place for one in reproduction.claims_in(form) for place in one.places):
        there = arms[reproduction.run_of(place)]
        if there is not None and place.path is None:
            known = {arm.name for arm in there} if place.family is None else {arm.family for arm in there}
            assert (place.arm or place.family) in known
    assert {run for one in reproduction.claims_in(form) for run in map(reproduction.run_of, one.places)}


WORK = (
    "tombola.study.compare.run_comparison",
    "tombola.study.curve.run_curve",
    "tombola.study.deconstruct.run_deconstruction",
    "tombola.study.deconstruct.run_untrained",
    "tombola.study.cross_training.run_overlap",
    "tombola.study.initialisations.run.initialisations",
    "tombola.search.find.run_find",
    "tombola.study.double_descent.run.double_descent",
)
"""What commands hand over to."""


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "small.yaml").write_text(SMALL)
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    words = ("reproduce", str(folder / "small.yaml"), "--out", str(folder / "runs"), "--threads", "1")
    return last_json(*words)


def test_a_reproduction_says_what_was_found_of_every_claim(said: dict[str, Any], folder: Path) -> None:
    result = typed(ReproductionResult, said, folder)
    assert (result.name, result.form, result.shortened, result.seed) == ("small", "quick", False, 0)
    worse, number, ticket = result.findings
    assert (len(worse.own), worse.paired, worse.unit) == (3, True, "accuracy")
    assert worse.other is not None
    assert worse.found.values == pytest.approx([a - b for a, b in zip(worse.own, worse.other, strict=True)])  # type: ignore[operator]
    assert worse.measured == "masks at 50 % − dense: test accuracy"
    assert number.verdict == NOT_COMPARABLE
    assert number.own == worse.own
    assert (ticket.verdict, ticket.found.interval, len(ticket.own)) == (UNDECIDED, None, 1)
    arms, curve = result.commands
    assert curve.command.startswith("tombola study curve imp --model mlp")
    assert (arms.replicates, curve.replicates) == (3, 1)
    for name in (*arms.runs, *curve.runs):
        assert (folder / "runs" / name / "result.json").is_file()
    assert result.sentence.startswith("Of 3 claims, ")
    alike = result.replace(findings=(worse.replace(verdict=AGREES),) * 2 + (worse.replace(verdict=DIFFERS), number))
    assert alike.sentence == ("Of 4 claims, 2 agree, 1 differs, 1 not comparable at this length (quick form).")


def test_it_is_found_again_and_its_runs_are_what_commands_find(
    said: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tb.reproduce(str(folder / "small.yaml"), out=folder / "runs", options=tb.Options(threads=1))
    assert again.reused
    assert again.replace(reused=False).as_dict() == {k: v for k, v in said.items() if k in again.as_dict()}
    listed = {run["name"]: run["state"] for run in last_json("runs", "--out", str(folder / "runs"))["runs"]}
    assert set(listed.values()) == {"finished"}
    assert len(listed) == 3
    curve = ("study", "curve", "imp", "--model", "mlp", "--data", "digits", "--length", "4it", "--eval_every", "2it")
    found = last_json(*curve, *("--levels", "1", "--replicates", "1", "--out", str(folder / "runs"), "--threads", "1"))
    assert found["reused"]


def test_what_is_shortened_has_another_name_and_says_so(folder: Path) -> None:
    result = tb.reproduce(
        str(folder / "small.yaml"),
        full=True,
        length="2it",
        replicates=1,
        seed=3,
        out=folder / "short",
        options=tb.Options(threads=1),
    )
    assert (result.form, result.shortened, result.seed) == ("full", True, 3)
    assert [len(one.own) for one in result.findings] == [1, 1, 1]
    assert result.findings[1].verdict == NOT_COMPARABLE
    assert "(full form, shortened)" in result.sentence


def test_the_commands_of_what_is_shortened_are_those_that_run() -> None:
    options = {"recipe": {"length": "30ep", "lr": 0.1}, "replicates": 3}
    runs = {
        "curve": {"command": "study curve imp", "quick": {"length": "10ep", "replicates": 3}},
        "density": {"command": "study double-descent", "quick": options},
    }
    claims = [{"what": "a", "published": "b", "of": {"run": "curve", "path": "x"}, "expect": "above"}]
    made: Reproduction = converted(small(runs=runs, claims=claims), "x")
    shown = [step.shown for _, step in steps_of(made, Asked(replicates=1, shorten={"length": "2it"}))]
    assert shown == [
        "tombola study curve imp --length 2it --replicates 1 --seed 0",
        "tombola study double-descent --recipe '{length: 2it, lr: 0.1}' --replicates 1 --seed 0",
    ]


def test_it_has_a_page(said: dict[str, Any], folder: Path) -> None:
    write_report([said["run"]], folder / "page")
    page = (folder / "page" / "report.html").read_text()
    for text in ("A mask against weights", "a mask alone is worse", "masks at", "Published", "not decidable"):
        assert text in page


def test_all_are_listed() -> None:
    listed = last_json("reproduce")["reproductions"]
    assert [one["name"] for one in listed] == names()
    assert all(one["title"] and one["paper"] and one["claims"] and one["run"] == [] for one in listed)
    status, printed, _ = call("reproduce")
    assert status == 0
    assert max(map(len, printed.splitlines())) <= 80
    assert "  Which weights a ticket keeps: Zhou et al. 2019; 4 claims" in printed.splitlines()
    assert "  Early-bird tickets: You et al. 2020; 6 claims, 5 in the quick form" in printed.splitlines()


def test_the_list_says_what_has_been_run(tmp_path: Path) -> None:
    for form, end in (("full", "0123456789"), ("quick", "0123456789-x")):
        run = tmp_path / f"reproduce-lth-conv-{form}-{end}"
        run.mkdir()
        (run / "result.json").write_text("{}")
    listed = last_json("reproduce", "--out", str(tmp_path))["reproductions"]
    assert {one["name"]: one["run"] for one in listed if one["run"]} == {"lth-conv": ["full"]}
    assert "lth-conv  (full form run)" in call("reproduce", "--out", str(tmp_path))[1].splitlines()


@pytest.mark.parametrize("name", names())
def test_what_is_measured_has_a_readers_name(name: str) -> None:
    for one in read_reproduction(name).claims:
        assert not set("[]_=").intersection(one.measured.replace("N = ", "")) or one.of.arm or one.of.family
        assert "whole.ratio" not in one.measured


def test_a_reproduction_is_described_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, printed, _ = call("reproduce", "belkin-random-features", "--describe")
    assert status == 0
    assert "    measured: test error at N = n − test error at N = 6 n" in printed.splitlines()
    assert "tombola study double-descent --kind rff --data mnist --replicates 1" in printed
    assert not list(tmp_path.iterdir())


def test_a_name_is_of_a_path() -> None:
    place = Place(path="curve[12].norm", name="norm at N = n")
    assert place.words == "norm at N = n"
    with pytest.raises(ValueError, match="is of a path"):
        Place(arm="a", name="b")
    both = Claim(what="x", published="y", of=place, against=Place(path="a[0]"), expect="above")
    assert (both.measured, both.located) == ("norm at N = n − a[0]", "curve[12].norm − a[0]")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["no-such-paper"], "reproduction"),
        (["missing.yaml"], "missing.yaml"),
        (["lth-lenet", "--length", "soon"], "soon"),
        (["lth-lenet", "--replicates", "0"], "replicates"),
        (["lth-lenet", "--out", "/dev/null/x"], "/dev/null"),
        (["lth-lenet", "--threads", "0"], "threads"),
        (["lth-lenet", "--seed", "-1"], "seed"),
    ],
)
def test_mistakes_are_met_before_anything_is_written(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = call("reproduce", *words)
    assert status == 2
    assert len([line for line in error.splitlines() if "warning" not in line]) == 1
    assert text in error
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    content = small()
    content["claims"][1]["of"] = {"run": "arms", "arm": "nobody"}
    given = {"arms": json.loads(json.dumps(CURVE)), "curve": {}}
    with pytest.raises(
        TombolaError, match=r"claim 'the mask is worse': masks at 50 %: results of kind 'double-descent'"
    ):
        run_reproduction(
            "x", converted(content, "x"), Asked(), tmp_path / "runs", lambda step: given["arms"], {"threads": 1}
        )


@pytest.mark.parametrize(
    ("number", "place", "said"),
    [
        (0, {"run": "arms", "family": "msks", "density": "0.5"}, "unknown family 'msks' .*allowed: dense, masks"),
        (1, {"run": "arms", "arm": "masks"}, "unknown arm 'masks' .*allowed: dense, mask"),
        (2, {"run": "curve", "arm": "rewound"}, "unknown arm 'rewound'; allowed: ticket, random, reinit, dense"),
        (2, {"run": "found", "arm": "random"}, "unknown arm 'random'.*allowed: ticket, dense"),
    ],
)
def test_an_arm_that_a_command_has_not_is_met_before_anything_is_run(
    number: int, place: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = small()
    content["runs"]["found"] = {"command": "find imp", "shared": {"model": "mlp", "length": "4it"}}
    content["claims"][number] = {"what": "this", "published": "that", "of": place, "expect": "above"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("tombola.cli.reproduce.perform_step", lambda step: pytest.fail("a command was carried out"))
    with pytest.raises(TombolaError, match=f"^claim 'this': {said}"):
        tb.reproduce(tmp_path / "own.yaml", out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_repeats_have_seeds_far_apart() -> None:
    runs = {"one": {"command": "study curve imp", "repeats": "3"}}
    claims = [{"what": "a", "published": "b", "of": {"path": "x"}, "expect": "above"}]
    repeated: Reproduction = converted(small(runs=runs, claims=claims), "x")
    words = [step.words for _, step in steps_of(repeated, Asked(seed=5))]
    assert [word[-1] for word in words] == ["5", "1005", "2005"]


def test_replicates_asked_for_are_the_repeats_of_what_is_repeated() -> None:
    runs = {
        "one": {"command": "study curve imp", "shared": {"replicates": 1}, "repeats": "3"},
        "two": {"command": "study curve imp", "shared": {"replicates": 3}},
    }
    claims = [{"what": "a", "published": "b", "of": {"run": "one", "path": "x"}, "expect": "above"}]
    made: Reproduction = converted(small(runs=runs, claims=claims), "x")
    steps = list(steps_of(made, Asked(replicates=2)))
    assert [(name, " ".join(step.words[3:])) for name, step in steps] == [
        ("one", "--replicates 1 --seed 0"),
        ("one", "--replicates 1 --seed 1000"),
        ("two", "--replicates 2 --seed 0"),
    ]
    assert [step.overrides.get("replicates") for _, step in steps] == [None, None, 2]


def test_a_column_may_lead_into_what_a_level_holds() -> None:
    level = level_figures(1).replace(channels=ChannelCount(kept=5, total=10, drawn=40))
    assert column(level, "channels.drawn") == 40
    assert column(level_figures(1), "channels.drawn") is None
    with pytest.raises(TombolaError, match="drown"):
        column(level, "channels.drown")
    with pytest.raises(TombolaError, match="no number, but ChannelCount"):
        column(level, "channels")
