"""Links within the documentation: the file is there, and the heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pages import ROOT, Fault

_LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]*))?\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def faults(root: Path = ROOT) -> Iterator[Fault]:
    """Links of all pages that lead nowhere."""
    for page in sorted([*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("attacks/*.md")]):
        for file, heading in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
            target = page.parent / file if file else page
            link = f"{file}#{heading}" if heading else file
            if not target.exists():
                yield Fault(str(page.relative_to(root)), f"link {link}: there is no such file")
            elif heading and heading not in anchors(target):
                yield Fault(str(page.relative_to(root)), f"link {link}: there is no such heading")


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub writes them in links."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(text)}
