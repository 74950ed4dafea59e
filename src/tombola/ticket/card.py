"""A model card written from a ticket: what it keeps, what it takes, whether it won, how it is used."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError
from tombola.formats import BITS, MISSING, Unit, count, number
from tombola.results.codec import read
from tombola.results.verification import VerificationResult
from tombola.runs.integrity import RUN, read_record
from tombola.runs.stage import RESULT
from tombola.ticket import table
from tombola.ticket.ticket import Ticket
from tombola.ticket.ticket_data import TicketData

_HEAD = """---
library_name: tombola
tags:
- tombola
- pruning
- sparsity
- lottery-ticket
---
"""
_LONGEST = 500
"""Characters of a text from a ticket's provenance."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
"""What Markdown and HTML read as more than a character."""


def card(
    ticket: Ticket,
    *,
    files: Mapping[str, int],
    repo_id: str | None = None,
    verdict: Any = None,
    milliseconds: Mapping[str, float] | None = None,
    machine: str | None = None,
) -> str:
    """The text of README.md, Markdown with the Hub's header.

    Args:
        ticket: what the card is of.
        files: name -> bytes of the files beside the card; the first one is the ticket's.
        repo_id: the repository, for the lines that show how the ticket is loaded.
        verdict: what `tombola.verify` gave, the folder of its run as a path, or a sentence; None: what the provenance
            has under "verdict", or that there is none.
        milliseconds: what was timed -> ms, e.g. {"dense, batch 64": 56.3, "deployed, batch 64": 15.2}.
        machine: where that was measured: processor and threads.

    Raises:
        TombolaError: milliseconds without the machine, or a machine without milliseconds; a folder without a
            verification of this ticket.
    """
    if bool(milliseconds) != bool(machine):
        raise TombolaError("give milliseconds and machine together: a time says nothing without the processor")
    if isinstance(verdict, os.PathLike):
        verdict = verified(Path(verdict), ticket)
    provenance, name = ticket.provenance, _network(ticket)
    zeros = "; all others are 0" if ticket.prunes_to_zero else ""
    parts = [
        _HEAD,
        f"# A ticket of {name}",
        f"This ticket keeps {table.describe_density(ticket)} of {name}{_found(provenance)}{zeros}.",
        "## Verdict",
        _verdict(provenance, verdict),
        *_claims(verdict),
        "## Size",
        _size(ticket, files),
    ]
    if milliseconds and machine:
        rows = [(_plain(what), number(value, 2)) for what, value in milliseconds.items()]
        parts += ["## Speed", _table(("", "ms"), rows), f"Measured on {_plain(machine)}."]
    return "\n\n".join([*parts, "## Use", _use(ticket, next(iter(files)), repo_id), *_made(provenance)]) + "\n"


def _network(ticket: TicketData) -> str:
    network = ticket.origin.network
    return "a network" if network is None else _plain(network.name)


def _found(provenance: Mapping[str, Any]) -> str:
    method, data = _name(provenance.get("method")), _name(provenance.get("data"))
    return "".join([f", found by {method}" if method else "", f" on {data}" if data else ""])


def _name(part: object) -> str | None:
    name = part.get("name") if isinstance(part, Mapping) else part
    return _plain(name) if isinstance(name, str) and name else None


def _verdict(provenance: Mapping[str, Any], given: Any) -> str:
    said = getattr(given, "sentence", given) or provenance.get("verdict")
    if isinstance(said, Mapping):
        said = said.get("sentence")
    if isinstance(said, str) and said:
        return _plain(said)
    return "None: this ticket was not held against controls on fresh seeds (`tombola verify`)."


def verified(folder: Path, ticket: Ticket) -> VerificationResult:
    """What the run of `tombola.verify` in a folder found.

    Raises:
        TombolaError: it holds no finished verification, or one of another ticket.
    """
    found, begun = read(VerificationResult, folder / RESULT), read_record(folder / RUN)
    if found is None or begun is None:
        raise TombolaError(f"{folder} holds no finished verification; give the folder that verify named at its end")
    if begun["config"].get("ticket") != ticket.digest:
        raise TombolaError(f"the verification in {folder} is of another ticket; give the one of this ticket's own run")
    return found


def _claims(given: Any) -> list[str]:
    """Each claim of a verification with its interval."""
    claims, unit = getattr(given, "comparisons", {}), Unit(getattr(given, "metric", ""))
    rows = [
        (
            _plain(one.claim or name),
            f"{unit.difference(one.difference)}{unit.points}",
            MISSING if one.interval is None else " to ".join(map(unit.difference, one.interval)) + unit.points,
            _plain(one.verdict),
        )
        for name, one in claims.items()
    ]
    return [_table(("ticket minus control", "difference", "95 % interval", "verdict"), rows)] if rows else []


def _size(ticket: Ticket, files: Mapping[str, int]) -> str:
    held = table.info(table.file_summary(ticket))
    rows = [(f"`{_plain(name)}`", count(size)) for name, size in files.items()]
    rows.append(("what the ticket's content must take", count(held["bound_bytes"])))
    rows.append(("all of its masked weights in float32", count(4 * ticket.mask.total)))
    bits = f"The masked layers take {BITS.bare(held['bits_per_weight'])} bits per weight."
    return f"{_table(('', 'bytes'), rows)}\n\n{bits}"


def _use(ticket: TicketData, file: str, repo_id: str | None) -> str:
    load = f"tb.Ticket.from_hub({repo_id!r}, {file!r})" if repo_id else f"tb.Ticket.load({file!r})"
    own = ticket.origin.network is None or "." in ticket.origin.network.name
    build = "ticket.build(model=network)  # a network of that architecture" if own else "ticket.build()"
    return f"```python\nimport tombola as tb\n\nticket = {load}\nmodel = {build}\n```"


def _made(provenance: Mapping[str, Any]) -> list[str]:
    """The method's options, the seed and the versions, as far as they are recorded."""
    method, versions = provenance.get("method"), provenance.get("versions")
    rows = [(key, value) for key, value in method.items() if key != "name"] if isinstance(method, Mapping) else []
    rows += [("seed", provenance["seed"])] if "seed" in provenance else []
    rows += [("values", provenance["values"])] if "values" in provenance else []
    rows += list(versions.items()) if isinstance(versions, Mapping) else []
    told = [(_plain(key), _plain(value)) for key, value in rows if value not in (None, [], {})]
    return ["## How it was made", _table(("", ""), told)] if told else []


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _plain(value: object) -> str:
    """A value from a file on one line, without meaning for Markdown or HTML."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return _SPECIAL.sub(r"\\\1", cut)
