"""What every benchmark records beside its times: the processor, the threads, the versions, and how steady it was.

Not a benchmark itself. `Record.finish` prints the JSON object that `docs/figures.py` makes the tables of the
documentation from; `docs/results/benchmarks/PROCESSOR/NAME.json` holds such objects.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tombola.bench.bench import quartiles

PACKAGES = ("torch", "numpy", "numba", "llvmlite", "onnxruntime", "openvino")
FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_bf16": "AMX",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
}
CPU_INFO = Path("/proc/cpuinfo")
ATTEMPTS = 3
"""How often a case is measured at most, until its ratio is steady."""


def processor() -> str:
    """The name that the processor gives, and the vector units that decide these figures."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(reversed([(k.strip(), v.strip()) for k, _, v in (line.partition(":") for line in lines) if v]))
    name = " ".join(fields.get("model name", platform.machine()).replace("(R)", "").replace("(TM)", "").split())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    units = [unit for flag, unit in FEATURES.items() if flag in flags]
    return f"{name} ({', '.join(units)})" if units else name


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Ratio:
    """One way's time over another's: the median over rounds of the ratio within a round, with its quartiles."""

    median: float
    low: float
    high: float
    steady: bool
    """Whether the ratio of the two median times lies within the quartiles, so that both had the machine to themselves
    as much."""

    def __str__(self) -> str:
        return f"{self.median:5.2f} ({self.low:.2f}-{self.high:.2f}){'' if self.steady else '!'}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "median": round(self.median, 3),
            "low": round(self.low, 3),
            "high": round(self.high, 3),
            "steady": self.steady,
        }


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """`over` / `under`, round by round."""
    low, middle, high = quartiles([a / b for a, b in zip(over, under, strict=True)])
    of_medians = statistics.median(over) / statistics.median(under)
    slack = 0.005  # of rounding, where rounds agree to the last digit
    return Ratio(middle, low, high, low * (1 - slack) <= of_medians <= high * (1 + slack))


Times = dict[str, list[float]]


def steadily(
    measure: Callable[[], Times],
    ratios: Callable[[Times], Mapping[str, Ratio]],
    calm: Callable[[Times], bool] = lambda times: True,
) -> Times:
    """`measure()`, up to ATTEMPTS times, until every ratio is steady and `calm`: no other job came between."""
    for _ in range(ATTEMPTS - 1):
        times = measure()
        if all(one.steady for one in ratios(times).values()) and calm(times):
            return times
    return measure()


def fastest(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """The name with the smallest median among those that were timed."""
    return min((name for name in names if name in times), key=lambda name: statistics.median(times[name]))


def milliseconds(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The medians of seconds."""
    return {name: round(1e3 * statistics.median(rounds), 4) for name, rounds in times.items()}


@dataclass
class Record:
    """The figures of one run of a benchmark."""

    benchmark: str
    threads: int
    rounds: int
    figures: dict[str, float] = field(default_factory=dict)
    """The main ratios by name, for a glance."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """One for each case, with all that was measured."""

    def head(self, rest: str = "") -> str:
        """The first line that a benchmark prints."""
        counted = f"torch {torch.__version__}, {self.threads} of {os.cpu_count()} threads, {self.rounds} rounds"
        return f"{processor()}\n{counted}{', ' + rest if rest else ''}"

    def finish(self, as_json: bool) -> None:
        """Say which ratios were not steady; with `as_json` end stdout with one JSON object."""
        shaky = [
            row for row in self.rows if any(isinstance(v, dict) and v.get("steady") is False for v in row.values())
        ]
        if shaky:
            print(f"!: {len(shaky)} ratios of median times lie outside the quartiles: run it again on a quiet machine")
        if as_json:
            machine = {
                "benchmark": self.benchmark,
                "command": f"python benchmarks/{self.benchmark}.py {' '.join(sys.argv[1:])}",
                "processor": processor(),
                "cores": os.cpu_count(),
                "threads": self.threads,
                "rounds": self.rounds,
                "versions": versions(),
            }
            print(json.dumps({**self.figures, "machine": machine, "rows": self.rows}))
