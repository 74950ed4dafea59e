"""A search that several processes share: one run, the same bytes on every rank, and what one process finds."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from in_ranks import in_ranks, start
from tombola.cli import main
from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.models.spec import ModelSpec
from tombola.search.find import run_find
from tombola.search.request import Request, make_request
from tombola.train.checkpoint import Checkpoint, CheckpointStore
from tombola.train.history import read_csv

MLP = ModelSpec("mlp", {"hidden": [16]})
SHORT = {"length": "24it", "batch_size": 30, "eval_every": "8it"}

REQUESTS: dict[str, Callable[[], Request]] = {
    "imp": lambda: request(MLP, tb.IterativePruning(density=0.3, rounds=1)),
    "edge-popup": lambda: replace(request(MLP, tb.EdgePopup(density=0.5), lr=0.5), replicates=2),
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


# ---- kill and resume ---------------------------------------------------------------------------------------------


def noisy() -> Request:
    """A search that draws in every step."""
    model = ModelSpec("mlp", {"hidden": [16], "dropout": 0.3})
    return request(model, tb.IterativePruning(density=0.3, rounds=1, rewind="8it"), length="40it")


def find_noisy(out: Path, die_at: int | None = None) -> None:
    """`die_at`: rank 1 kills itself when that checkpoint is due."""
    due: list[Checkpoint] = []
    save = CheckpointStore.save

    def count(self: CheckpointStore, checkpoint: Checkpoint) -> None:
        save(self, checkpoint)
        due.append(checkpoint)
        if len(due) == die_at and not self.ranks.writes:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointStore, "save", count)
        run_find(noisy(), out)


def contents(out: Path) -> dict[str, Any]:
    """All that a run must have again to the bit."""
    (run,) = out.iterdir()
    kept = {str(file.relative_to(run)): file for file in run.rglob("*") if file.suffix in (".ticket", ".safetensors")}
    logs = {
        str(log.relative_to(run)): [str(replace(row, seconds=0.0)) for row in read_csv(log)]
        for log in run.rglob("*.csv")
    }
    return {**{name: file.read_bytes() for name, file in kept.items()}, **logs}


def test_a_rank_is_killed_and_the_run_goes_on(tmp_path: Path) -> None:
    in_ranks(find_noisy, tmp_path / "whole")
    broken = tmp_path / "broken"
    processes, ears = start(find_noisy, broken, 3)
    failed, _ = pickle.loads(ears[0].recv_bytes())
    assert "have lost each other" in failed
    assert "TombolaError" in failed
    for process in processes:
        process.join()
    assert processes[1].exitcode == -signal.SIGKILL
    (run,) = broken.iterdir()
    assert not (run / "result.json").exists()
    assert (run / "replicate-0" / "level-01" / "checkpoint.pt").exists()
    with pytest.raises(TombolaError, match=r"was begun with ranks 2 \(now 1\)"):
        run_find(noisy(), broken)
    in_ranks(find_noisy, broken)
    assert contents(broken) == contents(tmp_path / "whole")
    assert len(contents(broken)) == 6


# ---- methods that draw, and those without gradients --------------------------------------------------------------


def find_others(out: Path) -> list[str]:
    """What must be alike is compared at every evaluation, within the searches."""
    methods: list[tuple[Any, dict[str, Any]]] = [
        (tb.LearnedMask(rule="bernoulli"), {"precision": "bfp8", "batch_size": 31}),
        (tb.Evolve(density=0.5, budget=20_000, examples=200), {}),
        (tb.AtInit(density=0.5, criterion="grasp"), {"precision": "bf16-mixed"}),
    ]
    return [str(run_find(request(MLP, method, **recipe), out).ticket) for method, recipe in methods]


def find_in_memory() -> tuple[Any, str]:
    """A ticket of a user's own network in memory, and what is said where ranks ask for different ones."""
    rank = int(os.environ["RANK"])
    data = (torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def find(seed: int) -> tb.Ticket:
        method, recipe = tb.IterativePruning(density=0.25, rounds=1), {"length": "2ep", "batch_size": 32}
        return tb.find(model, (data, data, data), method, recipe=recipe, seed=seed)

    ticket = find(0)
    with pytest.raises(TombolaError) as error:
        find(rank)
    return [ticket.mask, ticket.build(model=model).state_dict()], str(error.value)


def test_in_memory_every_rank_has_the_ticket() -> None:
    (first, refused), (second, also) = in_ranks(find_in_memory)
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())
    assert refused == also
    assert "were asked for different runs" in refused


def test_methods_that_draw_or_have_no_gradients(tmp_path: Path) -> None:
    first, second = in_ranks(find_others, tmp_path)
    assert first == second
    assert len({Path(ticket).read_bytes() for ticket in first}) == 3


# ---- the command line --------------------------------------------------------------------------------------------


def command(*words: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(words)
    return status, out.getvalue(), err.getvalue()


FIND = ("find", "imp", "--data", "digits", "--model", "mlp", "--length", "2it", "--rounds", "1", "--device", "cpu")

MISTAKES = {
    "--lr is none": (["--lr", "high"], "lr is 'high'"),
    "no batch for all": (["--batch_size", "1"], "a batch has 1 examples, but 2 processes need at least 2"),
    "jobs": (["--jobs", "2", "--replicates", "2"], "jobs is 2, but 2 processes"),
    "no folder": (["--out", __file__], "is a file; name a folder"),
    "on one rank alone": (["--data", "test_data_parallel_runs.digits_of_rank_0"], "no data on rank 1"),
}


def digits_of_rank_0(root: str, seed: int) -> Any:
    from tombola.data.registry import load_data

    if os.environ.get("RANK") == "1":
        raise OSError("no data on rank 1")
    return load_data(DataSpec("digits"))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_once(name: str, tmp_path: Path) -> None:
    words, said = MISTAKES[name]
    answers = in_ranks(command, *FIND, "--out", str(tmp_path), *words)
    assert [status for status, _, _ in answers] == [2, 2]
    assert [out for _, out, _ in answers] == ["", ""]
    (line,) = [line for _, _, err in answers for line in err.splitlines()]
    assert said in line
    assert not list(tmp_path.iterdir())


def test_torchrun_finds_a_ticket(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*torchrun, "-m", "tombola", *FIND, "--out", str(tmp_path), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    (run,) = tmp_path.iterdir()
    assert result["run"] == str(run)
    assert Path(result["ticket"]).is_file()
    assert done.stderr.count("already finished") == 0
    assert done.stderr.count("run     ") == 1
    begun = json.loads((run / "run.json").read_text())["command"]
    assert begun.startswith("torchrun --nproc_per_node 2 -m tombola find imp --data digits ")
