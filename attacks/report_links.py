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
    plain = folder / "plain"
    report_html.make(plain, "x")
    names = [path.relative_to(plain) for path in write_report([plain], plain).figures]
    assert names, "the report has no figure to be attacked"
    places = ["report.html", "report.html.part", "figures/.tombola.json", *map(str, names[:2])]
    for index, place in enumerate([*places, "figures"]):
        root = folder / f"run-{index}"
        report_html.make(root, "x")
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).symlink_to(outside if place == "figures" else precious)
        _fuzz.one_line(lambda root=root: write_report([root], root))
        assert precious.read_text() == "as it was", f"written through the link {place}"
        assert list(outside.iterdir()) == [precious], f"written through the link {place}"
