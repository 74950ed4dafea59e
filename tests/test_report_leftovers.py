"""Figures of an earlier report: gone where a new one lacks them, unless they are somebody else's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tombola.report.leftovers import RECORD, clear_leftovers


def write(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).write_text(f"drawn: {name}")
    return [folder / name for name in names]


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.name != RECORD}


def test_only_what_was_written_here_and_is_no_longer_goes(tmp_path: Path) -> None:
    write(tmp_path, "mine.svg", "loss-mine.svg")
    for name in ("mine.svg", "loss-mine.svg"):
        (tmp_path / name).write_text("a user's own")
    clear_leftovers("report.html", tmp_path, write(tmp_path, "loss.svg", "loss.pdf", "cost.svg", "cost.pdf"))
    (tmp_path / "cost.pdf").write_text("changed by hand")
    clear_leftovers("report.html", tmp_path, write(tmp_path, "loss.svg"))
    assert names_in(tmp_path) == {"mine.svg", "loss-mine.svg", "loss.svg", "cost.pdf"}
    clear_leftovers("report.html", tmp_path, [])
    assert names_in(tmp_path) == {"mine.svg", "loss-mine.svg", "cost.pdf"}
    assert not (tmp_path / RECORD).exists()


def test_figures_of_another_page_stay(tmp_path: Path) -> None:
    clear_leftovers("one.html", tmp_path, write(tmp_path, "loss.svg", "cost.svg"))
    clear_leftovers("two.html", tmp_path, write(tmp_path, "loss.svg"))
    clear_leftovers("one.html", tmp_path, [])
    assert names_in(tmp_path) == {"loss.svg"}
    clear_leftovers("two.html", tmp_path, [])
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[1]",
        '{"report.html": 3}',
        '{"report.html": {"gone.svg": null, "../outside.svg": "0", "/etc/x.svg": "0", "..": "0", "note.txt": "0"}}',
        "[" * 100_000,
    ],
    ids=["broken", "list", "number", "names", "deep"],
)
def test_a_record_of_anybodys_removes_nothing(record: str, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    write(tmp_path, "outside.svg")
    (folder / RECORD).write_text(record)
    clear_leftovers("report.html", folder, write(folder, "loss.svg"))
    assert names_in(tmp_path) == {"outside.svg", "figures"}
    assert set(json.loads((folder / RECORD).read_text())["report.html"]) == {"loss.svg"}


def test_a_link_in_the_place_of_a_figure_stays(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    folder.mkdir()
    clear_leftovers("report.html", folder, write(folder, "loss.svg"))
    (folder / "loss.svg").rename(tmp_path / "loss.svg")
    (folder / "loss.svg").symlink_to(tmp_path / "loss.svg")
    clear_leftovers("report.html", folder, [])
    assert (folder / "loss.svg").is_symlink()
    assert (tmp_path / "loss.svg").exists()
