"""What captions say is what figures show, whatever a run holds."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from report_cases import CASES, drawn, make
from tombola.formats import MINUS
from tombola.report import style
from tombola.report.page import write_report
from tombola.report.plot import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RAW = re.compile(r"\bNone\b|\bnan\b|\binf\b|\bTrue\b|\bFalse\b|Look\(|Spread\(|array\(|<object|\be-\d|[\w)]-?\.\d{9}")
HYPHEN = re.compile(r"(?<![\w.,…-])-\d")


def lines(axes: Axes) -> list[Any]:
    """Lines with data coordinates on both axes, without those that run across."""
    return [line for line in axes.lines if line.get_transform() == axes.transData and len(line.get_xdata())]


def outside(axes: Axes) -> tuple[bool, bool]:
    """Whether data lie below and above the vertical axis."""
    low, high = axes.get_ylim()
    values = [float(y) for line in lines(axes) for y in line.get_ydata()]
    for collection in axes.collections:
        values += [float(y) for path in collection.get_paths() for y in path.vertices[:, 1]]
    return min(values) < low - 1e-9 * abs(low), max(values) > high + 1e-9 * abs(high)


def check(plot: Plot) -> None:
    """The caption against the figure."""
    axes, says = plot.figure.axes[0], plot.caption
    below, above = outside(axes)
    if plot.name.endswith("-close"):
        assert below == ("below" in says), "a close-up says what it cuts off"
        assert not above or "above" in says
    elif "rows" not in plot.name and not plot.name.startswith(("verify-arms", "verify-diff", "layer", "masked")):
        cut = "is cut off" in says
        assert cut == (below or (above and "ends at" in says)), plot.name
        if cut:
            (limit,) = re.findall(r"The axis (?:begins|ends) at ([\d.,]+)", says)
            assert any(abs(float(limit.replace(",", "")) - end) <= 0.01 * abs(end) for end in axes.get_ylim())
    assert ("Logarithmic axis" in says) == (axes.get_yscale() == "log")
    across = [line for line in axes.lines if line not in lines(axes) and not str(line.get_label()).startswith("_")]
    assert ("Dotted: the dense" in says) == bool(across)
    bands = [c for c in axes.collections if type(c).__name__ in ("PolyCollection", "FillBetweenPolyCollection")]
    assert bool(re.search(r"\bband\b", says)) == bool(bands), plot.name
    hollow = [line for line in lines(axes) if line.get_markerfacecolor() == style.PAPER]
    assert ("Hollow:" in says) == (bool(hollow) and plot.name == "early-stop-density")
    dashed = [line for line in axes.lines if line.get_linestyle() == "--" and line.get_color() == style.INK]
    assert ("Dashed: the margin" in says) == bool(dashed)
    ticks = [line for line in axes.lines if line.get_marker() == "|"]
    assert ("Upright tick" in says) == bool(ticks)
    if plot.name == "verify-arms":
        small = [line for line in axes.lines if line.get_alpha() == 0.45 and len(line.get_xdata())]
        assert ("small marks" in says) == bool(small)
        bars = [line for line in axes.lines if line.get_linewidth() == 2.4]
        assert ("bar: 95 %" in says) == bool(bars)
    assert not RAW.search(says), says
    assert not HYPHEN.search(says), says


def shows_something(plot: Plot) -> bool:
    """Whether a figure's marks differ in both directions, but for curves of one evaluation, which stand in a column."""
    axes = plot.figure.axes[0]
    x = {float(value) for line in lines(axes) for value in line.get_xdata()}
    y = {float(value) for line in lines(axes) for value in line.get_ydata()}
    return len(y) > 1 and (len(x) > 1 or "One evaluation each" in plot.caption)


@pytest.mark.parametrize("case", CASES)
def test_captions_say_what_is_drawn(tmp_path: Path, case: str) -> None:
    for run, _, plots, remarks in drawn(make(tmp_path / "run", case)):
        for plot in plots:
            check(plot)
            assert shows_something(plot), plot.name
            counted = re.search(r"over (\d+) replicates?;", plot.caption)
            if counted and run.verify is None:
                assert run.find is not None
                assert int(counted[1]) == len(run.find.replicates)
        for remark in remarks:
            assert remark.text.endswith(".")
            assert not RAW.search(remark.text), remark.text
    assert case not in ("density 1", "no test split") or all("test" not in plot.title.lower() for plot in plots)


