"""A real process killed at awkward moments resumes and ends with the same bytes."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from cli_calls import call
from tombola.train.history import read_csv

SEARCH = ("find", "imp", "--model", "mlp", "--data", "digits", "--levels", "2", "--length", "15ep", "--rewind", "30it")
SETTINGS = ("--eval_every", "20it", "--checkpoint_seconds", "0", "--device", "cpu", "--threads", "1")
# A process of its own for every search, forked from one that has loaded all there is to load.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "tombola.search.find", "tombola.cli.searches"])


def search(out: Path) -> None:
    status, _, error = call(*SEARCH, *SETTINGS, "--out", str(out))
    assert status == 0, error


def start(out: Path) -> ForkServerProcess:
    process = PROCESSES.Process(target=search, args=(out,))
    process.start()
    return process


def files(out: Path, name: str) -> dict[str, Path]:
    return {file.parent.name: file for file in out.rglob(name)}


def kill_when(out: Path, level: str, rows: int) -> None:
    """Start, and kill -9 once that level has a checkpoint and at least that many rows of metrics."""
    process = start(out)
    for _ in range(3000):
        checkpoint, metrics = files(out, "checkpoint.pt").get(level), files(out, "metrics.csv").get(level)
        if checkpoint is not None and metrics is not None and len(metrics.read_text().splitlines()) > rows:
            break
        assert process.is_alive(), "it ended by itself"
        time.sleep(0.01)
    process.kill()
    process.join()
    assert "result.json" not in [file.name for file in out.glob("*/*")], "it was killed too late to show anything"


@pytest.mark.slow
def test_kill_minus_nine_at_several_moments_changes_no_byte(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    search(whole)
    for level, rows in [("level-00", 2), ("level-00", 6), ("level-01", 3), ("level-02", 9)]:
        kill_when(cut, level, rows)
    search(cut)
    expected, found = files(whole, "network.ticket"), files(cut, "network.ticket")
    assert expected.keys() == found.keys() == {"level-00", "level-01", "level-02"}
    for level, file in expected.items():
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(found[level].read_bytes()).digest()
    for level, file in files(whole, "metrics.csv").items():
        ours = read_csv(files(cut, "metrics.csv")[level])
        assert [(row.step, row.val_loss) for row in ours] == [(row.step, row.val_loss) for row in read_csv(file)]
    assert not [file for file in cut.rglob("*.part")], "a half-written file was left behind"
