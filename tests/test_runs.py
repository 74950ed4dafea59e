"""Run directories: content names, one writer, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tombola.errors import RunError, TombolaError
from tombola.runs.atomic import write_atomically, write_json
from tombola.runs.directory import open_run
from tombola.runs.listing import list_runs

MACHINE = {"device": "cpu", "threads": 1}
CONFIG = {"seed": 0, "recipe": {"lr": 0.1}}


def open_here(parent: Path, config: dict[str, object] = CONFIG, **more: object):  # type: ignore[no-untyped-def]
    settings = {"kind": "find", "machine": MACHINE, **more}
    return open_run(parent, "imp-lenet-digits", config, **settings)  # type: ignore[arg-type]


def test_the_name_follows_the_content_alone(tmp_path: Path) -> None:
    with open_here(tmp_path) as first:
        pass
    with open_here(tmp_path, {"recipe": {"lr": 0.1}, "seed": 0}) as again:
        assert again.directory == first.directory
    with open_here(tmp_path, {**CONFIG, "seed": 1}) as other:
        assert other.directory != first.directory


def test_a_second_process_says_so_and_leaves(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\nfrom pathlib import Path\nfrom test_runs import open_here\n"
        f"open_here(Path({str(tmp_path)!r}))"
    )
    with open_here(tmp_path):
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is working on" in found.stderr
    with open_here(tmp_path):  # and it left no lock behind
        pass


def test_an_unfinished_run_of_other_versions_or_threads_is_refused_unless_forced(tmp_path: Path) -> None:
    with open_here(tmp_path):
        pass
    with pytest.raises(RunError, match=r"begun with threads 1 \(now 2\).*option force"):
        open_here(tmp_path, machine={"device": "cpu", "threads": 2})
    with open_here(tmp_path, machine={"device": "cpu", "threads": 2}, force=True):
        pass


def test_a_finished_run_is_found_again_whatever_the_machine(tmp_path: Path) -> None:
    with open_here(tmp_path) as run:
        run.finish({"density": 0.5})
    with open_here(tmp_path, machine={"device": "cuda", "threads": 8}) as run:
        assert run.result() == {"density": 0.5}


def test_runs_are_listed_with_their_state(tmp_path: Path) -> None:
    with open_here(tmp_path) as run:
        run.stage("replicate-0/level-00").finish({"level": 0})
        assert [(r["state"], r["stages"]) for r in list_runs(tmp_path)] == [("running", 1)]
    assert list_runs(tmp_path)[0]["state"] == "can be resumed"
    with open_here(tmp_path) as run:
        run.finish({})
    assert list_runs(tmp_path)[0]["state"] == "finished"


def test_a_finished_stage_sweeps_up_what_a_kill_left(tmp_path: Path) -> None:
    with open_here(tmp_path) as run:
        stage = run.stage("replicate-0/level-00")
        stage.directory.mkdir(parents=True)
        (stage.directory / ".checkpoint.pt.0a1b2c3d.part").write_bytes(b"half")
        stage.finish({"level": 0})
        assert [file.name for file in stage.directory.iterdir()] == ["result.json"]


def write_half(file: Path) -> None:
    with write_atomically(file) as out:
        out.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"x": 1})
    with pytest.raises(TombolaError, match="disk is full"):
        write_half(file)
    assert json.loads(file.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_disk_that_turns_full_at_the_last_moment_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TombolaError, match="disk is full"):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_a_link_is_replaced_and_what_is_no_file_stays(tmp_path: Path) -> None:
    """A folder that somebody sent may hold links to the reader's own files."""
    for name, target in (("link", "target"), ("fifo-link", "fifo")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "target").write_text("as it was")
    os.mkfifo(tmp_path / "fifo")
    write_json(tmp_path / "link", [1])
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "[\n 1\n]\n"
    assert (tmp_path / "target").read_text() == "as it was"
    for name in ("fifo", "fifo-link"):
        with pytest.raises(TombolaError, match="no file, but a device"):
            write_json(tmp_path / name, [1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "fifo-link", "link", "target"]
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
