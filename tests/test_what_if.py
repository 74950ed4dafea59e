"""What a network would gain if it were sparse: cases, masks, times, and what is not reached."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from cli_calls import call
from clocks import NATIVE, QUICK
from tombola.deploy.what_if import Case, WhatIf, cases_of
from tombola.errors import TombolaError


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    )


X = torch.zeros(2, 3, 6, 6)


def asked(*cases: Any, **more: Any) -> WhatIf:
    settings = {"engines": ("eager",), "rounds": 1, "threads": 1, "clock": NATIVE} | more
    return tb.what_if(small(), X, cases=cases, **settings)


def test_each_density_comes_in_each_pattern() -> None:
    assert cases_of("0.1,0.05,block:4,2:4") == (
        Case(0.1),
        Case(0.05),
        Case(0.1, "block:4"),
        Case(0.05, "block:4"),
        Case(0.5, "2:4"),
    )
    assert cases_of(0.25) == cases_of([0.25, "0.25"]) == (Case(0.25),)
    assert cases_of([Case(0.3, "channel"), 0.1]) == (Case(0.3, "channel"), Case(0.1))


def test_a_case_says_how_many_zeros_it_has() -> None:
    words = {0.1: "90 % zeros", 0.9: "10 % zeros", 1.0: "0 % zeros", 0.005: "99.5 % zeros"}
    assert {density: str(Case(density)) for density in words} == words
    assert str(Case(0.05, "block:4")) == "95 % zeros, block:4"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("block:4", "pattern block:4 needs a density, the fraction of weights kept; e.g. 0.1,block:4"),
        ("0", "the fraction of weights KEPT"),
        ("90", "the fraction of weights KEPT"),
        ("nan", "the fraction of weights KEPT"),
        ([], "no density is given"),
        ("0.1,blok:4", "unknown pattern 'blok:4'"),
    ],
)
def test_cases_that_make_no_sense_are_refused(given: Any, words: str) -> None:
    with pytest.raises(TombolaError, match=words):
        cases_of(given)


def test_masks_have_the_density_asked_for_in_every_layer() -> None:
    found = asked(0.25, "block:4")
    single, block = found.outcomes
    counts = [8 * 27, 10 * 8 * 36]
    assert single.density == sum(round(0.25 * count) for count in counts) / sum(counts)
    # the linear layer's rows are blocks of 4, 4 and 2: its density is only near 1/4
    assert block.density == pytest.approx(0.25, abs=0.02)
    assert block.density != single.density
    assert found.flops == 2 * (36 * 8 * 27 + 10 * 8 * 36)
    assert single.flops == 2 * (36 * round(0.25 * 8 * 27) + round(0.25 * 10 * 8 * 36))


def test_layers_have_times_of_their_own() -> None:
    (outcome,) = asked(0.1).outcomes
    assert [(layer.name, layer.shape) for layer in outcome.layers] == [("0", (8, 3, 3, 3)), ("4", (10, 288))]
    assert all(layer.native is not None and layer.dense is not None for layer in outcome.layers)
    assert [gain.baseline for gain in outcome.gains] == ["eager"]
    assert outcome.timing is not None
    assert outcome.timing.median is not None


def test_what_is_excluded_stays_dense() -> None:
    (outcome,) = asked(0.1, exclude=["4.*"]).outcomes
    assert outcome.density == round(0.1 * 216) / 216
    assert {layer.name: layer.density for layer in outcome.layers}["4"] == 1
    with pytest.raises(TombolaError, match="no prunable weights left"):
        asked(0.1, exclude=["0.*", "4.*"])


def test_no_layer_ends_empty() -> None:
    (outcome,) = asked(0.0001, "channel").outcomes[1:]
    assert outcome.density == (1 * 27 + 1 * 288) / (8 * 27 + 10 * 288)


def test_the_first_case_alone_is_certain_to_be_reached() -> None:
    first, second = asked(0.1, 0.05, seconds=1e-9).outcomes
    assert first.timing is not None
    assert (second.timing, second.missing) == (None, "not reached within 1e-09 s")
    with pytest.raises(TombolaError, match="seconds is 0; give a time above 0"):
        asked(0.1, seconds=0)


def test_the_network_and_the_random_state_stay_as_they_were() -> None:
    model = small().train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    tb.what_if(model, X, cases=0.5, engines=("eager",), rounds=1, threads=1, clock=NATIVE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


def test_an_engine_that_cannot_run_says_why_and_nothing_is_compared_with_it() -> None:
    found = tb.what_if(
        nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4), cases=0.5, engines=("eager", "channels-last"), rounds=1,
        threads=1, clock=QUICK,
    )  # fmt: skip
    assert [time.missing for time in found.baselines] == [None, "no images"]
    assert [gain.baseline for gain in found.outcomes[0].gains] == ["eager"]
    json.dumps(found.as_dict())
    first, head, rule, *rows = str(found).splitlines()
    assert first == "batch 1, 1 thread"
    assert head.split()[:2] == ["network", "ms"]
    assert set(rule) == {"-"}
    assert rows[0].startswith("dense, eager")
    assert rows[1].endswith("no images")
    assert rows[2].startswith("50 % zeros")


def test_the_command_shows_cases_beside_engines() -> None:
    words = (
        "bench",
        "mlp",
        "--model_args",
        "{hidden: [8]}",
        "--input_shape",
        "[1,4,4]",
        "--what_if",
        "0.1,0.9,block:4",
    )
    words = (*words, "--engines", "[eager, torch-csr]", "--rounds", "1", "--threads", "1", "--json")
    status, out, err = call(*words)
    assert status == 0, err
    (found,) = json.loads(out.splitlines()[-1])["what_if"]
    assert found["batch"] == 1
    assert [one["case"] for one in found["outcomes"]] == [
        {"density": density, "pattern": pattern} for pattern in ("element", "block:4") for density in (0.1, 0.9)
    ]
    assert "90 % zeros, block:4" in err
    assert "density is the fraction of weights kept: 0.9 leaves 10 % zeros; for 90 % zeros give 0.1" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("lenet-300-100", "--what_if", "0.1"), "its input shape is not known; give one: --input_shape"),
        (("lenet-300-10", "--what_if", "0.1", "--input_shape", "[1,8,8]"), "unknown model 'lenet-300-10'"),
        (("gone.ticket", "--what_if", "0.1"), "'gone.ticket': no such file"),
        (("lenet-300-100", "--seconds", "3"), "--seconds goes with --what_if"),
    ],
)
def test_the_command_refuses_in_one_line(words: tuple[str, ...], line: str) -> None:
    status, _, err = call("bench", *words)
    assert status == 2
    assert line in err
    assert err.count("\n") == 1
