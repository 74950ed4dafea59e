"""When a ticket of channels was drawn, in words."""

from __future__ import annotations

from collections.abc import Iterator

from tombola import formats
from tombola.results.search import Replicate, SearchResult
from tombola.results.trial import MaskHistory


def drawn_lines(result: SearchResult) -> list[str]:
    """A line per replicate that drew channels, and one per further density that was watched; mostly none."""
    several = len(result.replicates) > 1
    return [
        f"replicate {replicate.replicate}: {line}" if several else line
        for replicate in result.replicates
        for line in _of(replicate)
    ]


def _of(replicate: Replicate) -> Iterator[str]:
    histories = [h for level in replicate.levels for h in level.mask_histories or () if h.unit == "channels"]
    channels = replicate.levels[-1].channels
    if not histories or channels is None or channels.drawn is None:
        return
    own, *watched = histories
    yield f"channels: {channels.kept:,} of {channels.total:,} kept; {_drawn(own, channels.drawn)}"
    for history in watched:
        assert history.density is not None
        yield f"at {formats.density(history.density)} of the channels a ticket {_when(history)}"


def _drawn(history: MaskHistory, drawn: int) -> str:
    if history.emerged == drawn:
        return f"ticket {_when(history)}"
    at = f"drawn at {_epoch(history, drawn)}"
    return f"ticket {at}" if drawn != history.planned else f"ticket {_when(history)}, {at}"


def _when(history: MaskHistory) -> str:
    if history.emerged is not None:
        return f"emerged at {_epoch(history, history.emerged)}"
    last = next((value for value in reversed(history.signal or ()) if value is not None), None)
    why = "" if last is None or history.threshold is None else f" ({last:.3g}, to fall below {history.threshold:.3g})"
    return f"did not emerge{why}"


def _epoch(history: MaskHistory, step: int) -> str:
    """Masks are read once an epoch."""
    every = history.steps[1] - history.steps[0] if len(history.steps) > 1 else 0
    if not every or history.planned is None:
        return f"iteration {step:,}"
    return f"epoch {step / every:g} of {history.planned / every:g}"
