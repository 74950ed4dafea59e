"""The scripts of examples/ do what they say, in a shorter form; those of Lightning and transformers where installed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def main_of(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    monkeypatch.chdir(folder)
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


def test_every_script_is_run_here_or_named_as_a_method() -> None:
    here = {"own_loop", "torchvision_model", "lightning_supermask", "huggingface_trainer"}
    assert {file.stem for file in FOLDER.glob("*.py")} == here | {"snip", "taylor"}


def test_a_loop_of_one_s_own_prunes_and_makes_a_ticket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket, accuracy = main_of("own_loop", monkeypatch, tmp_path)(epochs=2, levels=2)
    assert ticket.mask.density == pytest.approx(0.25, abs=1e-4)
    assert accuracy > 0.5
    ticket.save(tmp_path / "own.ticket")


def test_a_network_of_torchvision_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket = main_of("torchvision_model", monkeypatch, tmp_path)(length="2it", size=16, count=200)
    assert ticket.mask.density == pytest.approx(0.1, abs=1e-5)
    assert "layer4.1.conv2.weight" in ticket.mask


def test_lightning_learns_a_supermask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning.pytorch")
    mask, accuracy = main_of("lightning_supermask", monkeypatch, tmp_path)(epochs=3)
    assert mask.density == 0.5
    assert accuracy > 0.5


def test_the_trainer_of_hugging_face_keeps_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    held, left = main_of("huggingface_trainer", monkeypatch, tmp_path)(epochs=1, count=64)
    assert held.density == pytest.approx(0.3, abs=1e-3)
    assert left == held
