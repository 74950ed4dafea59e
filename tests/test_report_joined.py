"""A verification is shown with the search that found its ticket."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import tombola as tb
from report_runs import write_json
from tombola.report.read import NO_CONTROLS, NOT_VERIFIED, read_run, read_runs
from tombola.runs.integrity import KEY
from tombola.study.verify import verify

RECIPE = {"length": "2it", "batch_size": 60}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A search on the digits and the verification of its ticket."""
    out = tmp_path_factory.mktemp("runs")
    ticket = tb.find("mlp", "digits", {"density": 0.5, "rounds": 1}, recipe=RECIPE, out=out)
    search = next(out.glob("imp-*"))
    proof = verify(ticket, "digits", replicates=1, out=out)
    return search, Path(proof.run)


def test_a_verification_goes_with_its_search(runs: tuple[Path, Path]) -> None:
    (run,) = read_runs(runs)
    assert run.find is not None
    assert run.verify is not None
    assert NOT_VERIFIED not in run.missing
    (note,) = run.missing
    assert note == f"{NO_CONTROLS} Those of the verification are for its ticket alone."
    assert read_run(runs[0]).missing == (NO_CONTROLS, NOT_VERIFIED)


def unsealed(file: Path) -> dict[str, Any]:
    """A record as it was written before there were checksums."""
    found: dict[str, Any] = json.loads(file.read_text())
    return {key: value for key, value in found.items() if key != KEY}


def test_verifications_of_before_named_the_files_bytes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    search, proof = runs
    ticket = next(search.glob("replicate-0/level-01/*.ticket"))
    head = unsealed(proof / "run.json")
    head["config"]["ticket"] = hashlib.sha256(ticket.read_bytes()).hexdigest()
    write_json(tmp_path / "run.json", head)
    write_json(tmp_path / "result.json", unsealed(proof / "result.json"))
    assert len(read_runs((search, tmp_path))) == 1


def test_another_tickets_verification_stays_apart(runs: tuple[Path, Path], tmp_path: Path) -> None:
    search, proof = runs
    head = unsealed(proof / "run.json")
    head["config"]["ticket"] = "0" * 64
    write_json(tmp_path / "run.json", head)
    write_json(tmp_path / "result.json", unsealed(proof / "result.json"))
    apart = read_runs((search, tmp_path))
    assert [run.find is None for run in apart] == [False, True]
    (search / "replicate-0" / "level-01" / "broken.ticket").write_bytes(b"no ticket")
    assert len(read_runs((search, proof))) == 1, "a file that is no ticket is nobody's"