def test_the_steep_start_is_cut_off_only_where_it_is(tmp_path: Path) -> None:
    cut = {}
    for case in ("steep", "flat logs", "lower is better"):
        ((_, _, plots, _),) = drawn(make(tmp_path / case, case))
        (plot,) = (plot for plot in plots if plot.name == "training-val-accuracy")
        cut[case] = "cut off" in plot.caption
    assert cut == {"steep": True, "flat logs": False, "lower is better": False}


def test_one_evaluation_is_a_point(tmp_path: Path) -> None:
    ((_, _, plots, _),) = drawn(make(tmp_path / "a", "one evaluation"))
    (plot,) = (plot for plot in plots if plot.name == "training-val-loss")
    assert "One evaluation each" in plot.caption
    for line in plot.figure.axes[0].lines:
        if len(line.get_xdata()) == 1:
            assert line.get_marker() not in ("none", "None", None) or line.get_linestyle() == "None"
    marks = [line for line in plot.figure.axes[0].lines if line.get_marker() == "o"]
    assert len(marks) == len(plot.figure.axes[0].get_legend_handles_labels()[1])


def test_equal_values_become_a_sentence(tmp_path: Path) -> None:
    ((_, _, plots, remarks),) = drawn(make(tmp_path / "a", "all the same"))
    names = {plot.name for plot in plots}
    assert not names & {"accuracy-density", "early-stop-accuracy-density", "early-stop-density", "accuracy-cost"}
    said = " ".join(remark.text for remark in remarks)
    assert "Test accuracy against density: 98.00 % at every density." in said
    assert "Early stop: at iteration 900 in every search and level." in said


@pytest.mark.parametrize("case", ["complete", "lower is better", "two runs", "verify of 2"])
def test_pages_print_numbers_one_way(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")
    monkeypatch.setattr(style, "svg_bytes", lambda figure: b"<svg></svg>")
    page = write_report(make(tmp_path / "run", case), tmp_path / "out").html.read_text(encoding="utf-8")
    body = page[page.index("<main>") :].partition("How it was made")[0]
    text = re.sub(r"<[^>]*>", " ", re.sub(r"<a href.*?</a>|aria-label=\"[^\"]*\"", "", body))
    assert not RAW.search(text), RAW.search(text)
    assert not HYPHEN.search(text), HYPHEN.findall(text)
    cells = re.findall(r"<td>(?:<svg.*?</svg>)?(.*?)(?:<small>(.*?)</small>)?</td>", body)
    number = rf"[{MINUS}+]?[\d,]+(?:\.\d+)?(?:e{MINUS}?\d+)?"
    forms = (
        "–",
        rf"{number}(?: %)?\*?",
        rf"{number} ± {number}(?: %)?\*?",
        rf"{number}(?: %)? \({number} to {number}(?: %)?\)\*?",
        rf"{number} (?:of|to) {number}(?: %)?",
        rf"{number} %: .*",  # of the runs' table: density, and what it reaches
        rf"{number}(?: ± {number})? \(\d of \d\)",
        rf"{number} [kMGTPEZ]?(?:FLOP|B|s|J)",
        rf"{number} ×",
    )
    form = re.compile("|".join(forms))
    assert len(cells) > 10
    for text, small in cells:
        for part in (text, small):
            plain = part.replace("\N{NO-BREAK SPACE}", " ")
            assert not plain or form.fullmatch(plain), plain
    percents = re.findall(r"(\d+\.\d+)(?:\N{NO-BREAK SPACE}| )%", text)
    assert all(len(found.partition(".")[2]) >= 2 for found in percents)


def test_titles_do_not_repeat(tmp_path: Path) -> None:
    ((_, _, plots, _),) = drawn(make(tmp_path / "a", "complete"))
    titles = sorted(plot.title for plot in plots)
    assert all(one != two for one, two in pairwise(titles))
