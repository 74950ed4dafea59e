"""What a study's intervals cover, in words."""

from __future__ import annotations

from tombola.results.statistics import FEWEST_REPLICATES


def intervals_in_words(replicates: int, more: str = "") -> str:
    """Which intervals so many replicates give, with `more` said of them; that there are none with too few."""
    if replicates >= FEWEST_REPLICATES:
        return f"95 % t-intervals over {replicates} replicates{more}"
    there = "is" if replicates == 1 else "are"
    return f"no intervals: they need at least {FEWEST_REPLICATES} replicates, and there {there} {replicates}"
