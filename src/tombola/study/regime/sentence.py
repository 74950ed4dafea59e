"""Which regime tickets live in, in words."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from tombola.formats import number, percent, plural
from tombola.results.regime import PlacedTicket, Threshold

_NAMED = 2
"""As many searches without a ticket above the threshold are named, more are counted."""


def sentence(tickets: Sequence[PlacedTicket], thresholds: Sequence[Threshold], tolerance: float) -> str:
    """Every series' threshold, and how many of its tickets lie above it; those without one in one sentence."""
    above = {ticket.series for ticket in tickets if ticket.side == "above"}
    below = [one.series for one in thresholds if one.series not in above]
    told = [one for one in thresholds if one.series in above] if len(below) > 1 else thresholds
    texts = [_of(one, [t for t in tickets if t.series == one.series], tolerance) for one in told]
    if len(below) > 1:
        error = min(ticket.train_error for ticket in tickets if ticket.series in below)
        whose = f"{', '.join(below[:-1])} and {below[-1]}" if len(below) <= _NAMED else f"{len(below)} searches"
        texts.append(
            f"Every ticket of {whose} lies below the threshold: none has a training error of at most "
            f"{percent(tolerance)} (the lowest is {percent(error)})."
        )
    return " ".join(texts)


def _of(threshold: Threshold, tickets: Sequence[PlacedTicket], tolerance: float) -> str:
    name = threshold.series
    fits = f"a training error of at most {percent(tolerance)}"
    above = [ticket for ticket in tickets if ticket.side == "above"]
    lie = f"{len(above)} of {plural(len(tickets), 'ticket')} {'lies' if len(above) == 1 else 'lie'} above it"
    if threshold.kept is None and above:
        densest = max(tickets, key=lambda ticket: ticket.kept)
        error = fmean(ticket.train_error for ticket in tickets if ticket.kept == densest.kept)
        return (
            f"The threshold of {name} is not found: the densest tickets, of {number(densest.kept, 0)} kept weights, "
            f"have a training error of {percent(error)}, and sparser ones at most {percent(tolerance)}, down to "
            f"{number(min(ticket.kept for ticket in above), 0)} kept weights; {lie}."
        )
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
    again = sorted({ticket.kept for ticket in above if ticket.kept < threshold.kept}, reverse=True)
    if again:
        lie += f", with those of {', '.join(number(kept, 0) for kept in again)}, which fit again"
    return (
        f"The threshold of {name} lies between {number(threshold.kept, 0)} kept weights "
        f"({number(threshold.ratio or 0, 3)} n K), the fewest with {fits}, and {number(threshold.next_kept, 0)}; {lie}."
    )
