"""What deploying took, in its report: seconds by phase, and memory."""

from __future__ import annotations

import builtins
import mmap
from pathlib import Path
from typing import Any

import pytest

from tombola.compact import CompactReport
from tombola.deploy.cost import Meter
from tombola.deploy.report import DeployReport
from tombola.machine.resident import Resident, resident


def test_phases_add_up_and_a_name_is_continued() -> None:
    meter = Meter()
    for phase in ("checks", "kernels", "checks"):
        meter.end(phase)
    assert list(meter.seconds) == ["whole", "checks", "kernels"]
    assert meter.seconds["whole"] == pytest.approx(meter.seconds["checks"] + meter.seconds["kernels"])


def test_memory_that_was_held_for_a_while_counts() -> None:
    meter, held = Meter(), resident()
    size = (held.peak - held.now if held else 0) + 2**26  # 64 MiB above the highest so far, given back at once
    with mmap.mmap(-1, size) as pages:  # what malloc has kept of earlier tests would be used again
        for at in range(0, size, mmap.PAGESIZE):
            pages[at] = 1
    assert held is None or (meter.memory or 0) >= 2**26 - 2**22


def test_what_linux_says_is_read(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    5 kB\nVmRSS:\t    3 kB\n")
    assert resident(status) == Resident(3 * 1024, 5 * 1024)


@pytest.mark.parametrize("status", ["missing", "empty"])
def test_elsewhere_the_peak_alone_is_known(status: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    found = resident(tmp_path / status)
    assert found is not None
    assert found.now == found.peak > 2**20


def test_where_the_system_says_nothing_there_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "resource":
            raise ImportError(name)  # as on Windows
        return load(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    assert resident(tmp_path / "missing") is None


def test_the_report_has_one_line_of_it() -> None:
    seconds = {"whole": 2.5, "checks": 0.5, "compaction": 1.25, "kernels": 0.75}
    report = DeployReport(CompactReport(), seconds=seconds, memory=321_000_000)
    line = "deployed in 2.50 s: checks 0.500 s, compaction 1.25 s, kernels 0.750 s"
    assert str(report).splitlines()[-1] == f"{line}; memory rose by up to 321 MB"
    assert str(DeployReport(CompactReport(), seconds=seconds)).splitlines()[-1] == line
    assert report.as_dict()["seconds"] == seconds
    assert report == DeployReport(CompactReport())  # the same was done
