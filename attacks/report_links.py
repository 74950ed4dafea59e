"""A run that was sent holds links in the places where `tombola report` writes: figures, the page, its unfinished part.

Files are written beside and renamed, so that a link is replaced and not followed; a folder of figures that is a link to
elsewhere is refused.
"""

from __future__ import annotations

from pathlib import Path

import _fuzz
import report_html
from tombola.report.page import write_report


def attack(folder: Path) -> None:
    outside = folder / "outside"
    outside.mkdir()
    precious = outside / "precious.txt"
    precious.write_text("as it was")
    root = folder / "run"
    report_html.make(root, "x")
    figures = write_report([root, report_html.proof_of(root)], root).figures
    assert figures, "the report has no figure to be attacked"
    for place in (root / "report.html", root / "report.html.part", root / "figures" / ".tombola.json", *figures):
        place.unlink(missing_ok=True)
        place.symlink_to(precious)
    _fuzz.one_line(lambda: write_report([root, report_html.proof_of(root)], root))
    other = folder / "other"
    report_html.make(other, "x")
    (other / "figures").symlink_to(outside)
    _fuzz.one_line(lambda: write_report([other], other))
    assert precious.read_text() == "as it was", "written through a link"
    assert list(outside.iterdir()) == [precious], "written into a folder behind a link"
