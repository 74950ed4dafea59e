"""Disks that are full and folders that are read-only: one line, nothing half-written, and the old file stays."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tombola as tb
from tombola.cli import main
from tombola.cli.errors import one_line
from tombola.data.splits import make_splits
from tombola.errors import TombolaError
from tombola.report.plot import Plot, files
from tombola.report.style import new_figure
from tombola.runs.atomic import make_folder, write_atomically
from tombola.train.checkpoint import Snapshot, load_snapshot, save_snapshot
from tombola.train.history import Row, append_csv, csv_bytes
from tombola.train.outcomes import write_outcomes

ROW = Row(1, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0)


def snapshot(value: float) -> Snapshot:
    return Snapshot(1, {"w": torch.full((500,), value)}, {}, (), (torch.get_rng_state(),))


class Full:
    """A file on a disk that is full after so many bytes; whatever else is asked of it, it does."""

    def __init__(self, file: Any, left: int, number: int) -> None:
        self._file, self._left, self._number = file, left, number

    def write(self, data: Any) -> int:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise OSError(self._number, os.strerror(self._number))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@pytest.fixture(params=[0, 200, 500], ids=lambda left: f"after {left} bytes")
def full(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From the call on, every file that is opened for writing is on a full disk."""
    opened = Path.open

    def fill(number: int = errno.ENOSPC) -> None:
        def open_full(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
            file = opened(path, mode, *more, **named)
            return Full(file, request.param, number) if set(mode) & set("wxa") else file

        monkeypatch.setattr(Path, "open", open_full)

    return fill


def figure(folder: Path) -> None:
    files(Plot("a", "A", "", new_figure(2.0)), folder)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rewind.pt": lambda folder: save_snapshot(folder / "rewind.pt", snapshot(2.0)),
    "outcomes.safetensors": lambda folder: write_outcomes(folder, torch.rand(1000)),
    "a.svg": figure,
}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_leaves_no_half(
    name: str, number: int, tmp_path: Path, full: Callable[[int], None]
) -> None:
    full(number)
    with pytest.raises(TombolaError, match=r"cannot write .*: the disk is full \(.*\); free some space") as error:
        WRITERS[name](tmp_path)
    assert name in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_was_there_before_stays(tmp_path: Path, full: Callable[..., None]) -> None:
    save_snapshot(tmp_path / "rewind.pt", snapshot(1.0))
    full()
    with pytest.raises(TombolaError, match="the disk is full"):
        save_snapshot(tmp_path / "rewind.pt", snapshot(2.0))
    assert load_snapshot(tmp_path / "rewind.pt").model["w"][0] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["rewind.pt"]


def test_a_row_that_does_not_fit_is_one_line(tmp_path: Path, full: Callable[..., None]) -> None:
    (tmp_path / "metrics.csv").write_bytes(csv_bytes([ROW] * 100))
    full()
    for _ in range(200):
        try:
            append_csv(tmp_path / "metrics.csv", ROW)
        except TombolaError as error:
            assert "metrics.csv: the disk is full" in str(error)  # noqa: PT017
            return


@pytest.mark.parametrize("verb", ["report", "export", "export --no-origin"])
def test_every_verb_that_writes_ends_with_status_2(
    verb: str, tmp_path: Path, full: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = torch.rand(24, 64), torch.arange(24) % 3
    model = nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3))
    recipe = {"length": "2it", "batch_size": 8, "eval_every": "1it"}
    out = tmp_path / "runs"
    data = make_splits((x, y), (x, y), (x, y))
    tb.find(model, data, {"levels": 1}, recipe=recipe, out=out, options=tb.Options(device="cpu"))
    (run,) = out.iterdir()
    ticket = str(run / "replicate-0" / "level-01" / "network.ticket")
    words = {
        "report": ["report", str(run), "--out", str(tmp_path / "page")],
        "export": ["export", ticket, "--out", str(tmp_path / "again.ticket")],
        "export --no-origin": ["export", ticket, "--out", str(tmp_path / "again.ticket"), "--no-origin"],
    }
    full()
    status = main(words[verb])
    error = capsys.readouterr().err
    written = [file for file in tmp_path.rglob("*") if file.is_file() and out not in file.parents]
    assert not [file for file in written if file.stat().st_size == 0 or file.name.endswith(".part")]
    if status == 0:  # the disk had room for that much
        assert written
        return
    assert status == 2
    assert error.count("\n") == 1
    assert "the disk is full" in error


def test_a_disk_without_room_for_a_folder_is_said_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(TombolaError, match="the disk is full"):
        make_folder(tmp_path / "new")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_is_one_line(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refused)
    with (
        pytest.raises(TombolaError, match=r"a\.json: .*; name a path in an existing folder that can be written to"),
        write_atomically(tmp_path / "a.json"),
    ):
        pass


def test_an_output_that_cannot_be_written_says_so() -> None:
    assert "the output cannot be written" in one_line(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_json_is_whole_or_not_there(tmp_path: Path, full: Callable[..., None]) -> None:
    from tombola.runs.integrity import write_record

    write_record(tmp_path / "result.json", {"a": 1}, {})
    full()
    try:
        write_record(tmp_path / "result.json", {"a": 2, "more": "x" * 5000}, {})
    except TombolaError:
        assert json.loads((tmp_path / "result.json").read_text())["a"] == 1
    assert len(list(tmp_path.iterdir())) == 1
