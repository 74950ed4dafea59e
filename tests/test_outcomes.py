"""What every test example came out as: kept in a file, found again, and refused where it is torn."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.runs.stage import OUTCOMES
from tombola.train.outcomes import read_outcomes, write_outcomes

VALUES = {
    "bits": torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
    "one": torch.tensor([0.0]),
    "eight": torch.ones(8),
    "shares": torch.tensor([0.5, 1.0, 0.0]),
    "errors": torch.tensor([-3.25, 1e-30, 4e30, 0.1]),
    "odd": torch.tensor([float("nan"), float("inf"), 0.0]),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_they_are_read_as_they_were_written(values: Tensor, tmp_path: Path) -> None:
    assert read_outcomes(tmp_path / "new") is None
    write_outcomes(tmp_path / "new", values)
    found = read_outcomes(tmp_path / "new")
    assert found is not None
    assert found.dtype == torch.float32
    assert torch.equal(found.nan_to_num(7), values.nan_to_num(7))
    assert [file.name for file in (tmp_path / "new").iterdir()] == [OUTCOMES]


def test_results_that_are_right_or_wrong_take_a_bit_each(tmp_path: Path) -> None:
    write_outcomes(tmp_path, (torch.arange(10_000) % 7 > 0).float())
    assert (tmp_path / OUTCOMES).stat().st_size < 10_000 / 8 + 300
    first = (tmp_path / OUTCOMES).read_bytes()
    write_outcomes(tmp_path, (torch.arange(10_000) % 7 > 0).float())
    assert (tmp_path / OUTCOMES).read_bytes() == first


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("cut", ["empty", "half", "tail", "pickle", "other"])
def test_torn_or_foreign_files_are_one_clear_line(cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_outcomes(tmp_path, VALUES["errors"])
    whole = (tmp_path / OUTCOMES).read_bytes()
    other = whole.replace(b'"values"', b'"valuer"')
    content = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "tail": whole[:-1],
        "pickle": pickle.dumps(Bomb()),
        "other": other,
    }
    (tmp_path / OUTCOMES).write_bytes(content[cut])
    with pytest.raises(TombolaError, match="does not hold the results of test examples; remove"):
        read_outcomes(tmp_path)
    assert not (tmp_path / "exploded").exists()
