"""A curve of double descent in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.formats import density, number
from tombola.results.double_descent import Axis, DescentPoint, Phase


def sentence(
    points: Sequence[DescentPoint], axis: Axis, measure: str, peak: float | None, threshold: float | None
) -> str:
    """Where a measure has its peak, how that lies to the threshold, and where the measure is lowest."""
    name = measure.replace("_", " ").capitalize()
    if peak is None:
        text = f"{name} has no peak inside the curve"
    elif threshold is None:
        text = f"{name} has its peak at {size_in_words(peak, axis)}"
    else:
        text = (
            f"{name} has its peak at {size_in_words(peak, axis)}, {number(peak / threshold, 2)} times the threshold "
            f"of {size_in_words(threshold, axis)}"
        )
    known = [(value, point.size(axis)) for point in points if (value := getattr(point, measure)) is not None]
    return f"{text}; it is lowest at {size_in_words(min(known)[1], axis)}." if known else f"{text}."


def phases_in_words(phases: Sequence[Phase]) -> str:
    """Where every phase lies: "Light: 100.00 % to 4.75 %; critical: not seen."; "" without phases."""
    told = "; ".join(f"{phase.name}: {_stretch(phase)}" for phase in phases)
    return f"{told[:1].upper()}{told[1:]}." if told else ""


def _stretch(phase: Phase) -> str:
    if phase.densest is None or phase.sparsest is None:
        return "not seen"
    ends = dict.fromkeys((density(phase.densest), density(phase.sparsest)))
    return " to ".join(ends)


def size_in_words(size: float, axis: Axis) -> str:
    """A size with its unit: "1,294 features", "5.00 %"."""
    return density(size) if axis == "density" else f"{number(size, 0)} {axis}"
