"""The report, on run directories made up here: complete, half written, hostile and wrong."""

from __future__ import annotations

import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report_runs import make_find, make_verified, make_verify, write_json, write_log
from tombola.errors import TombolaError
from tombola.report import aggregate, axes, figures, style, tables, words
from tombola.report.looks import page_looks, series_look
from tombola.report.page import ReportFiles, write_report
from tombola.report.plot import Plot, slug
from tombola.report.plots import run_plots
from tombola.report.read import Run, read_run
from tombola.results.trial import LayerResult

FETCHING = ("script", "link", "img", "iframe", "object", "embed", "base", "form", "foreignobject")


class Page(HTMLParser):
    """Tags with their attributes, ids, and the text outside of style and SVG."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check_self_contained(text: str) -> Page:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in FETCHING, tag
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert value.startswith(("#", "figures/", "data:image/png;base64,")), (tag, key, value)
            elif not key.startswith("xmlns"):
                assert not re.search(r"(https?:)?//", value), (tag, key, value)
    styles = re.findall(r"<style.*?</style>", text, flags=re.DOTALL)
    assert not any("@import" in found or "url(" in found for found in styles)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), "ids must be unique on the page"
    return page


def names_of(run: Run) -> list[str]:
    """The names of a run's figures."""
    return [shown.name for shown in run_plots(run, page_looks([run])[0]) if isinstance(shown, Plot)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_verified(make_find(tmp_path_factory.mktemp("full") / "lenet-imp"))


@pytest.fixture(scope="module")
def report(full: list[Path], tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    return write_report(full, tmp_path_factory.mktemp("report") / "out")


@pytest.fixture
def no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """PDFs take most of the time; where they are not the point they are left empty."""
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")


def test_full_run_gives_page_and_figures(report: ReportFiles) -> None:
    files, out = report, report.html.parent
    assert files.html == out / "report.html"
    names = {path.stem for path in files.figures}
    assert names == {
        "verify-arms",
        "verify-differences",
        "accuracy-density",
        "accuracy-cost",
        "early-stop-accuracy-density",
        "early-stop-density",
        "layer-density",
        "training-val-accuracy",
        "training-val-loss",
        "verify-val-accuracy",
        "verify-val-loss",
    }
    for path in files.figures:
        assert path.parent == out / "figures"
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"<?xml")
    page = check_self_contained(files.html.read_text(encoding="utf-8"))
    assert sum(tag == "svg" and "swatch" not in found.get("class", "") for tag, found in page.tags) == len(names)
    for phrase in (
        "it matches dense and beats a random mask",
        "tombola find imp --model lenet-300-100",
        "train.lr",
        "0.0012",
        "2.12.0",
        "undecided beats reinitialised",
        "95 % t-interval of the mean",
        "(1 of 5)",
    ):
        assert phrase in page.text, phrase
    assert "has not been verified" not in page.text


def test_same_runs_give_the_same_bytes_whatever_the_settings(
    full: list[Path], report: ReportFiles, tmp_path: Path
) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "mine"}):
        again = write_report(full, tmp_path / "again")
        assert matplotlib.rcParams["font.size"] == 30
    assert report.html.read_bytes() == again.html.read_bytes()
    assert [p.name for p in report.figures] == [p.name for p in again.figures]
    for one, two in zip(report.figures, again.figures, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.usefixtures("no_pdf")
def test_hostile_names_are_text(tmp_path: Path) -> None:
    bad = "</style><script>alert(1)</script><img src=x onerror=alert(1)> $\\frac{ _a \x00 \u202e"
    find = make_find(tmp_path / "run", name=bad, method=bad, logs=False, replicates=1, levels=(0, 3))
    root, proof = make_verified(find, 2)
    for run in (root, proof):
        value = json.loads((run / "result.json").read_text())
        value |= {"model": bad, "data": bad, "sentence": bad, "ticket": bad}
        for rep in value["replicates"] if run == root else []:
            rep["arms"]["_" + bad] = rep["arms"]["random"]
            for level in rep["arms"]["ticket"]:
                level["layers"][0]["name"] = bad
        write_json(run / "result.json", value)
    head = json.loads((root / "run.json").read_text())
    write_json(root / "run.json", {**head, "config": {bad: {bad: bad}}, "command": bad, "versions": {bad: bad}})
    files = write_report([root, proof], tmp_path / "page.html")
    text = files.html.read_text(encoding="utf-8")
    page = check_self_contained(text)
    assert "<script>alert(1)</script>" in page.text
    for path in files.figures:
        assert path.parent == tmp_path / "figures"
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_bytes())


