"""Checksums of a run's files: nothing garbled is read, nothing whole is refused, whenever a run was killed."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tombola.errors import RunError, TombolaError
from tombola.report.read import read_run
from tombola.runs.integrity import KEY, Damaged, DamagedWarning, read_sealed, write_sealed
from tombola.runs.listing import list_runs
from tombola.runs.stage import Stage

ATTACKS = Path(__file__).parent.parent / "attacks"
spec = importlib.util.spec_from_file_location("_runs", ATTACKS / "_runs.py")
assert spec is not None
assert spec.loader is not None
tiny = sys.modules.setdefault("_runs", importlib.util.module_from_spec(spec))
spec.loader.exec_module(tiny)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    tiny.small_search(out)
    return out


@pytest.fixture
def case(whole: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(whole, tmp_path / "case"))


def the_run(out: Path) -> Path:
    (run,) = out.iterdir()
    return run


def test_a_finished_run_is_found_and_says_nothing(case: Path) -> None:
    result, said = tiny.again(case)
    assert result.reused
    assert not said
    assert [run["state"] for run in list_runs(case)] == ["finished"]


def as_before(run: Path) -> None:
    """Make a run what it was before there were checksums."""
    for file in run.rglob("*.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in record.items() if key != KEY}))
    for file in run.rglob("*.pt"):
        content = read_sealed(file)
        assert content is not None
        file.write_bytes(content)


def test_runs_without_checksums_are_read(case: Path, whole: Path) -> None:
    run = the_run(case)
    as_before(run)
    assert [(listed["state"], listed["damage"]) for listed in list_runs(case)] == [("finished", [])]
    assert not any("left out" in note for note in read_run(run).missing)
    result, said = tiny.again(case)
    assert result.reused
    assert not said
    for file in (run / "result.json", run / "replicate-0" / "level-02" / "result.json"):
        file.unlink()
    result, said = tiny.again(case)  # the rewind point is read, and one level trained
    assert not result.reused
    assert not said
    assert tiny.essence(case) == tiny.essence(whole)


def test_a_checkpoint_without_a_checksum_is_resumed_from(tmp_path: Path, whole: Path) -> None:
    tiny.interrupted_search(tmp_path, 3)
    run = the_run(tmp_path)
    as_before(run)
    (file,) = run.rglob("checkpoint.pt")
    torch.save(torch.load(file, weights_only=True), file)
    _, said = tiny.again(tmp_path)
    assert not said
    assert tiny.essence(tmp_path) == tiny.essence(whole)


def test_a_run_moved_elsewhere_is_whole_and_another_runs_files_are_not(case: Path, tmp_path: Path) -> None:
    run = the_run(case)
    renamed = run.rename(run.with_name("figure-3"))
    assert list_runs(case)[0]["state"] == "finished"
    twin = Path(shutil.copytree(renamed, tmp_path / "twins" / "other"))
    record = json.loads((twin / "run.json").read_text())
    (twin / "run.json").write_text(json.dumps({**record, "name": "other"}))
    assert list_runs(tmp_path / "twins")[0]["damage"] == ["run.json does not fit its checksum"]


class Killed(BaseException):
    """In the place of a kill."""


def killed_at(out: Path, number: int, late: bool) -> bool:
    """The search killed before or after the `number`-th file takes its place; whether it came to that."""
    replace, count = Path.replace, iter(range(number - 1))

    def replaced(part: Path, target: Path) -> Any:
        if next(count, None) is not None:
            return replace(part, target)
        if late:
            replace(part, target)
        raise Killed

    with patch.object(Path, "replace", replaced):
        try:
            tiny.small_search(out)
        except Killed:
            return True
    return False


@pytest.mark.parametrize(("number", "late"), [(2, False), (2, True), (5, True), (7, False), (13, True), (19, True)])
def test_a_kill_between_any_two_writes_leaves_nothing_that_looks_damaged(
    number: int, late: bool, tmp_path: Path, whole: Path
) -> None:
    assert killed_at(tmp_path, number, late)
    assert not any(run["damage"] for run in list_runs(tmp_path))
    _, said = tiny.again(tmp_path)
    assert not said
    assert tiny.essence(tmp_path) == tiny.essence(whole)


def test_a_kill_while_damage_is_mended_leaves_no_other_damage(case: Path, whole: Path) -> None:
    tiny.flip(next(case.rglob("rewind.pt")), tiny.random.Random(0))
    with pytest.warns(DamagedWarning):
        assert killed_at(case, 4, late=True)
    _, said = tiny.again(case)
    assert not said
    assert tiny.essence(case) == tiny.essence(whole)


def test_a_lost_description_is_written_again_if_all_was_done_here(case: Path, whole: Path) -> None:
    (the_run(case) / "run.json").write_bytes(b"")
    assert [(run["state"], run["stages"]) for run in list_runs(case)] == [("damaged", 3)]
    with pytest.raises(TombolaError, match=r"run\.json is empty"):
        read_run(the_run(case))
    _, said = tiny.again(case)
    assert len(said) == 1
    assert tiny.essence(case) == tiny.essence(whole)


def test_a_lost_description_of_stages_done_elsewhere_is_refused(case: Path) -> None:
    (the_run(case) / "run.json").unlink()
    with (
        patch("tombola.runs.directory.versions", lambda: {"torch": "another"}),
        pytest.raises(RunError, match=r"has lost its run\.json.*set the option force"),
    ):
        tiny.small_search(case)


def test_reports_leave_out_what_is_damaged_and_say_so(case: Path) -> None:
    run = the_run(case)
    log = run / "replicate-0" / "level-01" / "metrics.csv"
    log.write_text(log.read_text().replace("0.", "1."))
    found = read_run(run)
    assert found.find is not None
    assert found.find.replicates[0].levels[1].metrics == ""
    assert any("level-01/metrics.csv does not fit its checksum, and is left out" in note for note in found.missing)


def test_a_damaged_result_is_put_together_from_its_stages(case: Path) -> None:
    run = the_run(case)
    (run / "result.json").write_text("{}")
    found = read_run(run)
    assert found.find is not None
    assert len(found.find.replicates[0].arms["ticket"]) == 3
    assert any("result.json has no checksum" in note for note in found.missing)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "lengthen", "folder", "loop", "delete"])
def test_sealed_files_are_read_as_written_or_not_at_all(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    with write_sealed(file) as out:
        torch.save({"x": torch.arange(5)}, out)
    data = read_sealed(file)
    assert data is not None
    assert torch.load(io.BytesIO(data), weights_only=True)["x"].tolist() == [0, 1, 2, 3, 4]
    draw = tiny.random.Random(1)
    for _ in range(40 if damage in ("flip", "cut") else 1):
        copy = Path(shutil.copy(file, tmp_path / "copy.pt")).replace(file)
        tiny.DAMAGES[damage](copy, draw)
        if copy.is_file() and copy.read_bytes() == data:
            continue
        if damage == "delete":
            assert read_sealed(copy) is None
            return
        with pytest.raises(Damaged, match=r"a\.pt"):
            read_sealed(copy)
        if damage not in ("flip", "cut"):
            return
        with write_sealed(file) as out:
            torch.save({"x": torch.arange(5)}, out)


def test_a_stage_without_a_run_around_it_has_checksums_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "stage")
    stage.finish({"level": 0})
    assert stage.result() == {"level": 0}
    file = stage.directory / "result.json"
    file.write_text(file.read_text().replace('"level": 0', '"level": 1'))
    assert stage.result() is None
