"""`tombola sensitivity`, and the budgets of `tombola prune`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import tombola as tb
from cli_calls import call
from tombola.data.registry import load_data
from tombola.models.registry import build_network
from tombola.prune.validation import Validation


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small network that knows the digits, as the command line names it."""
    file = tmp_path_factory.mktemp("checkpoints") / "mlp.pt"
    digits = load_data(tb.DataSpec("digits"))
    torch.manual_seed(0)
    network = build_network("mlp", input_shape=(1, 8, 8), classes=10, args={"hidden": [32]})
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    train = digits.train
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(train.x), train.y).backward()  # type: ignore[union-attr]
        optimiser.step()
    torch.save(network.state_dict(), file)
    return ["mlp", "--model_args", "{hidden: [32]}", "--checkpoint", str(file), "--data", "digits", "--samples", "64"]


class Own(nn.Sequential):
    """Somebody's own network."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


def test_a_network_of_ones_own_without_a_checkpoint_is_said_to_be_as_it_is_made(tmp_path: Path) -> None:
    own = f"{__name__}.Own"
    status, _, err = call("prune", own, "--density", "0.5", "--samples", "64", "--out", str(tmp_path / "net.ticket"))
    assert status == 0
    assert err.startswith(f"tombola: warning: no checkpoint: weights are those that {own} is made with\n")


def test_sensitivity_prints_a_table_and_writes_a_picture(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "found"
    status, text, err = call("sensitivity", *words, "--densities", "0.5,0.1", "--out", str(out))
    assert status == 0, err
    found = json.loads((out / "sensitivity.json").read_text())
    assert found["measure"] == "accuracy"
    assert 0.8 < found["dense"] <= 1
    assert all(len(layer["values"]) == 2 and layer["values"][1] < found["dense"] for layer in found["layers"])
    for layer in found["layers"]:
        assert f"{layer['name']} " in text
        assert layer["name"].removesuffix(".weight") in (out / "sensitivity.svg").read_text()
    assert "Accuracy lost (points)" in (out / "sensitivity.svg").read_text()


def test_one_density_alone_is_a_list_of_one(words: list[str]) -> None:
    status, text, err = call("sensitivity", *words, "--densities", "0.5", "--json")
    assert status == 0, err
    assert json.loads(text.splitlines()[-1])["densities"] == [0.5]


def test_accuracy_is_kept(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "net.ticket"
    status, text, err = call("prune", *words, "--keep_accuracy", "3", "--out", str(out), "--json")
    assert status == 0, err
    found = json.loads(text.splitlines()[-1])
    assert (found["budget"], found["asked"], found["met"]) == ("keep_accuracy", 3, True)
    assert 100 * (found["val_before"] - found["val_after"]) == pytest.approx(found["reached"], abs=1e-4)
    assert found["reached"] <= 3
    assert tb.Ticket.load(out).density == found["density"] < 1
    assert "keep_accuracy 3: met: " in err


@pytest.mark.parametrize("budget", [("--keep_accuracy", "3"), ("--file", "1GB")])
def test_the_dense_network_is_validated_once(
    words: list[str], budget: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[object] = []
    plain = Validation.of

    def of(self: Validation, model: nn.Module) -> float:
        whole.extend([model] * all(bool(value.all()) for value in model.parameters()))
        return plain(self, model)

    def again(model: nn.Module, *more: object) -> object:
        raise AssertionError("validated by the command, which knows already")

    monkeypatch.setattr(Validation, "of", of)
    monkeypatch.setattr("tombola.train.evaluate.evaluate", again)
    status, _, err = call("prune", *words, *budget, "--allocation", "uniform", "--out", str(tmp_path / "net.ticket"))
    assert status == 0, err
    assert len(whole) == 1


def test_a_budget_that_is_met_already_is_said(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "net.ticket"
    status, text, err = call("prune", *words, "--file", "1GB", "--out", str(out), "--json")
    assert status == 0, err
    found = json.loads(text.splitlines()[-1])
    assert (found["met"], found["density"], found["val_before"]) == (True, 1.0, found["val_after"])
    assert "met by the network as it is, nothing is pruned" in err
    assert tb.Ticket.load(out).density == 1


def test_a_file_is_as_large_as_was_said(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "net.ticket"
    more = ("--file", "4kB", "--values", "float16", "--allocation", "uniform", "--out", str(out), "--json")
    status, text, err = call("prune", *words, *more)
    assert status == 0, err
    found = json.loads(text.splitlines()[-1])
    assert out.stat().st_size == found["bytes"] == found["reached"] <= 4000


def test_a_budget_that_cannot_be_met_is_status_3_and_the_nearest_is_kept(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "net.ticket"
    status, text, err = call("prune", *words, "--file", "1", "--allocation", "uniform", "--out", str(out))
    assert status == 3
    assert "file 1: NOT met, the nearest that was reached: " in text
    assert err == ""
    assert tb.Ticket.load(out).density == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--file", "1kB", "--density", "0.5"), "--density does not go with --file"),
        (("--faster", "2", "--scope", "global"), "--scope does not go with --faster"),
        (("--file", "1kB", "--origin"), "--origin does not go with --file"),
        (("--file", "1kB", "--faster", "2"), "faster and file are given; give one of"),
        (("--file", "much"), "file is 'much'; give a size such as 5MB"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    words: list[str], more: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    out = tmp_path / "net.ticket"
    status, _, err = call("prune", *words, *more, "--out", str(out))
    assert status == 2
    assert line in err
    assert err.count("\n") == 1
    assert not out.exists()
