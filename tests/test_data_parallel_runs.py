"""A search that several processes share: one run, the same bytes on every rank, and what one process finds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from in_ranks import in_ranks
from tombola.models.spec import ModelSpec
from tombola.search.find import run_find
from tombola.search.request import Request, make_request
from tombola.train.history import read_csv

MLP = ModelSpec("mlp", {"hidden": [16]})
SHORT = {"length": "24it", "batch_size": 30, "eval_every": "8it"}

REQUESTS: dict[str, Callable[[], Request]] = {
    "imp": lambda: request(MLP, tb.IterativePruning(density=0.3, rounds=1)),
    "edge-popup": lambda: request(MLP, tb.EdgePopup(density=0.5), lr=0.5),
    "early-bird": lambda: request(conv(), tb.EarlyBird(density=0.5, draw_at="8it"), length="16it"),
}


def conv() -> nn.Module:
    """A user's own network, with norms."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = [nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(8, 10))


def request(model: Any, method: Any, **recipe: Any) -> Request:
    options = tb.Options(device="cpu", progress=False, checkpoint_seconds=0.0)
    return make_request(model, "digits", method, recipe={**SHORT, **recipe}, seed=1, options=options)


def found(name: str, out: Path) -> dict[str, Any]:
    """The run of a request, with what this process has written to."""
    written: list[str] = []

    def listen(event: str, details: tuple[Any, ...]) -> None:
        writes = event in ("os.mkdir", "os.rename", "os.remove") or (event == "open" and details[2] & os.O_ACCMODE)
        if writes and str(details[0]).startswith(str(out)):
            written.append(str(details[0]))

    sys.addaudithook(listen)
    result = run_find(REQUESTS[name](), out)
    again = run_find(REQUESTS[name](), out)
    return {"run": result.run, "reused": (result.reused, again.reused), "written": written, "ticket": result.ticket}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_run_is_that_of_one_process(name: str, tmp_path: Path) -> None:
    first, second = in_ranks(found, name, tmp_path / "shared")
    assert first["run"] == second["run"]
    assert first["reused"] == second["reused"] == (False, True)
    assert first["written"]
    assert not second["written"]
    (run,) = (tmp_path / "shared").iterdir()
    alone = run_find(REQUESTS[name](), tmp_path / "alone")
    assert Path(str(alone.run)).name == run.name
    assert files(run) == files(Path(str(alone.run)))
    for log in run.rglob("metrics.csv"):
        same_curve(log, Path(str(alone.run)) / log.relative_to(run))
    assert '"ranks": 2' in (run / "run.json").read_text()


def files(run: Path) -> set[str]:
    return {str(file.relative_to(run)) for file in run.rglob("*") if file.is_file()}


def same_curve(log: Path, other: Path) -> None:
    """Losses within a hundred-thousandth."""
    rows, others = read_csv(log), read_csv(other)
    assert [row.step for row in rows] == [row.step for row in others]
    for row, wanted in zip(rows, others, strict=True):
        assert row.val_loss == pytest.approx(wanted.val_loss, rel=1e-5)
        assert row.train_loss == pytest.approx(wanted.train_loss, rel=1e-5, nan_ok=True)
