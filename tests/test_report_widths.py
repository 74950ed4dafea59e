"""The page in a browser, at the widths of a phone, a tablet, a laptop and a large screen."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from report_runs import make_find, make_verified
from test_report_study import make_study
from tombola.report import style
from tombola.report.page import write_report

WIDTHS = (390, 768, 1280, 1920)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A window has a least width, also without a screen: every width is a frame of that many pixels.
PROBE = """<script>addEventListener("load", () => {
const page = document.scrollingElement, wide = e => e.scrollWidth > e.clientWidth + 1;
const shown = [...document.querySelectorAll("figure, .key div, h1, h2, h3, p, li, .command")].filter(wide);
const tables = [...document.querySelectorAll("div.numbers .scroll")].filter(wide);
parent.document.body.dataset["w" + innerWidth] = JSON.stringify({
    page: page.scrollWidth, cut: shown.map(e => e.textContent.slice(0, 60)), tables: tables.map(e => e.ariaLabel)}); });
</script>"""


def chromium(url: str, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    base = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    base += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    base += ["--no-first-run", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    return subprocess.run([*base, *flags, url], capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a verified search with controls, of a study of many arms, and of a run that has just begun."""
    folder = tmp_path_factory.mktemp("runs")
    search = make_verified(make_find(folder / "lenet-300-100-imp-mnist", levels=range(16), logs=False), replicates=3)
    begun = folder / "begun"
    begun.mkdir()
    (begun / "run.json").write_text(json.dumps({"kind": "find", "name": "x" * 200, "command": "tombola find " * 20}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "pdf_bytes", lambda figure: b"%PDF")
        study = make_study(folder / "study", replicates=3)
        return write_report([*search, study, begun], folder / "out").html


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_fits_every_width(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, text)
    frame = tmp_path / "frame.html"
    frames = (
        f'<iframe width="{w}" height="900" style="border:0" srcdoc="{html.escape(text)}"></iframe>' for w in WIDTHS
    )
    frame.write_text(f"<body>{''.join(frames)}")
    done = chromium(frame.as_uri(), tmp_path / "profile", "--dump-dom", "--window-size=2000,1000")
    assert "CONSOLE" not in done.stderr
    for width in WIDTHS:
        found = re.search(rf'data-w{width}="([^"]*)"', done.stdout)
        assert found is not None, done.stdout[:300]
        probed = json.loads(html.unescape(found[1]))
        assert probed["page"] <= width, f"the page scrolls sideways at {width} px"
        assert not probed["cut"], f"cut off at {width} px"
        if width >= 1280:
            assert not probed["tables"], f"columns are clipped at {width} px"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_makes_no_errors(page: Path, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    done = chromium(page.as_uri(), tmp_path / "profile", "--window-size=1280,1600", f"--screenshot={shot}")
    assert "CONSOLE" not in done.stderr
    assert shot.stat().st_size > 20_000
