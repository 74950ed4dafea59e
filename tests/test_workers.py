"""Worker processes that are killed, that lose their parent, and that are interrupted; every kill is a real one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tombola.cli.screen import plain_warnings
from tombola.errors import RunError, TombolaError
from tombola.machine import cores
from tombola.machine.cores import CoresWarning
from tombola.runs.directory import Stage
from tombola.runs.workers import WorkerPool, WorkerWarning

HANG = 120.0  # seconds after which a test has hung
posix = pytest.mark.skipif(os.name != "posix", reason="signals")


# ---- jobs, as workers import them --------------------------------------------------------------------------


def double(item: int) -> int:
    return 2 * item


def killed_once(item: tuple[str, int]) -> int:
    """Item 1 kills its own process the first time."""
    mark, number = Path(item[0]), item[1]
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def killed_always(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


class Odd(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("odd")


def raising(number: int) -> int:
    if number == 1:
        raise TombolaError("one is too many")
    if number == 2:
        raise Odd(1, 2)
    if number == 3:
        sys.exit(5)
    time.sleep(0 if number == 0 else HANG)
    return number


def warning(number: int) -> int:
    warnings.warn("said\nby all", CoresWarning, stacklevel=1)
    warnings.warn(f"said by {number}", _own_class(), stacklevel=1)
    return number


def _own_class() -> type[Warning]:
    class Local(UserWarning):
        pass

    return Local


def working(folder: str) -> None:
    """Say who works here, and go on until somebody ends it."""
    Path(folder, f"{os.getpid()}.pid").touch()
    while True:
        with Path(folder, "written").open("a") as file:
            file.write(".")
        time.sleep(0.02)


# ---- what the tests look at --------------------------------------------------------------------------------


def results(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """By two workers, which import no torch."""
    with WorkerPool(function, 2) as pool:
        return list(pool.results(items))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not holds():
        assert time.monotonic() < end, "hangs"
        time.sleep(0.02)


def alive(process: int) -> bool:
    """Whether the process runs; one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return not Path("/proc/self").exists()


