"""Mistakes that once ended in a traceback, a false word or wasted training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import tombola as tb
from tombola.cli import main
from tombola.data.splits import make_splits
from tombola.report.page import write_report
from tombola.runs.integrity import DamagedWarning
from tombola.search.request import make_request
from tombola.study.curve import run_curve
from tombola.train.checkpoint import CheckpointStore
from tombola.train.history import Row, append_csv, csv_bytes
from tombola.train.loop import train
from tombola.train.recipe import Recipe

TINY = ["find", "imp", "--model", "mlp", "--data", "digits", "--length", "2it", "--levels", "1"]
RECIPE: dict[str, Any] = {"length": "2it", "batch_size": 32}


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that must end with status 2."""
    assert main(argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("tombola: error: ")
    assert line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--replicates", "0"], "replicates is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--jobs", "0"], "jobs is 0"),
        (["--checkpoint_seconds", "-1"], "checkpoint_seconds is -1"),
        (["--optimizer", "torch.optim.LBFGS"], "weight_decay"),
        (["--optimizer", "torch.nn.Linear"], "torch.nn.Linear"),
        (["--criterion", "os.path.join"], "criterion join failed"),
    ],
)
def test_a_wrong_value_is_one_line_and_leaves_nothing(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *TINY, *options, "--out", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_n_of_m_with_a_global_scope_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY[:-2], "--pattern", "2:4", "--scope", "global", "--out", str(tmp_path)]
    assert "scope" in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xe4\xff\x00"])
def test_a_configuration_that_is_no_text_is_named(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "some.yaml"
    file.write_bytes(content)
    assert "configuration" in refused(capsys, *TINY, "--config", str(file))


def test_divergence_before_the_first_checkpoint_does_not_promise_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--optimizer", "sgd", "--lr", "1e9", "--length", "20it", "--out", str(tmp_path)]
    line = refused(capsys, *TINY, *options)
    assert not list(tmp_path.rglob("checkpoint.pt"))
    assert "last good checkpoint" not in line


def test_verify_without_a_test_split_trains_nothing(tmp_path: Path) -> None:
    x, y = torch.rand(40, 6), torch.arange(40) % 3
    splits = make_splits((x, y), (x, y), None)
    ticket = tb.find("mlp", splits, tb.IterativePruning(levels=1), recipe=RECIPE)
    with pytest.raises(tb.TombolaError, match="test split"):
        tb.verify(ticket, splits, replicates=1, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_model_is_found_on_under_its_own_names() -> None:
    model = torch.compile(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), backend="eager")
    ticket = tb.find(model, "digits", tb.IterativePruning(levels=1), recipe=RECIPE)
    assert list(ticket.mask) == ["1.weight"]


def test_a_model_that_cannot_be_copied_is_refused_with_the_mend() -> None:
    model = nn.Sequential(nn.Flatten(), prune.l1_unstructured(nn.Linear(64, 10), "weight", 0.5))
    with pytest.raises(tb.TombolaError, match=r"prune\.remove"):
        tb.find(model, "digits", tb.IterativePruning(levels=1), recipe=RECIPE)


def test_a_gradient_criterion_draws_dropout_from_the_seed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    method = tb.IterativePruning(levels=1, criterion="snip")
    found = [tb.find(model, "digits", method, recipe=RECIPE).to_bytes() for _ in range(2)]
    assert found[0] == found[1]


def _checkpointed(folder: Path) -> CheckpointStore:
    x, y = torch.rand(40, 6), torch.arange(40) % 3
    store = CheckpointStore(folder, every_seconds=0)
    recipe = Recipe(length="20it", batch_size=20, eval_every="1it", lr=0.01)
    train(nn.Linear(6, 3), make_splits((x, y), (x, y), None), recipe, store=store)
    return store


def test_a_torn_last_row_of_the_metrics_does_not_stop_a_resume(tmp_path: Path) -> None:
    store = _checkpointed(tmp_path)
    with store.metrics.open("a") as file:
        file.write("4,0.1,0.0")
    found = store.load()
    assert found is not None
    assert len(found.history) > 1


def test_metrics_that_lost_rows_are_written_again_from_the_checkpoint(tmp_path: Path) -> None:
    store = _checkpointed(tmp_path)
    whole = store.load()
    assert whole is not None
    store.metrics.write_text("\n".join(store.metrics.read_text().splitlines()[:2]) + "\n")
    with pytest.warns(DamagedWarning, match=r"metrics\.csv does not fit its checkpoint; it was renamed"):
        found = store.load()
    assert found is not None
    assert store.metrics.read_bytes() == csv_bytes(found.history) == csv_bytes(whole.history)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named_when_metrics_are_written() -> None:
    with pytest.raises(tb.TombolaError, match="/dev/full"):
        append_csv(Path("/dev/full"), Row(1, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0))


def test_an_unfinished_run_is_reported_as_far_as_it_got(tmp_path: Path) -> None:
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    (run,) = tmp_path.iterdir()
    (run / "result.json").unlink()
    page = write_report([run], tmp_path / "report")
    assert "The run has not finished" in page.html.read_text()
    assert page.figures


@pytest.mark.parametrize(("recipe", "says"), [({"lrr": 1}, "lrr"), ({"lr": "x"}, "lr is 'x', but it must be a number")])
def test_a_wrong_recipe_in_python_is_one_clear_line(recipe: dict[str, Any], says: str) -> None:
    with pytest.raises(tb.TombolaError, match=says):
        tb.find("mlp", "digits", recipe=recipe)


def test_controls_at_a_level_that_is_not_there_are_refused(tmp_path: Path) -> None:
    request = make_request("mlp", "digits", {"levels": 1}, recipe=RECIPE)
    with pytest.raises(tb.TombolaError, match="names level 9"):
        run_curve(request, tmp_path, control_levels=[9])
