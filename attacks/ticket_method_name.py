"""A ticket whose method, model and data have names that are paths, escape sequences, or thousands of characters long.

A verification's directory is called after the ticket's method, and the verdict's table and page show its names. In a
directory's name everything but letters, digits, dots, dashes and underscores becomes an underscore, and it is cut; a
name that is not printable is none.
"""

from __future__ import annotations

from pathlib import Path

import _hostile

NAMES = ("../../evil", "/etc/evil", "..", "a\0b", "a\nb", "\x1b]0;owned\x07", "x" * 5000, "[bold]x[/bold]", "\u202egnp")


def attack(folder: Path) -> None:
    inside = folder / "a" / "b" / "runs"
    for name in NAMES:
        ticket = _hostile.ticket(method={"name": name}, model={"name": name})
        assert "\x1b" not in repr(ticket), "escape sequences in repr(ticket)"
        assert "\n" not in repr(ticket), "lines in repr(ticket)"
        if name not in ("../../evil", "a\nb"):  # a verification takes half a second
            continue
        result = _hostile.verified(ticket, inside)
        run = Path(result.run or "")
        assert run.parent == inside, f"the run lies in {run}"
        assert run.name.isprintable(), "a directory's name that is not printable"
        assert result.sentence.isprintable(), "a sentence that is not printable"
    outside = [path for path in folder.rglob("*") if not path.is_relative_to(folder / "a")]
    assert not outside, f"written outside: {outside}"
