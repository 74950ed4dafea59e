"""Which regime tickets live in, in words."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.formats import number, percent, plural
from tombola.results.regime import PlacedTicket, Threshold


def sentence(tickets: Sequence[PlacedTicket], thresholds: Sequence[Threshold], tolerance: float) -> str:
    """Every series' threshold, and how many of its tickets lie above it."""
    return " ".join(_of(one, [t for t in tickets if t.series == one.series], tolerance) for one in thresholds)


def _of(threshold: Threshold, tickets: Sequence[PlacedTicket], tolerance: float) -> str:
    name = threshold.series
    fits = f"a training error of at most {percent(tolerance)}"
    if threshold.kept is None:
        fewest = number(min(ticket.train_error for ticket in tickets) * 100, 2)
        lone = "The ticket" if len(tickets) == 1 else "Every ticket"
        return f"{lone} of {name} lies below the threshold: none has {fits} (the lowest is {fewest} %)."
    if threshold.next_kept is None:
        lone = "The ticket" if len(tickets) == 1 else "Every ticket"
        return (
            f"{lone} of {name} lies above the threshold, which is at most {number(threshold.kept, 0)} kept weights "
            f"({number(threshold.ratio or 0, 3)} n K): down to there it has {fits}."
        )
    above = sum(ticket.side == "above" for ticket in tickets)
    lie = f"{above} of {plural(len(tickets), 'ticket')} {'lies' if above == 1 else 'lie'} above it"
    return (
        f"The threshold of {name} lies between {number(threshold.kept, 0)} kept weights "
        f"({number(threshold.ratio or 0, 3)} n K), the fewest with {fits}, and {number(threshold.next_kept, 0)}; {lie}."
    )