def test_a_run_may_only_name_its_own_files(tmp_path: Path) -> None:
    root = make_find(tmp_path / "run", logs=False, replicates=1, levels=(0,), controls=())
    write_log(tmp_path / "secret.csv", 0.9, 100, random.Random(0))
    value = json.loads((root / "result.json").read_text())
    value["replicates"][0]["arms"]["ticket"][0]["metrics"] = "../secret.csv"
    write_json(root / "result.json", value)
    find = read_run(root).find
    assert find is not None
    assert find.replicates[0].levels[0].metrics == ""


@pytest.mark.usefixtures("no_pdf")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"result": None}, "The run has not finished"),
        ({"drop": "layers"}, "Counts per layer were not recorded"),
        ({"drop": "test_accuracy"}, "have no test accuracy"),
        ({"drop": "metrics"}, "The training log is missing for 8 of 8"),
        ({"cut": 1}, "Replicate 1 has 2 of 4 levels so far"),
        ({"kind": "mode-connectivity"}, "are no figures for results of kind"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, change: Mapping[str, Any], says: str) -> None:
    root = make_find(tmp_path / "run", replicates=2, controls=(), logs=False)
    value = json.loads((root / "result.json").read_text())
    for rep in value["replicates"]:
        for level in rep["arms"]["ticket"]:
            if "drop" in change:
                level[change["drop"]] = {"layers": [], "metrics": ""}.get(change["drop"])
    if "cut" in change:
        del value["replicates"][change["cut"]]["arms"]["ticket"][2:]
    value |= {key: change[key] for key in ("kind",) if key in change}
    write_json(root / "result.json", value)
    if "result" in change:
        (root / "result.json").unlink()
    run = read_run(root)
    assert any(says in note for note in run.missing)
    if len(names_of(run)) > 1:
        return  # pages with figures are looked at elsewhere
    files = write_report([root], tmp_path / "out")
    page = check_self_contained(files.html.read_text(encoding="utf-8"))
    assert says in page.text
    assert "tombola find imp" in page.text


@pytest.mark.usefixtures("no_pdf")
def test_verification_alone_and_unknown_kind(tmp_path: Path) -> None:
    write_json(tmp_path / "v" / "run.json", {"kind": "verify", "name": "proof"})
    make_verify(tmp_path / "v", replicates=2)
    write_json(tmp_path / "s" / "run.json", {"kind": "study", "config": {"a": {"b": [1, {"c": None}]}}})
    write_json(tmp_path / "s" / "result.json", {"kind": "sweep", "best": {"lr": 0.1}})
    files = write_report([tmp_path / "v", tmp_path / "s"], tmp_path / "out")
    page = check_self_contained(files.html.read_text(encoding="utf-8"))
    assert {path.stem for path in files.figures} >= {"1-proof-verify-arms", "1-proof-verify-val-loss"}
    for phrase in ("a.b[1].c", "best.lr", "The command was not recorded", "2 runs"):
        assert phrase in page.text, phrase


@pytest.mark.usefixtures("no_pdf")
def test_several_runs_share_a_figure(tmp_path: Path) -> None:
    some: dict[str, Any] = {"logs": False, "lean": True, "controls": ()}
    one = make_find(tmp_path / "one", name="one", replicates=1, **some)
    two = make_find(tmp_path / "two", name="two", method="edge_popup", levels=(4,), **some)
    files = write_report([one, two], tmp_path / "out")
    assert "runs-accuracy-density" in {path.stem for path in files.figures}
    assert len({path.name for path in files.figures}) == len(files.figures)
    page = check_self_contained(files.html.read_text(encoding="utf-8"))
    assert "The runs side by side" in page.text
    assert "edge_popup" in page.text


