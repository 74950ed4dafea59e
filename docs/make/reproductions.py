"""docs/reproductions.md, the whole page: the papers' claims beside the committed results of the quick forms."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from textwrap import fill

from pages import ROOT, Fault, Table
from results import RESULTS
from tombola.formats import MISSING
from tombola.report.reproduction_tables import found_in_words
from tombola.results.codec import typed
from tombola.results.reproduction import Finding, ReproductionResult
from tombola.study.reproduce.definition import Claim, names, read_reproduction
from tombola.study.reproduce.reading import Sample
from tombola.study.reproduce.run import judged

PAGE = "docs/reproductions.md"
FOLDER = RESULTS / "reproductions"
NOT_RUN = "not yet run"
_YEAR = re.compile(r"(?<=\d{4})[, ]")
"""What follows the authors and the year."""

HEAD = """# Papers reproduced

`tombola reproduce` puts what papers claim beside what Tombola finds. This page is written by `make docs-figures` from
the committed results of the **quick forms**: small networks, short trainings, a few seeds, minutes on two cores. A
quick form can show a direction; it cannot show a published number, and where a paper's network or data are others, it
tries the claim elsewhere. `--full` runs the papers' own settings; none of those was run here.

The verdicts follow one rule. A claim *agrees* where the 95 % t-interval of the difference, over training seeds, lies on
the claimed side, *differs* where it lies on the other, and is *not decidable at this length* otherwise. Where two
things are said to be equal, the interval must lie within a margin. Published numbers are *not comparable at this
length*. Intervals are each on their own: of twenty differences that are none, one is expected to look decided.
"""


@cache
def committed(name: str) -> tuple[str, ReproductionResult] | None:
    """The day and the record of a reproduction's quick form; None where none is committed."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return content["date"], typed(ReproductionResult, content["result"], file)


def findings(name: str, result: ReproductionResult) -> Iterator[tuple[Claim, Finding | None]]:
    """Every claim of the file as it is now, judged by the committed values; None where these hold none for it."""
    values = {one.measured: one for one in result.findings}
    for claim in read_reproduction(name).claims_in(result.form):
        old = values.get(claim.measured) or values.get(claim.located)
        yield claim, None if old is None else again(claim, old, whole=result.form == "full" and not result.shortened)


def again(claim: Claim, old: Finding, *, whole: bool) -> Finding:
    """The verdict on committed values."""
    origins = tuple(map(str, range(len(old.own))))
    own = Sample(old.own, origins)
    other = None if old.other is None else Sample(old.other, origins if old.paired else (None,) * len(old.other))
    return judged(claim, own, other, whole=whole)


# ---- the page --------------------------------------------------------------------------------------------------------


def text() -> str:
    parts = [HEAD, overview().markdown()]
    for name in names():
        parts += section(name)
    return "\n".join(parts)


def overview() -> Table:
    rows = [("reproduction", "paper", "claims", "agree", "differ", "not decidable", "not comparable")]
    for name in names():
        given, paper = committed(name), _YEAR.split(read_reproduction(name).paper)[0].rstrip(", ")
        if given is None:
            rows.append((f"`{name}`", paper, str(len(read_reproduction(name).claims_in("quick"))), NOT_RUN, "", "", ""))
            continue
        verdicts = [one.verdict for _, one in findings(name, given[1]) if one is not None]
        counts = (verdicts.count(verdict) for verdict in ORDER)
        rows.append((f"`{name}`", paper, str(len(verdicts)), *(str(count) if count else "" for count in counts)))
    return Table("reproductions", rows)


ORDER = ("agrees", "differs", "not decidable at this length", "not comparable at this length")


def section(name: str) -> Iterator[str]:
    reproduction, given = read_reproduction(name), committed(name)
    yield f"## {reproduction.title}\n"
    yield fill(f"{reproduction.paper}. {reproduction.claimed}", 118) + "\n"
    if given is None:
        yield f"Not yet run: `tombola reproduce {name}`.\n"
        return
    date, result = given
    yield f"`tombola reproduce {name}`, {date}, seed {result.seed}:\n"
    for run in result.commands:
        where = f"{run.model} on {run.data}" if run.model else run.data
        yield f"- {where}, {run.replicates} replicates: `{_shown(run.command)}`"
    yield ""
    rows = [("claim", "published", "ours", "verdict")]
    for claim, one in findings(name, result):
        assert one is not None, (name, claim.what)
        rows.append((f"{claim.what} ({one.measured})", claim.published, found_in_words(one) or MISSING, one.verdict))
    yield Table(name, rows).markdown()


def faults(write: Callable[[Path, str], None]) -> list[Fault]:
    """What the page says that the results do not; it is given to `write` where it changes."""
    known = set(names())
    found = [
        Fault(PAGE, f"{file.name} is of no reproduction") for file in FOLDER.glob("*.json") if file.stem not in known
    ]
    for name in names():
        given = committed(name)
        for claim, one in findings(name, given[1]) if given is not None else ():
            if one is None:
                found.append(Fault(PAGE, f"{name} has no values for {claim.what!r}; run it again and collect it"))
    if found:
        return found
    path = ROOT / PAGE
    if not path.exists() or path.read_text(encoding="utf-8") != text():
        write(path, text())
        return [Fault(PAGE, "is not what the results give", fixable=True)]
    return []


def _shown(command: str) -> str:
    """A command as a reader can give it; of a study that stands in the reproduction's own file its options alone."""
    _, verb, name, *options = shlex.split(command)
    return shlex.join(options) if verb == "study" and name.endswith(".yaml") else command
