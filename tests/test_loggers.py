"""Training curves go to loggers: anything with init, log and finish; a run's name and bytes know nothing of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import tombola as tb
from cli_calls import call
from supermask_searches import KillAt, Killed, network, splits
from tombola.errors import TombolaError
from tombola.runs.stage import Stage
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.train import trial
from tombola.train.history import Row, read_csv
from tombola.train.loggers import Curve, sent
from tombola.train.options import Options
from tombola.train.trial import TrainingSetup

RECIPE = {"length": "8ep", "batch_size": 8, "eval_every": "8it", "penalty": "l1", "strength": 1e-4}
METHOD = tb.IterativePruning(density=0.5, rounds=1)


class Recording:
    """A logger of one's own: every training's name, steps and figures."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []

    def init(self, *, project: str, name: str, group: str, config: dict[str, Any]) -> None:
        assert all(run["finished"] for run in self.runs), "one training at a time"
        self.runs.append({"name": name, "group": group, "config": config, "rows": [], "finished": 0})

    def log(self, figures: dict[str, float], *, step: int) -> None:
        self.runs[-1]["rows"].append((step, figures))

    def finish(self) -> None:
        self.runs[-1]["finished"] += 1

    def steps(self) -> list[list[int]]:
        return [[step for step, _ in run["rows"]] for run in self.runs]


ELSEWHERE = Recording()
NO_LOGGER = object()


def ticket_of(out: Path, *loggers: Any, replicates: int = 1) -> Path:
    options = Options(loggers=loggers, checkpoint_seconds=0)
    request = make_request(network(), splits(), METHOD, recipe=RECIPE, options=options, replicates=replicates)
    run = Path(run_find(request, out).run)
    return next(run.glob("*.ticket"), run)


def kill_second_training(patched: pytest.MonkeyPatch, step: int) -> None:
    real, trainings = trial.train, [0]

    def train(*args: Any, hooks: Any = (), **more: Any) -> Any:
        trainings[0] += 1
        return real(*args, hooks=(*hooks, KillAt(step)) if trainings[0] == 2 else hooks, **more)

    patched.setattr(trial, "train", train)


def files_of(run: Path) -> dict[str, bytes]:
    """What a run keeps, but for times and what TensorBoard reads."""
    kept = [file for file in run.rglob("*") if file.is_file() and file.suffix in (".ticket", ".yaml", ".pt")]
    return {str(file.relative_to(run)): file.read_bytes() for file in kept}


def test_a_logger_gets_the_rows_of_every_training_under_the_name_of_its_stage(tmp_path: Path) -> None:
    logger = Recording()
    ticket_of(tmp_path, logger, replicates=2)
    run = next(tmp_path.iterdir())
    names = [f"{run.name}/replicate-{r}/level-{level:02d}" for r in (0, 1) for level in (0, 1)]
    assert [one["name"] for one in logger.runs] == names
    for one in logger.runs:
        kept = read_csv(run.parent / one["name"] / "metrics.csv")
        assert [step for step, _ in one["rows"]] == [row.step for row in kept]
        for (_, figures), row in zip(one["rows"], kept, strict=True):
            assert figures["val_loss"] == row.val_loss
            assert ("train_loss" in figures) == math.isfinite(row.train_loss)
        assert (one["group"], one["finished"]) == (run.name, 1)
        assert one["config"]["method"] == "imp"
        assert one["config"]["options"]["density"] == 0.5
    json.dumps([one["config"] for one in logger.runs])


def test_loggers_change_neither_a_run_s_name_nor_its_bytes(tmp_path: Path) -> None:
    ticket_of(tmp_path / "plain")
    ticket_of(tmp_path / "logged", Recording(), "tensorboard", "test_loggers.ELSEWHERE")
    (plain,), (logged,) = (list((tmp_path / name).iterdir()) for name in ("plain", "logged"))
    assert plain.name == logged.name
    assert files_of(plain) == files_of(logged)
    assert len(files_of(plain)) >= 3


@pytest.mark.parametrize("first", [True, False])
def test_a_resumed_training_goes_on_whether_loggers_were_there_before_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    before, after = Recording(), Recording()
    ticket_of(tmp_path / "whole")
    with monkeypatch.context() as patched:
        kill_second_training(patched, 20)
        with pytest.raises(Killed):
            ticket_of(tmp_path / "resumed", *([before] if first else []))
    assert [run["finished"] for run in before.runs] == ([1, 1] if first else [])
    ticket_of(tmp_path / "resumed", after)
    (whole,), (resumed,) = (list((tmp_path / name).iterdir()) for name in ("whole", "resumed"))
    assert files_of(whole) == files_of(resumed)
    assert after.steps() == [[24, 32, 40]]  # of the second training alone, from the checkpoint on
    if first:
        assert before.steps()[1] == [0, 8, 16]
        assert after.runs[0]["name"] == before.runs[1]["name"]