def group(leader: int) -> list[int]:
    """The live processes of a group, on Linux."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, owner = file.read_text().rpartition(")")[2].split()[:3]
            found += [int(file.parent.name)] if int(owner) == leader and state != "Z" else []
    return found


def workers_in(folder: Path) -> list[int]:
    return [int(file.stem) for file in folder.glob("*.pid")]


def test_items_come_in_order_from_several_processes() -> None:
    assert results(double, list(range(5))) == [0, 2, 4, 6, 8]
    assert results(double, []) == []


def test_warnings_of_workers_are_shown_as_those_of_this_process(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert results(warning, [0, 1]) == [0, 1]
    said = {(str(one.message), one.category) for one in caught}
    assert said == {("said\nby all", CoresWarning), ("said by 0", UserWarning), ("said by 1", UserWarning)}
    with plain_warnings():
        assert results(warning, [5]) == [5]
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["tombola: warning: said by all", "tombola: warning: said by 5"]


def test_more_processes_that_fetch_than_cores_are_nothing_to_say(capfd: pytest.CaptureFixture[str]) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with plain_warnings():
        DataLoader(TensorDataset(torch.zeros(1)), num_workers=cores + 1)
    assert not capfd.readouterr().err


@posix
def test_a_killed_worker_is_replaced_once_and_said(tmp_path: Path) -> None:
    items = [(str(tmp_path / "mark"), number) for number in range(3)]
    with pytest.warns(WorkerWarning, match="killed by SIGKILL; its job goes on in a new one"):
        assert results(killed_once, items) == [0, 1, 2]


@posix
@pytest.mark.filterwarnings("ignore::tombola.runs.workers.WorkerWarning")
def test_a_job_whose_workers_are_killed_twice_is_one_line() -> None:
    with pytest.raises(TombolaError, match=r"two worker .* SIGKILL.*run the same again"):
        results(killed_always, [0, 1])


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [(1, TombolaError, "one is too many"), (2, RuntimeError, "in a worker process: Odd: odd"), (3, SystemExit, "5")],
)
def test_an_error_in_a_worker_is_raised_at_once_and_the_others_are_ended(
    number: int, kind: type[BaseException], said: str
) -> None:
    with pytest.raises(kind, match=said) as found:
        results(raising, [9, number])
    if number != 2:
        assert "in raising" in found.value.__notes__[0]


def test_what_cannot_be_sent_is_one_line() -> None:
    with pytest.raises(TombolaError, match=r"handed to another process.*set jobs to 1"):
        results(double, [lambda: 1, lambda: 2])
    with pytest.raises(TombolaError, match=r"handed to another process.*set jobs to 1"):
        results(lambda item: item, [1, 2])


PARENT = (
    "import sys; sys.path.insert(0, 'tests')\nfrom test_workers import results, working\n"
    "if __name__ == '__main__':\n    results(working, [sys.argv[1]] * 2)\n"
)


@contextlib.contextmanager
def started(*command: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    parent = subprocess.Popen(command, **{**pipes, **more})  # type: ignore[call-overload]
    try:
        yield parent
    finally:
        with contextlib.suppress(OSError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait(HANG)


@posix
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_worker_outlives_its_parent(tmp_path: Path, heeded_signals: None, how: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with started(sys.executable, str(script), str(tmp_path)) as parent:
        until(lambda: len(workers_in(tmp_path)) == 2)
        workers = workers_in(tmp_path)
        assert all(alive(worker) for worker in workers)
        os.kill(parent.pid, how)
        parent.wait(HANG)
        until(lambda: not any(map(alive, workers)))
        size = (tmp_path / "written").stat().st_size
        time.sleep(0.1)
        assert (tmp_path / "written").stat().st_size == size


LONG = ("find", "imp", "--model", "mlp", "--rounds", "1", "--length", "100000it", "--eval_every", "1000it")
MORE = ("--replicates", "2", "--jobs", "2", "--checkpoint_seconds", "0", "--threads", "1")


@posix
@pytest.mark.skipif(cores.usable_cores() < 2, reason="one core, one process")
def test_ctrl_c_is_one_line_from_all_processes_of_a_command(tmp_path: Path, heeded_signals: None) -> None:
    command = (sys.executable, "-m", "tombola", *LONG, *MORE, "--out", str(tmp_path))
    with started(*command) as parent:
        until(lambda: len(list(tmp_path.rglob("checkpoint.pt"))) == 2)
        os.killpg(parent.pid, signal.SIGINT)
        out, err = parent.communicate(timeout=HANG)
        assert parent.returncode == 130
        assert out == ""
        assert len(err.splitlines()) == 1, err
        assert "run the same command to go on" in err
        until(lambda: not group(parent.pid))
    assert not list(tmp_path.rglob(".*.part"))


def test_two_writers_never_meet_in_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tombola.runs.stage._PATIENCE", 0.1)
    stage = Stage(tmp_path / "replicate-0")
    with stage.writing(), pytest.raises(RunError, match="another process is writing"), stage.writing():
        pass
    with stage.writing():
        stage.directory.joinpath("metrics.csv").touch()
    stage.finish({})
    assert sorted(file.name for file in stage.directory.iterdir()) == ["metrics.csv", "result.json"]


# ---- threads and processes are held to the cores -----------------------------------------------------------


@pytest.mark.parametrize("asked", [3, 4096, 100_000, 10**30])
def test_counts_are_held_to_the_cores_with_a_word(monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    with pytest.warns(cores.CoresWarning, match=f"threads is {asked}, but there are 2 cores"):
        assert cores.held_to_cores("threads", asked) == 2
    assert cores.held_to_cores("threads", 2) == 2


@pytest.mark.parametrize("asked", [0, -1, -(10**30), True, 1.5, "2", None])
def test_counts_that_are_none_are_one_line(asked: object) -> None:
    with pytest.raises(TombolaError, match=r"jobs is .*whole number of at least 1"):
        cores.held_to_cores("jobs", asked)  # type: ignore[arg-type]


def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert cores.usable_cores() == 3
