"""Energy by the machine's counters, from a made-up sysfs folder and a made-up NVML."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tombola.machine import energy
from tombola.machine.energy import Counter, EnergyMeter, counters, nvml_counters, rapl_counters


def zone(folder: Path, name: str, label: str, microjoules: int, span: int = 1_000_000_000) -> Path:
    made = folder / name
    made.mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", microjoules), ("max_energy_range_uj", span)):
        (made / file).write_text(f"{value}\n")
    return made / "energy_uj"


@pytest.fixture
def sysfs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two packages, with a zone of cores in one, and the whole platform."""
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 77)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 77)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 77)
    return tmp_path, first, second


def test_packages_are_summed_and_a_counter_may_begin_again(sysfs: tuple[Path, Path, Path]) -> None:
    folder, first, second = sysfs
    meter = EnergyMeter(rapl_counters(folder))
    first.write_text("7500000\n")  # 2.5 J
    second.write_text("4000000\n")  # 1 J to its end at 1000 J, and 4 J more
    assert meter.joules() == pytest.approx(2.5 + 5)
    first.write_text("8500000\n")
    assert meter.joules() == pytest.approx(2.5 + 5 + 1)


def test_a_poll_sees_every_lap(sysfs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, first, _ = sysfs
    monkeypatch.setattr(energy, "_EVERY", 0.0)
    meter = EnergyMeter(rapl_counters(folder))
    for _ in range(3):  # three laps of 1000 J
        for joules in (500, 5):
            first.write_text(f"{joules}000000\n")
            meter.poll()
    assert meter.joules() == pytest.approx(3000)


def test_a_poll_soon_after_a_reading_reads_nothing() -> None:
    reads = [0]

    def read() -> float:
        reads[0] += 1
        return 0.0

    meter = EnergyMeter([Counter(read)])
    meter.poll()
    assert reads == [1]


def test_no_counter_no_energy(tmp_path: Path) -> None:
    assert rapl_counters(tmp_path / "not-there") == [] == rapl_counters(tmp_path)
    assert EnergyMeter([]).joules() is None


@pytest.mark.parametrize("broken", ["energy_uj", "max_energy_range_uj"])
def test_a_counter_that_cannot_be_read_is_none(sysfs: tuple[Path, Path, Path], broken: str) -> None:
    folder, *_ = sysfs
    (folder / "intel-rapl:1" / broken).unlink()
    assert rapl_counters(folder) == []
    (folder / "intel-rapl:1" / broken).write_text("much")
    assert rapl_counters(folder) == []


def test_a_counter_that_goes_away_leaves_the_energy_unknown(sysfs: tuple[Path, Path, Path]) -> None:
    folder, first, _ = sysfs
    meter = EnergyMeter(rapl_counters(folder))
    first.unlink()
    assert meter.joules() is None
    first.write_text("6000000\n")
    assert meter.joules() is None


def test_on_the_cpu_the_counters_are_those_of_its_packages(
    sysfs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "rapl_counters", lambda: ["packages"])
    assert counters(torch.device("cpu")) == ["packages"]


def test_a_gpu_by_its_own_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    millijoules = [1_000]
    nvml: Any = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-12-34": "handle"}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"handle": millijoules[0]}[handle],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    meter = EnergyMeter(counters(torch.device("cuda", 1)))
    millijoules[0] = 3_500
    assert meter.joules() == 2.5


def test_without_nvml_there_is_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_counters(torch.device("cuda")) == []