def test_an_early_stop_that_was_not_observed_is_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"kind": "verify", "name": "x"})
    make_verify(tmp_path)
    value = json.loads((tmp_path / "result.json").read_text())
    value["arms"]["ticket"]["early_stop_observed"] = [True, True, False, True, True]
    value["arms"]["dense"]["early_stop_observed"] = [False] * 5
    write_json(tmp_path / "result.json", value)
    run = read_run(tmp_path)
    assert run.verify is not None
    rows = {str(row[0]): row for row in tables.verify_tables(run.verify, page_looks([run])[0])[0].rows}
    ticket, dense, random_ = (
        next(row for name, row in rows.items() if part in name) for part in ("Tick", "Den", "Rand")
    )
    assert "4 of 5)" in str(ticket[4])
    assert ") (" not in str(ticket[4])
    assert dense[4] == words.MISSING
    assert "of 5" not in str(random_[4])


@pytest.mark.usefixtures("no_pdf")
def test_a_report_with_fewer_figures_removes_those_of_before(tmp_path: Path) -> None:
    some: dict[str, Any] = {"logs": False, "lean": True, "controls": ()}
    one, two = (make_find(tmp_path / name, name=name, replicates=1, **some) for name in ("one", "two"))
    folder = tmp_path / "out" / "figures"
    before = write_report([one, two], folder.parent).figures
    (folder / "runs-mine.svg").write_text("a user's own")
    after = write_report([one], folder.parent).figures
    assert set(before).isdisjoint(after)
    assert {path for path in folder.iterdir() if path.suffix != ".json"} == {*after, folder / "runs-mine.svg"}


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.json", None, "holds no run.json"),
        ("run.json", "[1]", "run.json holds no JSON object"),
        ("run.json", "{", "run.json is not readable JSON"),
        ("run.json", '{"name": 3}', "Expected `str`, got `int` - at `$.name`"),
        ("run.json", '{"format": 2}', "has format 2, and this version of Tombola reads format 1"),
        ("result.json", '{"kind": "find", "replicates": 3}', "Expected `array`, got `int` - at `$.replicates`"),
        ("result.json", '{"kind": "find", "format": 9}', "has format 9, and this version of Tombola reads format 1"),
        ("result.json", '{"kind": "find", "replicates": []}', "missing required field"),
        (
            "result.json",
            '{"kind": "find", "replicates": [{"arms": {"ticket": [{"level": 0, "density": 12.0}]}}]}',
            "Expected `float` <= 1.0 - at `$.replicates[0].arms[...][0].density`",
        ),
        (
            "result.json",
            '{"kind": "verify", "comparisons": {"dense": {"verdict": "perhaps"}}}',
            "Invalid enum value 'perhaps' - at `$.comparisons[...].verdict`",
        ),
    ],
)
def test_errors_name_file_value_and_mend(tmp_path: Path, file: str, content: str | None, says: str) -> None:
    write_json(tmp_path / "run.json", {"kind": "find", "name": "x"})
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(TombolaError) as caught:
        write_report([tmp_path], tmp_path / "out")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TombolaError, match="no run directory"):
        write_report([], tmp_path)


def test_spread_by_hand() -> None:
    found = aggregate.spread([1.0, 2.0, 3.0])
    assert found is not None
    half = 4.302652729911275 / math.sqrt(3)  # t(0.975, 2) · s / sqrt(n), s = 1
    assert (found.n, found.mean, found.low, found.high) == (3, 2.0, 1.0, 3.0)
    assert found.interval == pytest.approx((2 - half, 2 + half))
    assert aggregate.spread([]) is None
    single = aggregate.spread([0.5])
    assert single is not None
    assert single.interval is None


def test_points_leave_out_unobserved_stops(tmp_path: Path) -> None:
    root = make_find(tmp_path / "run", logs=False, replicates=2, levels=(0,), controls=())
    value = json.loads((root / "result.json").read_text())
    value["replicates"][0]["arms"]["ticket"][0] |= {"early_stop_iteration": 900, "early_stop_observed": True}
    value["replicates"][1]["arms"]["ticket"][0] |= {
        "early_stop_iteration": 12_000,
        "early_stop_observed": False,
    }
    write_json(root / "result.json", value)
    find = read_run(root).find
    assert find is not None
    (point,) = aggregate.points(find, "ticket", aggregate.observed_stop)
    assert (point.spread.mean, point.spread.n, point.complete) == (900, 1, False)