def kill_with_rows_since_the_checkpoint(out: Path, patched: pytest.MonkeyPatch, *loggers: Any) -> None:
    """The second training is checkpointed at step 16, has its row of step 24, and is killed at step 28."""
    kill_second_training(patched, 28)
    with pytest.raises(Killed):
        ticket_of(out, *loggers)


def test_rows_that_were_sent_before_a_kill_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after, twin = Recording(), Recording(), Recording()
    with monkeypatch.context() as patched:
        kill_with_rows_since_the_checkpoint(tmp_path, patched, before)
    assert before.steps()[1] == [0, 8, 16, 24]
    ticket_of(tmp_path, after, twin)
    assert after.steps() == [[32, 40]]
    assert twin.steps() == [[24, 32, 40]]  # it was not there before
    assert not list(tmp_path.rglob("sent.json"))


@pytest.mark.parametrize("content", [b"", b'{"0 Recording": 1', b'{"0 Recording": "x"}', b"[1]"])
def test_rows_come_again_where_what_was_sent_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    with monkeypatch.context() as patched:
        kill_with_rows_since_the_checkpoint(tmp_path, patched, Recording())
    (file,) = tmp_path.rglob("level-01/sent.json")
    file.write_bytes(content)
    after = Recording()
    ticket_of(tmp_path, after)
    assert after.steps() == [[24, 32, 40]]


def test_a_training_that_begins_anew_sends_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        kill_with_rows_since_the_checkpoint(tmp_path, patched, Recording())
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    checkpoint.unlink()
    after = Recording()
    ticket_of(tmp_path, after)
    assert after.steps() == [[0, 8, 16, 24, 32, 40]]


def test_find_takes_loggers_without_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logger = Recording()
    tb.find(network(), splits(), METHOD, recipe=RECIPE, loggers=[logger])
    assert len({run["name"] for run in logger.runs}) == 2
    assert all(run["name"].startswith("imp-Sequential-") for run in logger.runs)
    before = len(ELSEWHERE.runs)
    tb.find(network(), splits(), METHOD, recipe=RECIPE, loggers=["test_loggers.ELSEWHERE"])
    assert len(ELSEWHERE.runs) == before + 2
    assert not list(tmp_path.iterdir())


def test_searches_without_training_send_their_rows() -> None:
    logger = Recording()
    tb.find(network(), splits(), tb.RandomSearch(density=0.5, budget=2000, examples=40), loggers=[logger])
    (run,) = logger.runs
    assert run["finished"] == 1
    assert run["rows"]


def test_a_logger_that_fails_in_the_middle_is_left_out_and_one_that_does_not_begin_is_refused() -> None:
    class Failing(Recording):
        def log(self, figures: dict[str, float], *, step: int) -> None:
            if step:
                raise OSError("disk full")
            super().log(figures, step=step)

    class Offline(Recording):
        def init(self, **_: Any) -> None:
            raise ConnectionError("no network")

    failing, other = Failing(), Recording()
    with pytest.warns(UserWarning, match="logger Failing takes no more rows of this training: OSError: disk full"):
        tb.find(network(), splits(), METHOD, recipe=RECIPE, loggers=[failing, other])
    assert failing.steps() == [[0], [0]]
    assert [run["finished"] for run in failing.runs] == [1, 1]
    assert len(other.steps()[0]) > 2
    with pytest.raises(
        TombolaError, match="logger Offline does not begin: ConnectionError: no network; leave it out of loggers"
    ):
        tb.find(network(), splits(), METHOD, recipe=RECIPE, loggers=[other, Offline()])
    assert [run["finished"] for run in other.runs] == [1, 1, 1]


