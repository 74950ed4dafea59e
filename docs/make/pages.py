"""Tables and numbers in the pages: where they stand, what they should say, and putting them right.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. A claim is a sentence, or part of one, with places
for its numbers: the page holds it as it is read, with no marks in it, and it is found by its words. So the words and
the numbers are changed in two places, the page and the claim; a claim that is not found, or found twice, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

Cells = Sequence[Sequence[str]]
_TABLE = re.compile(r"<!-- table: (?P<name>[\w/-]+) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)
_TABLE_NAME = re.compile(r"<!-- table: ([\w/-]+) -->")
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Table:
    """The first row is the head."""

    name: str
    cells: Cells

    def markdown(self) -> str:
        head, *rest = (f"| {' | '.join(row)} |" for row in self.cells)
        return "\n".join((head, "|" + "---|" * len(self.cells[0]), *rest)) + "\n"


@dataclass(frozen=True)
class Claim:
    """What a page says: `text` with {places}, the `numbers` that go there, and whether the words `hold`."""

    page: str
    text: str
    numbers: Mapping[str, str]
    holds: bool = True

    @property
    def places(self) -> list[str]:
        return _PLACE.findall(self.text)

    def pattern(self) -> re.Pattern[str]:
        """The sentence with anything that looks like a number in its places, however its lines are broken."""
        words, parts = _PLACE.split(self.text), []
        for index, word in enumerate(words):
            if not index % 2:
                parts.append(r"\s+".join(map(re.escape, re.split(r"\s+", word))))
            elif not words[index - 1]:  # it begins with a number
                parts.append(r"(?<![^\s(|*])(\S{1,40})")
            else:
                parts.append(r"([^|\s](?:[^|\n]{0,40}?[^|\s])??)" if words[index + 1] else r"(\S{1,40})")
        return re.compile("".join(parts))


@dataclass(frozen=True)
class Fault:
    """Something in a page that the results do not say."""

    page: str
    what: str
    fixable: bool = False
    """Whether writing the page anew puts it right."""

    def __str__(self) -> str:
        return f"{self.page}: {self.what}"


def with_tables(text: str, page: str, tables: Mapping[str, Table]) -> tuple[str, list[Fault]]:
    """The page with its tables as they should be, and the tables that were not."""
    faults: list[Fault] = []

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in tables:
            faults.append(Fault(page, f"there is no table {name!r}"))
            return found.group()
        wanted = tables[name].markdown()
        if found["body"] != wanted:
            faults.append(Fault(page, f"table {name!r} is not what the results give", fixable=True))
        return f"<!-- table: {name} -->\n{wanted}<!-- end -->"

    return _TABLE.sub(fill, text), faults


def with_claim(text: str, claim: Claim) -> tuple[str, list[Fault]]:
    """The page with the claim's numbers as they should be, and what was wrong."""
    if set(claim.places) != set(claim.numbers):
        return text, [Fault(claim.page, f"{claim.text!r} has places {claim.places}, numbers {list(claim.numbers)}")]
    if not claim.holds:
        return text, [Fault(claim.page, f"the results do not bear this out: {claim.text!r}")]
    found = list(claim.pattern().finditer(text))
    if len(found) != 1:
        return text, [Fault(claim.page, f"found {len(found)} times instead of once: {claim.text!r}")]
    faults = []
    for index in reversed(range(len(claim.places))):
        wanted, here = claim.numbers[claim.places[index]], found[0].span(index + 1)
        shown = text[here[0] : here[1]]
        if shown != wanted:
            faults.append(Fault(claim.page, f"{shown!r} should be {wanted!r} in {claim.text!r}", fixable=True))
            text = text[: here[0]] + wanted + text[here[1] :]
    return text, faults


def put_right(
    tables: Mapping[str, Table], claims: Sequence[Claim], pages: Sequence[str], write: Callable[[Path, str], None]
) -> list[Fault]:
    """Check every page, and `write` those that change."""
    faults: list[Fault] = []
    for page in pages:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        text, found = with_tables(before, page, tables)
        faults += found
        for claim in claims:
            if claim.page == page:
                text, found = with_claim(text, claim)
                faults += found
        if text != before:
            write(path, text)
    shown = {name for page in pages for name in _TABLE_NAME.findall((ROOT / page).read_text(encoding="utf-8"))}
    return faults + [Fault("docs", f"table {name!r} stands in no page") for name in tables if name not in shown]


# ---- which numbers of a page stand in no table and no claim ------------------------------------------------------

_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\([^)]*\)|\b\d{4}\.\d{5}\b")  # arXiv numbers too
_FIGURE = re.compile(r"(?<![\w.-])[+−-]?\d[\d,]*\.\d+(?:e-?\d+)?(?![\w])|± ?\d")


RESULTS_FROM = {"docs/supermasks.md": "## Results: MNIST", "docs/multi-prize.md": "## Results: MNIST"}
"""Pages that explain methods first -> where their results begin."""


def loose_numbers(text: str, page: str, claims: Sequence[Claim]) -> Iterator[str]:
    """Decimal fractions in the page's prose that nobody checks, with their lines; where it shows results."""
    start = text.index(RESULTS_FROM[page]) if page in RESULTS_FROM else 0
    spans = [m.span() for pattern in (_FENCE, _CODE, _LINK, _TABLE) for m in pattern.finditer(text)]
    for claim in claims:
        if claim.page == page:
            spans += [m.span() for m in claim.pattern().finditer(text)]
    for found in _FIGURE.finditer(text):
        if found.start() >= start and not any(low <= found.start() < high for low, high in spans):
            line = text.count("\n", 0, found.start()) + 1
            yield f"{page}:{line}: {found.group()}"
