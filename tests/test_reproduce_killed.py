"""A reproduction that is killed in the middle goes on, trains nothing twice, and ends with the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli_calls import call
from tombola.runs.stage import Stage

REPRODUCTION = """
title: A mask against weights
paper: Nobody 2026
claimed: a mask alone is worse
runs:
  arms:
    study:
      arms: [{name: dense, method: dense}, {name: mask, method: imp, options: {density: 0.5, rounds: 1}}]
    shared: {model: mlp, data: digits, train_examples: 60, length: 4it, eval_every: 2it, replicates: 1}
  curve:
    command: study curve imp
    shared: {model: mlp, data: digits, train_examples: 60, length: 4it, eval_every: 2it, levels: 1, replicates: 1}
claims:
  - {what: the mask is worse, published: worse, of: {run: arms, arm: mask}, against: {arm: dense}, expect: below}
  - what: a ticket is better than a random mask
    published: better
    of: {run: curve, arm: ticket, density: 0.8}
    against: {arm: random, density: 0.8}
    expect: above
"""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "tombola.search.find", "tombola.study.compare", "tombola.study.curve"])


def reproduce(folder: Path, out: Path, finishing: int | None = None) -> None:
    """Carry it out; killed (-9) when so many stages have finished and one more would."""
    finish, done = Stage._finish, [0]

    def killed(stage: Stage, result: Mapping[str, Any]) -> None:
        if done[0] == finishing:
            os.kill(os.getpid(), signal.SIGKILL)
        done[0] += 1
        finish(stage, result)

    if finishing is not None:
        Stage._finish = killed  # type: ignore[method-assign]  # in a process of its own
    words = ("--out", str(out), "--device", "cpu", "--threads", "1", "--checkpoint_seconds", "0")
    status, _, error = call("reproduce", str(folder / "small.yaml"), *words)
    assert status == 0, error


def finished(out: Path) -> dict[str, int]:
    """Every finished stage and run, and when it was written, in nanoseconds."""
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in out.rglob("result.json")}


def contents(out: Path, pattern: str) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in out.glob(pattern)}


@pytest.mark.slow
def test_killed_in_the_middle_and_at_its_end_it_trains_nothing_twice_and_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(REPRODUCTION)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    reproduce(tmp_path, whole)
    total = len(finished(whole))
    done: dict[str, int] = {}
    for stages in (total // 2, total - 1 - total // 2):  # in the middle, then before the reproduction's own result
        process = PROCESSES.Process(target=reproduce, args=(tmp_path, cut, stages))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = finished(cut)
        assert len(now) == len(done) + stages
        assert done.items() <= now.items(), "what had finished was written again"
        done = now
    reproduce(tmp_path, cut)
    assert done.items() <= finished(cut).items()
    assert finished(cut).keys() == finished(whole).keys()
    for pattern in ("reproduce-*/result.json", "**/*.ticket"):
        assert contents(whole, pattern)
        assert contents(cut, pattern) == contents(whole, pattern)