def test_what_is_no_logger_is_refused_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TombolaError, match="has no init; it needs init, log and finish"):
        Options(loggers=(object(),))
    with pytest.raises(TombolaError, match="has no init"):
        Options(loggers=("test_loggers.NO_LOGGER",))
    with pytest.raises(TombolaError, match="the class Recording itself; give an object of it"):
        Options(loggers=(Recording,))
    with pytest.raises(TombolaError, match=r"unknown logger 'trackoi' \(did you mean trackio\?\)"):
        Options(loggers=("trackoi",))
    with pytest.raises(TombolaError, match="cannot be imported"):
        Options(loggers=("no_such_package.logger",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TombolaError, match=r"^logger wandb is not installed; run pip install 'tombola\[wandb\]', or"):
        Options(loggers=("wandb",))


def test_several_processes_need_loggers_by_name(tmp_path: Path) -> None:
    options = Options(loggers=(Recording(),))
    request = make_request("lenet-300-100", "digits", METHOD, options=options, replicates=2)
    with pytest.raises(TombolaError, match="jobs is 2, but several processes need loggers by name"):
        run_find(request, tmp_path, jobs=2)
    assert not list(tmp_path.iterdir())


# -- those known by name


class Wandb(ModuleType):
    """The interface of wandb that is used: the module's own calls, on the run that `init` makes."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.given: list[dict[str, Any]] = []
        self.logged: list[tuple[str, int]] = []
        self.finished = 0

    def init(self, **given: Any) -> None:
        known = {"project", "name", "group", "config", "id", "resume", "dir"}
        assert given.keys() <= known
        print("wandb: a line that is no result")
        self.given.append(given)

    def log(self, data: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.logged.append((self.given[-1]["id"], step))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_goes_on_with_the_run_of_a_resumed_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with monkeypatch.context() as patched:
        kill_second_training(patched, 20)
        with pytest.raises(Killed):
            ticket_of(tmp_path, "wandb")
    ticket_of(tmp_path, "wandb")
    first, second, resumed = wandb.given
    assert wandb.finished == 3
    assert first["id"] != second["id"] == resumed["id"]
    assert [one["resume"] for one in wandb.given] == [None, None, "allow"]
    steps = [step for key, step in wandb.logged if key == second["id"]]
    assert steps == sorted(set(steps))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("killed", [False, True])
def test_tensorboard_reads_one_curve_of_each_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    if killed:
        with monkeypatch.context() as patched:
            kill_with_rows_since_the_checkpoint(tmp_path, patched, "tensorboard")
    ticket_of(tmp_path, "tensorboard", replicates=2)
    run = next(folder for folder in tmp_path.iterdir() if (folder / "replicate-1").exists())
    found = sorted({str(file.parent.relative_to(run)) for file in run.rglob("events.*")})
    assert found == [f"tensorboard/replicate-{r}/level-{level:02d}" for r in (0, 1) for level in (0, 1)]
    reader = events.EventAccumulator(str(run / found[1]))
    reader.Reload()
    kept = read_csv(run / "replicate-0" / "level-01" / "metrics.csv")
    read = [(event.step, event.value) for event in reader.Scalars("val_loss")]
    assert read == [(row.step, pytest.approx(row.val_loss)) for row in kept]


def test_trackio_keeps_its_curves_on_this_machine_and_stdout_is_the_result_s(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    quiet = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRACKIO")} | quiet
    words = ["find", "imp", "--data", "digits", "--density", "0.5", "--rounds", "1", "--length", "20it"]
    options = ["--eval_every", "10it", "--replicates", "2", "--loggers", "trackio", "--threads", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tombola", *words, *options, "--out", "runs"],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=True,
    )  # fmt: skip
    result = json.loads(done.stdout)
    look = (
        "import json, trackio; from trackio.sqlite_storage import SQLiteStorage as kept; "
        "print(json.dumps({run.name: [(row['step'], row['val_loss']) for row in kept.get_logs('tombola', run.name)]"
        " for run in trackio.Api().runs('tombola')}))"
    )
    seen = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, env=environment, check=True)
    curves = json.loads(seen.stdout.splitlines()[-1])
    run = tmp_path / result["run"]
    assert sorted(curves) == [f"{run.name}/replicate-{r}/level-{level:02d}" for r in (0, 1) for level in (0, 1)]
    for name, curve in curves.items():
        kept = read_csv(run.parent / name / "metrics.csv")
        assert [tuple(point) for point in curve] == [(row.step, row.val_loss) for row in kept]


def test_a_logger_of_one_s_own_is_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "printing_logger.py").write_text(
        "from pathlib import Path\n\n\nclass Lines:\n"
        "    def init(self, *, project, name, group, config):\n        self.file = Path('lines.txt').open('a')\n\n"
        "    def log(self, figures, *, step):\n        self.file.write(f'{step}\\n')\n\n"
        "    def finish(self):\n        self.file.close()\n\n\nlines = Lines()\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["find", "dense", "--data", "digits", "--length", "6it", "--eval_every", "2it"]
    status, _, errors = call(*words, "--loggers", "printing_logger.lines")
    assert status == 0, errors
    assert (tmp_path / "lines.txt").read_text().split() == ["0", "2", "4", "6"]


@pytest.mark.parametrize("first", [True, False])
def test_of_several_processes_only_the_first_one_sends(first: bool, tmp_path: Path) -> None:
    logger, fabric = Recording(), SimpleNamespace(is_global_zero=first)
    options = Options(loggers=(logger,))
    setup = TrainingSetup(splits(), tb.Recipe(), fabric, options, directory=tmp_path)  # type: ignore[arg-type]
    with setup.sending("mask", 0, Stage(tmp_path / "replicate-0" / "level-01"), resumed=False) as send:
        send(Row(0, 0.0, 0.1, math.nan, math.nan, 2.0, 0.5, 0.0))
    assert [run["name"] for run in logger.runs] == ([f"{tmp_path.name}/replicate-0/level-01"] if first else [])


def test_nothing_begins_before_the_first_row() -> None:
    logger = Recording()
    with sent([logger], Curve("run", "training")):
        pass
    assert not logger.runs
