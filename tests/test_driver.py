"""The driver of runs: what is asked of an experiment and when, where its jobs are done, and what is written."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from small_tickets import network, splits
from tombola.data.config import DataSpec
from tombola.data.splits import Splits
from tombola.errors import TombolaError
from tombola.models.spec import ModelSpec
from tombola.results.record import Record
from tombola.runs.progress import Silent
from tombola.runs.stage import Stage
from tombola.search import driver
from tombola.search.driver import Experiment, JobInWorkspace, Workspace, machine, run, run_in_memory
from tombola.train.options import Options

OPTIONS = Options(progress=False, device="cpu", threads=1)


@dataclass(frozen=True)
class Asked:
    data: Splits | DataSpec = field(default_factory=splits)
    options: Options = OPTIONS

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.data,)


class Found(Record, frozen=True, kw_only=True):
    """What it gives."""

    squares: tuple[int, ...]
    note: str = ""
    run: str | None = None
    reused: bool | None = None


@dataclass(frozen=True)
class Squares(Experiment[Asked, Found]):
    """Squares of some numbers, each in a stage of its own."""

    kind = "find"
    result = Found
    numbers: tuple[int, ...] = (2, 3)
    refused: str = ""
    note: str = ""
    calls: list[str] = field(default_factory=list, compare=False)

    def met(self, what: str) -> None:
        self.calls.append(what)
        if what == self.refused:
            raise TombolaError(f"refused in {what}")

    def label(self, splits: Splits) -> str:
        return "squares"

    def config(self, splits: Splits) -> dict[str, Any]:
        self.met("config")
        return {"numbers": list(self.numbers), "data": splits.fingerprint}

    def admit(self, work: Workspace) -> None:
        self.met("admit")

    def check(self, work: Workspace) -> None:
        assert torch.get_num_threads() == 1
        self.met("check")

    def compute(self, work: Workspace) -> Found:
        assert torch.get_num_threads() == 1
        self.met("compute")
        return Found(squares=tuple(square for _, square in work.map(self.square, self.numbers, "squares")))

    def renewed(self, work: Workspace, result: Found) -> Found:
        assert work.directory is not None
        return result.replace(note=self.note) if self.note else result

    def square(self, work: Workspace, number: int) -> int:
        self.met(f"square {number}")
        stage = work.stage(str(number))
        done = stage.recovered() if stage is not None else None
        if done is not None:
            return int(done["square"])
        self.met(f"work {number}")
        if stage is not None:
            stage.finish({"square": number**2})
        return number**2


WHOLE = ["admit", "check", "config", "compute", "square 2", "work 2", "square 3", "work 3"]


def test_a_run_is_checked_named_and_computed_once(tmp_path: Path) -> None:
    squares = Squares(Asked())
    done = run(squares, tmp_path)
    assert squares.calls == WHOLE
    assert (done.squares, done.reused) == ((4, 9), False)
    directory = Path(done.run or "")
    assert directory.parent == tmp_path
    assert directory.name.startswith("squares-")
    begun = json.loads((directory / "run.json").read_bytes())
    assert (begun["kind"], begun["machine"]) == ("find", machine(OPTIONS))
    again = Squares(Asked())
    assert run(again, tmp_path) == done.replace(reused=True)
    assert again.calls == ["admit", "config"]  # what is refused even where the run is finished, and its name
    other = run(Squares(Asked(), (2,)), tmp_path)
    assert other.run != done.run


def test_finished_jobs_are_found_again(tmp_path: Path) -> None:
    killed = Squares(Asked(), refused="work 3")
    with pytest.raises(TombolaError, match="refused in work 3"):
        run(killed, tmp_path)
    resumed = Squares(Asked())
    assert run(resumed, tmp_path).squares == (4, 9)
    assert resumed.calls == [call for call in WHOLE if call != "work 2"]


@pytest.mark.parametrize("where", ["admit", "check"])
def test_nothing_is_written_where_something_is_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match=f"refused in {where}"):
        run(Squares(Asked(), refused=where), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TombolaError, match=f"refused in {where}"):
        run_in_memory(Squares(Asked(), refused=where), lambda work: None)
    run(Squares(Asked()), tmp_path)
    if where == "admit":
        with pytest.raises(TombolaError, match="refused in admit"):
            run(Squares(Asked(), refused=where), tmp_path)


def test_what_is_no_configuration_is_renewed(tmp_path: Path) -> None:
    run(Squares(Asked()), tmp_path)
    noted = Squares(Asked(), note="tuned")
    done = run(noted, tmp_path)
    assert (done.note, done.reused) == ("tuned", True)
    assert "compute" not in noted.calls
    assert run(Squares(Asked()), tmp_path).note == "tuned"


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    squares = Squares(Asked())
    assert run_in_memory(squares, squares.compute).squares == (4, 9)
    assert squares.calls == [call for call in WHOLE if call != "config"]
    assert not list(tmp_path.iterdir())
    assert run_in_memory(squares, lambda work: work.directory) is None


def test_the_threads_are_as_before_afterwards(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run(Squares(Asked()), tmp_path)
    run_in_memory(Squares(Asked()), lambda work: None)
    assert torch.get_num_threads() == before


def test_a_job_goes_to_another_process_without_what_is_loaded_here(tmp_path: Path) -> None:
    squares = Squares(Asked(DataSpec("digits")))
    sent = pickle.loads(pickle.dumps(JobInWorkspace(squares.square, 5, squares.request.data, tmp_path)))
    assert sent() == 25
    assert Stage(tmp_path / "5").result() == {"square": 25}
    here = Workspace(splits(), splits(), Silent())
    assert JobInWorkspace(lambda work, job: (work, job), 7, here.data, tmp_path)(here) == (here, 7)


def test_several_processes_need_parts_by_name(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match="by name"):
        run(Squares(Asked()), tmp_path, 2)
    assert not list(tmp_path.iterdir())


def test_jobs_come_in_order_under_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, Any]] = []

    class Bars(Silent):
        def track(self, description: str, total: int | None) -> Any:
            shown.append((description, total))
            return super().track(description, total)

    def elsewhere(function: Any, items: Any, processes: int, here: Workspace) -> Any:
        assert (processes, here) == (3, work)
        return (function(item) for item in items)

    work = Workspace(DataSpec("digits"), splits(), Bars(), processes=3)
    monkeypatch.setattr(driver, "map_jobs", elsewhere)
    monkeypatch.setattr(driver, "loaded", lambda data: data)
    found = work.map(lambda there, job: (there.splits, job + 1), (1, 2), "sums")
    assert list(found) == [(1, (work.data, 2)), (2, (work.data, 3))]
    assert shown == [("sums", 2)]


def test_a_machine_is_its_device_and_threads() -> None:
    assert machine(OPTIONS) == {"device": "cpu", "threads": 1}
    assert machine(replace(OPTIONS, threads=None), 10**6)["threads"] == 1
    assert machine(replace(OPTIONS, device="cuda:3"))["device"] == "cuda"
    there = "cuda" if torch.cuda.is_available() else "cpu"
    assert machine(replace(OPTIONS, device="auto"))["device"] == there


def test_requests_say_what_other_processes_need() -> None:
    from tombola.methods.dense import DenseTraining
    from tombola.search.request import Request
    from tombola.train.recipe import Recipe

    spec, data = ModelSpec("mlp"), DataSpec("digits")
    assert Request(spec, data, DenseTraining(), Recipe()).parts == (spec, data)
    live = network()
    assert Request(live, data, DenseTraining(), Recipe()).parts[0] is live
