"""The documentation's tables, numbers and figures are those of docs/results, and what checks them finds faults."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "make"))

import docstrings  # noqa: E402
import everything  # noqa: E402
import figures  # noqa: E402
import links  # noqa: E402
import methods  # noqa: E402
import packages  # noqa: E402
from pages import Claim, Table, loose_numbers, with_claim, with_tables  # noqa: E402
from tombola.methods import METHODS  # noqa: E402
from tombola.results.codec import typed  # noqa: E402


def test_pages_and_figures_agree_with_the_results() -> None:
    def write(path: Path, text: str) -> None:
        """Nothing is written."""

    assert [str(fault) for fault in everything.faults(write)] == []


@pytest.mark.parametrize("page", everything.PAGES)
def test_every_number_is_checked_or_given(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert list(loose_numbers(text, page, everything.claims())) == []


def test_every_method_has_its_paper_and_command() -> None:
    assert {method.name.partition(",")[0] for method in methods.METHODS} == set(METHODS)


def test_every_result_is_shown() -> None:
    folders = {path.name for path in (ROOT / "docs" / "results").iterdir()}
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "make").glob("*.py"))
    assert [name for name in sorted(folders) if f'"{name}"' not in code] == []


# ---- what checks --------------------------------------------------------------------------------------------------

PAGE = "a.md"
CLAIM = Claim(PAGE, "the ticket reaches {mean} ({low} to {high})", {"mean": "98.1", "low": "−0.2", "high": "+0.3"})


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("so the ticket reaches 98.1 (−0.2 to +0.3).", True),
        ("so the ticket\nreaches 98.1 (−0.2\nto +0.3).", True),
        ("so the ticket reaches 97.5 (−0.2 to +0.4).", False),
    ],
)
def test_a_number_is_found_however_lines_break_and_put_right(text: str, fixed: bool) -> None:
    written, faults = with_claim(text, CLAIM)
    assert "98.1" in written
    assert "+0.3)" in written
    assert (faults == []) is fixed
    assert all(fault.fixable for fault in faults)
    assert with_claim(written, CLAIM) == (written, [])


@pytest.mark.parametrize(
    ("text", "claim", "what"),
    [
        ("nothing of the kind", CLAIM, "found 0 times"),
        ("the ticket reaches 1 (2 to 3), the ticket reaches 1 (2 to 3)", CLAIM, "found 2 times"),
        ("it wins by 2", Claim(PAGE, "it wins by {by}", {"by": "2"}, holds=False), "do not bear this out"),
        ("it wins by 2", Claim(PAGE, "it wins by {by}", {"other": "2"}), "has places"),
    ],
)
def test_words_that_the_results_do_not_bear_out_are_faults(text: str, claim: Claim, what: str) -> None:
    written, faults = with_claim(text, claim)
    assert written == text
    assert [fault.fixable for fault in faults] == [False]
    assert what in str(faults[0])


def test_a_claim_may_begin_with_its_number() -> None:
    claim = Claim(PAGE, "{share} % of {all} layers", {"share": "21", "all": "3"})
    assert with_claim("kept: 20 % of 3 layers", claim)[0] == "kept: 21 % of 3 layers"


def test_tables_are_put_right_and_unknown_ones_named() -> None:
    table = Table("t", (("a", "b"), ("1", "2")))
    text = "<!-- table: t -->\nold\n<!-- end -->\n<!-- table: u -->\n<!-- end -->"
    written, faults = with_tables(text, PAGE, {"t": table})
    assert "| a | b |\n|---|---|\n| 1 | 2 |\n<!-- end -->" in written
    assert [fault.fixable for fault in faults] == [True, False]
    assert [f.fixable for f in with_tables(written, PAGE, {"t": table})[1]] == [False]


def test_numbers_outside_of_tables_code_and_claims_are_loose() -> None:
    text = "97.5 is loose, `0.5` and [x](1.2.md) are not,\nthe ticket reaches 98.1 (−0.2 to +0.3) ± 3\n```\n9.9\n```\n"
    assert list(loose_numbers(text, PAGE, [CLAIM])) == ["a.md:1: 97.5", "a.md:2: ± 3"]


def test_a_package_without_a_place_in_the_map_and_a_name_without_a_package_are_found() -> None:
    page = (
        "| package | holds |\n|---|---|\n| `a/`, `mask.py` | masks |\n| `gone/` | nothing |\n`b/` stands in no table\n"
    )
    found = packages.compared(page, {"a/", "b/"}, {"a/", "b/", "mask.py"})
    assert [fault.what for fault in found] == [
        "the map of packages leaves out b/",
        "the map of packages names gone/, which is not in src/tombola",
    ]


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "b.md").write_text("# Head, with *marks*\n[up](../a.md)\n")
    text = "# A\n[b](docs/b.md#head-with-marks) [c](docs/c.md) [d](docs/b.md#tail) [e](#a) [f](https://x.org/y.md)\n"
    (tmp_path / "a.md").write_text(f"{text}```\n[in](code.md)\n```\n")
    assert [str(fault) for fault in links.faults(tmp_path)] == [
        "a.md: link docs/c.md: there is no such file",
        "a.md: link docs/b.md#tail: there is no such heading",
    ]


def test_a_figure_of_other_results_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    one = figures.FIGURES[0]
    (tmp_path / one.file).write_text("<svg/><!-- results: 00 -->", encoding="utf-8")
    monkeypatch.setattr(figures, "FIGURES", (one,))
    assert "drawn from other results" in str(next(figures.faults()))
    (tmp_path / one.file).write_text(f"<svg/><!-- results: {figures.digest(one)} -->", encoding="utf-8")
    (tmp_path / "more.svg").write_text("<svg/>", encoding="utf-8")
    assert [str(fault) for fault in figures.faults()] == ["docs/figures/more.svg: is drawn by nothing"]


@pytest.mark.parametrize("result", [figures.lenet, figures.masks, figures.wrn])
def test_results_are_drawn_from_the_records_that_a_run_writes(result: Callable[[], Any], tmp_path: Path) -> None:
    made = figures.record(result(), tmp_path)
    assert typed(type(made), made.as_dict(), tmp_path / "result.json") == made


UNDOCUMENTED = """
class Base:
    'A base.'
    def kept(self):
        'What it does.'
    def bare(self): ...
    def _own(self): ...
    @property
    def size(self):
        'How large it is.'
    @size.setter
    def size(self, value): ...
class Child(Base):
    def kept(self): ...
    def more(self): ...
class Copied(Base):
    __doc__ = Base.__doc__
def function(): ...
"""


def test_public_names_without_a_docstring_are_named(tmp_path: Path) -> None:
    package = tmp_path / "src" / "some"
    package.mkdir(parents=True)
    (package / "_private.py").write_text("def hidden(): ...", encoding="utf-8")
    (package / "public.py").write_text(UNDOCUMENTED, encoding="utf-8")
    bare = ("the module", "Base.bare (line 6)", "Child (line 13)", "Child.more (line 15)", "function (line 18)")
    faults = [str(fault) for fault in docstrings.faults(package)]
    assert faults == [f"src/some/public.py: {name} has no docstring" for name in bare]
