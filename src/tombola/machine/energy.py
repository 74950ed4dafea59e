"""Energy by the counters of the machine: RAPL for CPUs, NVML for NVIDIA's GPUs; none where there is no counter.

A counter is of the whole processor: what other processes do meanwhile is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
"""Where Linux shows Intel's and AMD's counters; by default only root may read them."""
_EVERY = 10.0
"""Seconds between readings, far less than a counter takes to start again from 0."""


@dataclass(frozen=True)
class Counter:
    """A counter of joules. `span`: joules after which it starts again from 0; None if it does not."""

    read: Callable[[], float]
    span: float | None = None

    def between(self, before: float, now: float) -> float:
        """Joules from one reading to the next, at most one span apart."""
        return now - before if self.span is None else (now - before) % self.span


class EnergyMeter:
    """Joules drawn since it was made, by all its counters together."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = tuple(counters)
        self._sum = 0.0
        self._last: list[float] | None = self._readings()
        self._polled = time.monotonic()

    def poll(self) -> None:
        """Take a reading if the last one is some seconds old: to be called often, lest a counter laps itself."""
        if self._last is not None and time.monotonic() - self._polled >= _EVERY:
            self.joules()

    def joules(self) -> float | None:
        """The sum so far; None without a counter, or if one could not be read."""
        now = self._readings() if self._last is not None else None
        if now is None or self._last is None:
            self._last = None
            return None
        pairs = zip(self._counters, self._last, now, strict=True)
        self._sum += sum(counter.between(before, after) for counter, before, after in pairs)
        self._last, self._polled = now, time.monotonic()
        return self._sum

    def _readings(self) -> list[float] | None:
        try:
            return [counter.read() for counter in self._counters] or None
        except Exception:  # drivers fail in ways of their own
            return None


def counters(device: torch.device) -> list[Counter]:
    """Those of the processor that trains: the GPU for a CUDA device, otherwise all packages of the CPU."""
    return nvml_counters(device) if device.type == "cuda" else rapl_counters()


def rapl_counters(folder: Path = RAPL) -> list[Counter]:
    """A counter for every CPU package; none if any of them cannot be read.

    Zones within a package (cores, memory) and the one of the whole platform would count the same joules twice.
    """
    try:
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if _text(zone / "name").startswith("package")]
        return [_rapl(zone) for zone in zones]
    except (OSError, ValueError):
        return []


def _rapl(zone: Path) -> Counter:
    def read() -> float:
        return int(_text(zone / "energy_uj")) / 1e6

    read()
    return Counter(read, int(_text(zone / "max_energy_range_uj")) / 1e6)


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()


def nvml_counters(device: torch.device) -> list[Counter]:
    """The counter of one GPU (Volta or later), through the package nvidia-ml-py; none without it."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        counter = Counter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)  # millijoules
        counter.read()
    except Exception:  # no package, driver, permission or counter
        return []
    return [counter]
