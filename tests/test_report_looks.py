"""One colour and one marker per arm through a whole page, told apart also by the colour-blind."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from report_cases import drawn, make
from report_runs import make_find
from test_report_study import make_study
from tombola.report import style
from tombola.report.colours import css_colours, luminance, on_dark
from tombola.report.looks import CONTROLS, HUES, MARKERS, Look, page_looks, series_look, shades, swatch
from tombola.report.page import write_report
from tombola.report.read import read_runs

# Machado, Oliveira & Fernandes (2009), full severity, on linear RGB.
VISIONS = {
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def oklab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ottosson's OKLab of linear sRGB, times 100."""
    lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return 100 * lab @ np.cbrt(lms @ np.clip(linear, 0, 1))


def apart(one: str, other: str) -> float:
    """The least distance of two colours over all visions."""
    parts = (np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]) for colour in (one, other))
    first, second = (np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in parts)
    return min(float(np.linalg.norm(oklab(m @ first) - oklab(m @ second))) for m in VISIONS.values())


BASE = (*HUES, *(look.colour for look in CONTROLS.values()))


def test_hues_are_far_apart_for_everybody_and_stand_out() -> None:
    assert min(apart(*pair) for pair in combinations(BASE, 2)) > 8
    assert min(apart(*pair) for pair in combinations(map(on_dark, BASE), 2)) > 5
    for colour in BASE:
        assert 1.05 / (luminance(colour) + 0.05) > 2.5, "on white"
        assert (luminance(on_dark(colour)) + 0.05) / (luminance("#171b20") + 0.05) > 3, "on a dark page"


def test_no_two_of_many_looks_are_the_same() -> None:
    many = [*map(series_look, range(54)), *CONTROLS.values()]
    assert len({(look.colour, look.marker) for look in many}) == len(many)
    assert len({look.colour for look in many[:12]}) == 12
    assert {look.marker for look in many} <= set(MARKERS)


@given(st.integers(0, 20), st.integers(2, 8))
def test_shades_keep_hue_and_marker_and_differ(index: int, count: int) -> None:
    look = series_look(index)
    found = shades(look, count)
    assert len({one.colour for one in found}) == len(found) == count
    assert {one.marker for one in found} == {look.marker}
    lightness = [luminance(one.colour) for one in found]
    assert lightness == sorted(lightness)
    assert shades(look, 1) == (look,)


def styles(axes: object) -> dict[str, set[tuple[str, str]]]:
    """Label of a line -> its colours and markers, in a figure."""
    found: dict[str, set[tuple[str, str]]] = {}
    for line in axes.lines:  # type: ignore[attr-defined]
        if not str(line.get_label()).startswith("_"):
            found.setdefault(str(line.get_label()), set()).add((line.get_color(), line.get_marker()))
    return found


@pytest.mark.parametrize("case", ["complete", "no controls", "two runs"])
def test_an_arm_looks_the_same_in_every_figure(tmp_path: Path, case: str) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    for _, looks, plots, _ in drawn(make(tmp_path / "run", case)):
        names = {style.arm_name(arm): look for arm, look in looks.arms.items()}
        for plot in plots:
            for label, found in styles(plot.figure.axes[0]).items():
                if label in names and (label != "Dense" or plot.name.startswith("verify")):
                    seen.setdefault(f"{label} {looks.arm('ticket').colour}", set()).update(found)
                    assert {colour for colour, _ in found} == {names[label].colour}, plot.name
                    assert {marker for _, marker in found} <= {names[label].marker, "none", "None"}, plot.name
    assert seen


def test_a_study_has_one_look_per_arm_in_figures_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")
    monkeypatch.setattr(style, "svg_bytes", lambda figure: b"<svg></svg>")
    root = make_study(tmp_path / "run", replicates=1)
    ((run, looks, plots, _),) = drawn([root])
    assert run.study is not None
    names = [arm.name for arm in run.study.arms]
    assert set(looks.arms) == set(names)
    assert len({(look.colour, look.marker) for look in looks.arms.values()}) == len(names)
    for plot in plots:
        for label, found in styles(plot.figure.axes[0]).items():
            if label in looks.arms and label not in looks.families:
                assert found == {(looks.arms[label].colour, looks.arms[label].marker)}, (plot.name, label)
    drawn_rows = [line.get_color() for line in plots[0].figure.axes[0].lines if line.get_markersize() == 7]
    assert drawn_rows == [looks.arms[name].colour for name in names]
    page = write_report([root], tmp_path / "out").html.read_text()
    for name, look in looks.arms.items():
        assert page.count(f"{swatch(look)}{name.replace(' %', chr(160) + '%')}") >= 1, name


def test_a_familys_line_and_its_points_have_one_look(tmp_path: Path) -> None:
    ((_, looks, plots, _),) = drawn([make_study(tmp_path / "run")])
    against = [plot for plot in plots if plot.name in ("study-density", "study-gap-density")]
    assert len(against) == 2
    for plot in against:
        marks = {(line.get_color(), line.get_marker()) for line in plot.figure.axes[0].lines}
        families = {(look.colour, look.marker) for look in looks.families.values() if look != CONTROLS["dense"]}
        assert {mark for mark in marks if mark[1] not in ("None", "none", "")} == families, plot.name


def test_runs_of_one_page_look_different_and_controls_alike(tmp_path: Path) -> None:
    paths = [make_find(tmp_path / str(n), name=str(n), replicates=1, logs=False) for n in range(9)]
    paths.insert(2, make_study(tmp_path / "study", replicates=1))
    looks = page_looks(read_runs(paths))
    tickets = [found.arm("ticket") for at, found in enumerate(looks) if at != 2]
    arms = [look for look in looks[2].arms.values() if look != CONTROLS["dense"]]
    every = [(look.colour, look.marker) for look in (*tickets, *arms)]
    assert len(set(every)) == len(every) == 9 + 7
    for control, look in CONTROLS.items():
        assert all(found.arm(control) == look for at, found in enumerate(looks) if at != 2)


def test_every_colour_of_a_page_has_a_light_and_a_dark_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")
    root = make_find(tmp_path / "run", replicates=1, logs=False)
    page = write_report([root], tmp_path / "out").html.read_text()
    used = set(re.findall(r"var\((--f[0-9a-f]{6})\)", page))
    light, dark = re.findall(r":root \{ ((?:--f[0-9a-f]{6}: #[0-9a-f]{6}; ?)+) ?\}", page)
    for block in (light, dark):
        assert used == set(re.findall(r"(--f[0-9a-f]{6}):", block))
    body = page[page.index("<main>") :]
    assert not re.search(r"(?:fill|stroke): ?#", body), "no colour that a dark page cannot change"
    assert css_colours([swatch(Look("#0072b2"))]) == {"--f0072b2": ("#0072b2", "#5cb8f0")}
