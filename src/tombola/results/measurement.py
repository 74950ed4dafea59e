"""What the studies that compare no arms have in common: a sentence, a note, replicates, and a name for the page."""

from __future__ import annotations

from tombola.results.record import Count, Record


class Measurement(Record, frozen=True, kw_only=True):
    """The result of a study that measures something, instead of comparing arms.

    `model`: the network's name, where it is of one; `intervals`: what intervals are given, in words; `note`: what must
    be said beside it. `run`, `reused`: of a run on disk, its directory and whether it was found finished.
    """

    data: str
    model: str | None
    replicates: Count
    sentence: str
    intervals: str = ""
    note: str = ""
    run: str | None = None
    reused: bool | None = None

    @property
    def subtitle(self) -> str:
        """One line on what was measured."""
        return " · ".join(part for part in (self.model, self.data) if part)
