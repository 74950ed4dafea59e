"""A paper's claims beside what was found here: each with its values, its interval and its verdict."""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

from tombola.results.record import Count, Figure, Record

AGREES: Final = "agrees"
DIFFERS: Final = "differs"
UNDECIDED: Final = "not decidable at this length"
NOT_COMPARABLE: Final = "not comparable at this length"
ClaimVerdict = Literal["agrees", "differs", "not decidable at this length", "not comparable at this length"]


class ReproducedRun(Record, frozen=True, kw_only=True):
    """One command of a reproduction: the runs that it wrote, one for each repeat, and what they were made of."""

    name: str
    command: str
    runs: tuple[str, ...]
    model: str | None
    data: str | None
    replicates: Count


class Finding(Record, frozen=True, kw_only=True):
    """One claim of a paper, and what was found.

    `own` and `other`: the values over replicates of what the claim is of, and of what it is compared with (None: a
    claim of one value); `paired`: replicate i of both shares its seed and first weights. `found`: their difference,
    their `ratio`, or the value itself, with its 95 % interval. `rule`: when they agree. `unit`: accuracy, ...
    """

    what: str
    published: str
    measured: str
    rule: str
    unit: str
    own: tuple[float | None, ...]
    other: tuple[float | None, ...] | None
    paired: bool
    ratio: bool
    found: Figure
    verdict: ClaimVerdict


class ReproductionResult(Record, frozen=True, kw_only=True, tag_field="kind", tag="reproduction"):
    """What `reproduce` gave. `form`: quick or full; `shortened`: trained for less than that form says."""

    name: str
    title: str
    paper: str
    claimed: str
    form: Literal["quick", "full"]
    shortened: bool
    seed: int
    commands: tuple[ReproducedRun, ...]
    findings: tuple[Finding, ...]
    run: str | None = None
    reused: bool | None = None

    @property
    def sentence(self) -> str:
        """How many claims agree, differ and stay open."""
        counts = Counter[str](finding.verdict for finding in self.findings)
        words = {AGREES: "agree", DIFFERS: "differ"}
        order = (AGREES, DIFFERS, UNDECIDED, NOT_COMPARABLE)
        found = [(counts[verdict], verdict) for verdict in order if counts[verdict]]
        parts = [f"{count} {verdict if count == 1 else words.get(verdict, verdict)}" for count, verdict in found]
        form = f"{self.form} form{', shortened' if self.shortened else ''}"
        return f"Of {len(self.findings)} claims, {', '.join(parts)} ({form})."
