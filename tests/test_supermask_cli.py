"""Learned masks from the command line: find them, go on from them with --start, verify and export them."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from cli_calls import call, last_json
from tombola.mask import Mask
from tombola.models.registry import build_network
from tombola.ticket.ticket import Ticket

DIGITS = ["--model", "mlp", "--data", "digits"]
TINY = [*DIGITS, "--length", "6it", "--eval_every", "3it", "--batch_size", "60"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def popped(runs: Path) -> str:
    """The ticket file of an edge-popup search."""
    return str(last_json("find", "edge-popup", *TINY, "--out", str(runs))["ticket"])


@pytest.mark.parametrize(
    "words",
    [
        ["edge-popup", "--density", "0.3", "--scope", "global"],
        ["edge-popup", "--pattern", "2:4", "--anneal", "0it"],
        ["edge-popup", "--density", "0.2", "--anneal", "3it", "--scale_fan"],
        ["learned-mask", "--samples", "2", "--weights", "signed_constant", "--rescale"],
        ["learned-mask", "--rule", "threshold", "--biases", "--finetune", "3it", "--finetune_lr", "0.01"],
        ["joint", "--weight_gradient", "sr-ste", "--score_lr", "0.1"],
        ["joint", "--scores_first", "2it", "--freeze_scores", "0.3"],
    ],
    ids=" ".join,
)
def test_every_method_finds_a_ticket(words: list[str], runs: Path) -> None:
    found = last_json("find", *words, *TINY, "--out", str(runs))
    ticket = Ticket.load(found["ticket"])
    assert ticket.density == found["density"]
    assert found["dense_test_accuracy"] is None
    levels = found["replicates"][0]["arms"]["ticket"]
    assert [level["level"] for level in levels] == ([1, 2] if "--finetune" in words else [1])
    assert ("test_accuracy_sampled" in levels[0]) == ("--samples" in words)
    assert last_json("find", *words, *TINY, "--out", str(runs)) == {**found, "reused": True}


def test_a_search_goes_on_from_a_ticket(popped: str, runs: Path) -> None:
    ticket = Ticket.load(popped)
    for words in (
        ["imp", "--density", "0.1", "--rounds", "2"],
        ["joint", "--density", "0.5", "--freeze_scores", "1.0"],
        ["edge-popup", "--density", "0.25", "--lr", "0.0"],
    ):
        found = last_json("find", *words, "--start", popped, *TINY, "--out", str(runs))
        after = Ticket.load(found["ticket"])
        assert after.mask.nested_in(ticket.mask)
        assert after.provenance["start"] == ticket.digest
        assert after.origin.weights_hash == ticket.origin.weights_hash
        assert found["dense_test_accuracy"] is None  # the ticket was trained first, no dense network
        alone = last_json("find", *words, *TINY, "--out", str(runs))
        assert alone["run"] != found["run"]


def test_levels_zero_trains_the_ticket_as_it_is(popped: str, runs: Path) -> None:
    words = ["find", "imp", "--levels", "0", "--start", popped, *TINY, "--out", str(runs)]
    assert Ticket.load(last_json(*words)["ticket"]).mask == Ticket.load(popped).mask
    status, out, _ = call(*words)
    assert status == 0
    assert "Dense" not in out
    status, out, _ = call("find", "imp", "--levels", "0", *TINY, "--out", str(runs))
    assert "Dense" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["imp", "--density", "0.1", "--start", "nowhere.ticket"], "nowhere.ticket"),
        (["imp", "--density", "0.7", "--start", "POPPED"], "ask for less"),
        (["imp", "--density", "0.1", "--exclude", "fc1.*", "--start", "POPPED"], "fc1.weight"),
        (["edge-popup", "--model_args.hidden", "[9]", "--start", "POPPED"], "another network"),
        (["edge-popup", "--density", "0"], "(0, 1]"),
        (["edge-popup", "--density", "0.0005"], "nothing is kept of fc3.weight"),
        (["joint", "--scores_first", "4it", "--freeze_scores", "0.5"], "nothing learns"),
        (["learned-mask", "--rule", "threshold", "--logit", "-1"], "above 0"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_mistakes_are_one_line_and_status_two(words: list[str], expected: str, popped: str, tmp_path: Path) -> None:
    given = [popped if word == "POPPED" else word for word in words]
    status, out, err = call("find", *given, *TINY, "--out", str(tmp_path / "runs"))
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert expected in err
    assert not list(tmp_path.glob("runs/*"))


def test_only_find_takes_a_start(popped: str, runs: Path) -> None:
    status, _, err = call("study", "curve", "imp", "--start", popped, *TINY, "--out", str(runs))
    assert status == 2
    assert "start" in err


def test_the_subnetwork_is_exported_and_verified(popped: str, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "alone.safetensors"
    last_json("export", popped, "--out", str(file))
    alone = build_network("mlp", input_shape=(1, 8, 8), classes=10)
    alone.load_state_dict(safetensors.torch.load_file(file), strict=True)
    ticket = Ticket.load(popped)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(alone(x), ticket.build()(x))
    assert Mask.from_zeros(alone) == ticket.mask
    found = last_json("verify", popped, "--replicates", "1", "--out", str(runs))
    assert found["wins"] is None
    assert found["kept"] == ticket.mask.kept