def test_log_is_read_up_to_a_torn_row(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("step,val_loss\n0,2.0\n10,1.0\n20,nan\n30,\n40")
    assert aggregate.read_log(tmp_path / "m.csv", "val_loss") == {0: 2.0, 10: 1.0}
    assert aggregate.read_log(tmp_path / "none.csv", "val_loss") == {}
    (tmp_path / "n.csv").write_text("step,val_loss\n0,4.0\n10,3.0\n20,1.0\n")
    found = aggregate.curve([str(tmp_path / "m.csv"), str(tmp_path / "n.csv"), ""], "val_loss")
    assert found is not None
    assert (found.steps, found.mean, found.n) == ((0, 10), (3.0, 2.0), 2)


def test_a_collapse_calls_for_a_close_up(tmp_path: Path) -> None:
    root = make_find(tmp_path / "run", logs=False, lean=True, replicates=1, levels=range(8), controls=())
    assert names_of(read_run(root)) == ["accuracy-density", "accuracy-cost"]
    value = json.loads((root / "result.json").read_text())
    value["replicates"][0]["arms"]["ticket"][-1]["test_accuracy"] = 0.1
    write_json(root / "result.json", value)
    names = names_of(read_run(root))
    assert names == ["accuracy-density", "accuracy-density-close", "accuracy-cost"]


@given(st.lists(st.integers(), unique=True, max_size=40), st.integers(2, 8))
def test_pick_is_a_spread_out_subset(numbers: list[int], most: int) -> None:
    chosen = aggregate.pick(numbers, most)
    assert set(chosen) <= set(numbers)
    assert len(chosen) == min(most, len(numbers))
    if numbers:
        assert (chosen[0], chosen[-1]) == (numbers[0], numbers[-1])


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0))
def test_ticks_lie_in_range_and_are_few(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = axes.log_ticks(low, high)
    assert 1 <= len(ticks) <= 8
    assert all(low * 0.999 <= t <= high * 1.001 for t in ticks)


@pytest.mark.parametrize("direction", ["x", "y"])
@pytest.mark.parametrize(("low", "high"), [(500, 60_000), (0.2, 400), (0.1, 37_070), (1e-9, 1e12), (0.9, 1.1), (3, 3)])
def test_a_log_axis_has_a_few_plain_numbers(low: float, high: float, direction: str) -> None:
    with style.styled():
        figure = style.new_figure(2)
        panel = figure.add_subplot()
        panel.plot([low, high], [low, high])
        axes.log_axis(getattr(panel, f"{direction}axis"), [0, low, high])
        figure.canvas.draw()
    axis = getattr(panel, f"{direction}axis")
    labels = [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]
    assert 1 <= len(labels) <= 5
    assert not [label for label in labels if "$" in label]
    assert axis.get_scale() == "log"


@given(st.text(max_size=60))
def test_names_for_files_are_safe(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(text))


def test_means_in_words() -> None:
    assert words.mean_of(words.Unit("accuracy"), aggregate.spread([0.98, 0.97])) == "97.50 % (97.00 to 98.00 %)"
    assert words.mean_of(words.Unit("accuracy"), aggregate.spread([0.98])) == "98.00 %"
    assert words.mean_of(words.ITERATIONS, aggregate.spread([1000.0, 1100.0, 1200.0])) == "1,100 ± 248"
    assert words.mean_of(words.ITERATIONS, None) == words.MISSING


def test_many_layers_and_empty_ones_are_drawn() -> None:
    layers = [LayerResult(name=f"layer{i}.weight", kept=0 if i == 3 else 10 * i + 1, total=2000) for i in range(90)]
    drawn = figures.layer_figure([("5 %", series_look(0), layers)])
    assert drawn.get_size_inches()[1] <= 9
    assert b"layer0.weight" in style.svg_bytes(drawn)


def test_any_name_can_be_drawn() -> None:
    names = ["$\\frac{", "_hidden", "<b>&amp;", "\x00\x1b[0m", "彩票 \u202e", "", "x" * 500]
    layers = [LayerResult(name=name, kept=1, total=2) for name in names]
    drawn = figures.layer_figure([(names[0], series_look(0), layers)])
    ElementTree.fromstring(style.svg_bytes(drawn))
    assert style.pdf_bytes(drawn).startswith(b"%PDF")


@pytest.mark.parametrize(("count", "folded"), [(20, False), (21, True)])
def test_a_long_configuration_is_folded(tmp_path: Path, count: int, folded: bool) -> None:
    write_json(tmp_path / "run.json", {"kind": "find", "config": {f"setting {index}": None for index in range(count)}})
    table = tables.config_table(read_run(tmp_path))
    assert table is not None
    assert (len(table.rows), table.folded) == (count, folded)
