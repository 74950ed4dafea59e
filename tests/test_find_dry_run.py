"""find --dry_run: what would be done, in the very words of the run, and nothing written."""

from __future__ import annotations

from pathlib import Path

from cli_calls import call, last_json

SEARCH = ["find", "imp", "--data", "digits", "--model", "mlp", "--rounds", "1", "--density", "0.5", "--length", "1ep"]
SEARCH += ["--batch_size", "256"]


def test_it_names_the_run_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    planned = last_json(*SEARCH, "--out", str(out), "--dry_run")
    assert not out.exists()
    assert (planned["state"], planned["iterations_per_epoch"], planned["iterations"]) == ("new", 5, 5)
    assert planned["data"] | {"fingerprint": ""} == {
        "name": "digits",
        "train_examples": 1294,
        "val_examples": 144,
        "test_examples": 359,
        "shape": [1, 8, 8],
        "classes": 10,
        "fingerprint": "",
    }
    assert planned["parameters"] == {"total": 17226, "prunable": 17024}
    assert (planned["method"]["density"], planned["recipe"]["optimizer"]) == (0.5, "adam")  # the preset's
    done = last_json(*SEARCH, "--out", str(out))
    assert done["run"] == planned["run"]
    again = last_json(*SEARCH, "--out", str(out), "--dry_run")
    assert (again["run"], again["state"]) == (planned["run"], "finished")


def test_what_it_says(tmp_path: Path) -> None:
    status, out, _ = call(*SEARCH, "--out", str(tmp_path / "runs"), "--dry_run")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "digits: 1,294 training, 144 validation, 359 test examples of shape (1, 8, 8), 10 classes"
    assert lines[1].startswith("17,024 of 17,226 parameters are prunable")
    assert "density 0.5" in lines[2]
    assert "optimizer adam" in lines[3]
    assert lines[4] == "a training: 5 iterations of 256 examples, 5 an epoch"
    assert lines[5].endswith("(new); one step of everything works, and nothing was trained")


def test_mistakes_are_met(tmp_path: Path) -> None:
    status, _, err = call(*SEARCH, "--rewind", "9ep", "--dry_run", "--out", str(tmp_path / "runs"))
    assert status == 2
    assert "rewind" in err
