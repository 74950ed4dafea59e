"""Typed results: round trips, formats of other versions, and the table of all runs."""

from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tombola as tb
from test_cli import call
from tombola.data.config import DataSpec
from tombola.methods.imp import IterativePruning
from tombola.results import ResultRow
from tombola.results.codec import read, recovered, typed
from tombola.results.record import Figure
from tombola.results.search import SearchResult
from tombola.results.trial import LevelResult
from tombola.runs.stage import Stage
from tombola.search.find import run_find
from tombola.search.request import make_request
from tombola.study.curve import run_curve
from tombola.train.options import Options

OPTIONS = Options(progress=False, device="cpu")
ONCE = IterativePruning(density=0.5, rounds=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curve with controls, a verification of its ticket, and a search that was not finished."""
    out = tmp_path_factory.mktemp("runs")
    asked = make_request("mlp", DataSpec("digits"), ONCE, recipe={"length": "2it"}, replicates=2, options=OPTIONS)
    curve = run_curve(asked, out, controls=["random"])
    assert curve.ticket is not None
    tb.verify(curve.ticket, replicates=2, recipe={"length": "2it"}, options=OPTIONS, out=out)
    begun = run_find(replace(asked, seed=1), out)
    (Path(str(begun.run)) / "result.json").unlink()
    return out


def test_what_is_written_is_read(runs: Path) -> None:
    (file,) = runs.glob("curve-*/result.json")
    result = read(SearchResult, file)
    assert result is not None
    assert typed(SearchResult, result.as_dict(), file) == result
    levels = [recovered(LevelResult, Stage(file.parent / f"replicate-0/level-{n:02d}")) for n in range(2)]
    assert tuple(levels) == result.replicates[0].levels
    assert read(SearchResult, runs / "none.json") is None


def test_files_carry_a_format_and_others_are_refused_in_one_line(runs: Path, tmp_path: Path) -> None:
    (file,) = runs.glob("curve-*/result.json")
    content = json.loads(file.read_text())
    assert content["format"] == json.loads((file.parent / "run.json").read_text())["format"] == 1
    later = tmp_path / "result.json"
    later.write_text(json.dumps({key: value for key, value in content.items() if key != "integrity"} | {"format": 2}))
    with pytest.raises(tb.TombolaError, match="has format 2, and this version of Tombola reads format 1; read it with"):
        read(SearchResult, later)
    del content["integrity"], content["format"]
    later.write_text(json.dumps(content))
    assert read(SearchResult, later) == read(SearchResult, file)  # of before there was a number
    later.write_text(json.dumps({**content, "format": "1"}))
    with pytest.raises(tb.TombolaError, match="has format '1', and this version of Tombola reads format 1"):
        read(SearchResult, later)
    for empty in ([], [{**content["replicates"][0], "arms": {}}]):
        later.write_text(json.dumps({**content, "replicates": empty}))
        with pytest.raises(tb.TombolaError, match="at least one replicate, and each of them a level"):
            read(SearchResult, later)
    content["replicates"][0]["arms"]["ticket"][0]["kept"] = -1
    later.write_text(json.dumps(content))
    with pytest.raises(tb.TombolaError, match=r"`int` >= 0 - at `\$.replicates\[0\].arms\[...\]\[0\].kept`") as caught:
        read(SearchResult, later)
    assert "\n" not in str(caught.value)


def test_every_trained_network_is_a_row(runs: Path) -> None:
    with pytest.raises(tb.TombolaError, match="folder is 3, but it must be"):
        tb.results(3)  # type: ignore[arg-type]
    rows = tb.results(runs)
    curve = [row for row in rows if row.run.startswith("curve-")]
    assert [(row.arm, row.replicate, row.level) for row in curve] == [
        (arm, replicate, level)
        for replicate in range(2)
        for arm, level in (("ticket", 0), ("ticket", 1), ("random", 1))
    ]
    assert {(row.kind, row.method, row.model, row.data, row.metric) for row in curve} == {
        ("study", "imp", "mlp", "digits", "accuracy")
    }
    assert [row.density for row in curve[:3]] == [1.0, pytest.approx(0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3)]
    assert {row.iterations for row in rows} == {2}
    verified = [row for row in rows if row.kind == "verify"]
    assert [(row.arm, row.replicate) for row in verified] == [
        (arm, replicate) for arm in ("ticket", "dense", "random", "reinit") for replicate in range(2)
    ]
    assert {row.density for row in verified if row.arm == "dense"} == {1.0}
    begun = [row for row in rows if row.run.startswith("imp-")]
    assert [(row.arm, row.replicate, row.level) for row in begun] == [
        ("ticket", replicate, level) for replicate in range(2) for level in range(2)
    ]
    assert all(row.seconds >= 0 and 0 <= (row.test_accuracy or math.nan) <= 1 for row in rows)
    assert len({row.flops for row in rows}) == 1  # masked networks compute as much as the dense one
    assert all(row.flops and row.memory_bytes for row in rows)
    assert list(tb.results(next(runs.glob("curve-*")))) == curve
    assert repr(rows) == f"Results of {len(rows)} trained networks in 3 runs"


def test_rows_as_csv(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    code, out, _ = call("runs", "--out", str(runs), "--csv", str(file))
    assert code == 0
    with file.open(newline="", encoding="utf-8") as text:
        read_back = list(csv.DictReader(text))
    rows = tb.results(runs)
    assert f"wrote {file}: {len(rows)} trained networks" in out
    fields = list(ResultRow.__struct_fields__)
    assert list(read_back[0])[: len(fields)] == fields
    assert [row["seed"] for row in read_back] == [str(row.seed) for row in rows]
    assert [float(row["test_accuracy"]) for row in read_back] == [row.test_accuracy for row in rows]


def test_pandas_is_asked_for_in_one_line(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for what in (tb.results(runs).to_pandas, lambda: tb.results(runs).write_parquet(tmp_path / "rows.parquet")):
        with pytest.raises(tb.TombolaError, match=r"^pandas is not installed; run pip install 'tombola\[pandas\]'$"):
            what()
    with pytest.raises(tb.TombolaError, match="is no folder"):
        tb.results(tmp_path / "none")


def test_a_frame_has_a_column_for_every_field(runs: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = tb.results(runs).to_pandas()
    fields = list(ResultRow.__struct_fields__)
    assert list(frame.columns)[: len(fields)] == fields
    pytest.importorskip("pyarrow")
    tb.results(runs).write_parquet(tmp_path / "rows.parquet")
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "rows.parquet"), frame)


def test_counts_over_replicates_stay_whole_numbers(tmp_path: Path) -> None:
    counted = Figure(mean=74.5, interval=None, values=(74, 75, None, 0.5))
    again = typed(Figure, json.loads(json.dumps(counted.as_dict())), tmp_path / "result.json")
    assert json.dumps(again.as_dict()["values"]) == "[74, 75, null, 0.5]"
