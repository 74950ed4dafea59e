"""What benchmarks record: ratios that say whether they were steady, and the machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import record as records
from record import Record, fastest, milliseconds, ratio, steadily


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    found = ratio([2.0, 4, 9], [1.0, 2, 3])
    assert (found.median, found.low, found.high) == (2, 2, 2.5)
    assert found.steady


def test_a_ratio_of_medians_outside_its_quartiles_is_not_steady() -> None:
    # each round's ratio is near 2, but the medians come from a slow half of one and a fast half of the other
    over, under = [2.0, 2, 2, 20, 20], [1.0, 1, 10, 10, 10]
    found = ratio(over, under)
    assert (found.low, found.high) == (2, 2)
    assert not found.steady
    assert str(found).endswith("!")


def test_what_was_disturbed_is_measured_again() -> None:
    runs = iter([[2.0, 2, 2, 20, 20], [4.0, 4, 4, 40, 40], [6.0, 6, 6, 60, 60]])
    times = steadily(
        lambda: {"over": next(runs), "under": [1.0, 1, 10, 10, 10]},
        lambda times: {"ratio": ratio(times["over"], times["under"])},
    )
    assert times["over"] == [6.0, 6, 6, 60, 60]  # never steady: the last of three
    again = iter([[3.0, 3], [2.0, 2]])
    times = steadily(lambda: {"a": next(again)}, lambda times: {}, lambda times: times["a"][0] < 3)
    assert times["a"] == [2.0, 2]


def test_the_fastest_is_among_those_that_were_timed() -> None:
    times = {"a": [3.0, 3], "b": [0.002, 0.002]}
    assert fastest(times, ("a", "b", "absent")) == "b"
    assert milliseconds(times)["b"] == 2


def test_the_record_names_machine_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = Record("training_step", threads=1, rounds=2)
    found.figures["dense/x"] = 1.5
    found.rows.append({"network": "x", "dense": ratio([1.0, 1], [1.0, 1]).as_dict()})
    found.finish(as_json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["dense/x"] == 1.5
    assert told["rows"][0]["dense"]["steady"] is True
    assert set(told["machine"]) >= {"processor", "threads", "rounds", "versions", "cores"}
    assert told["machine"]["processor"] == records.processor()
    assert "torch" in told["machine"]["versions"]


def test_a_processor_is_named_with_its_vector_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: Some(R) CPU  X\nflags\t\t: fpu avx2 avx512f amx_bf16\n", encoding="utf-8")
    monkeypatch.setattr(records, "CPU_INFO", info)
    assert records.processor() == "Some CPU X (AVX2, AVX-512, AMX)"
    monkeypatch.setattr(records, "CPU_INFO", tmp_path / "absent")
    assert records.processor()
