"""A curve of double descent in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from tombola.formats import density, number, plural
from tombola.results.double_descent import Axis, DescentPoint, Phase, peak_of


def peak_in(points: Sequence[DescentPoint], axis: Axis, measure: str) -> float | None:
    """The size at which a measure of one series has its peak."""
    return peak_of([point.size(axis) for point in points], [getattr(point, measure) for point in points])


def sentence(curve: Sequence[DescentPoint], axis: Axis, measure: str, threshold: float | None) -> str:
    """Where a measure of every series has its peak, how that lies to the threshold, and where it is lowest."""
    name = measure.replace("_", " ")
    texts = []
    for series in dict.fromkeys(point.series for point in curve):
        points = [point for point in curve if point.series == series]
        of = f" of {series}" if series else ""
        texts.append(_of_series(points, f"{name}{of}".capitalize(), axis, measure, threshold))
    return " ".join(texts)


def _of_series(points: Sequence[DescentPoint], name: str, axis: Axis, measure: str, threshold: float | None) -> str:
    peak = peak_in(points, axis, measure)
    if peak is None:
        text = f"{name} has no peak inside the curve"
    else:
        text = f"{name} has its peak at {size_in_words(peak, axis)}"
        if threshold:
            text += f", {number(peak / threshold, 2)} times the threshold of {size_in_words(threshold, axis)}"
    known = [(value, point.size(axis)) for point in points if (value := getattr(point, measure)) is not None]
    if not known:
        return f"{name} is not a finite number at any size."
    text += f"; it is lowest at {size_in_words(min(known)[1], axis)}"
    diverged = sum(None in point.values.get(measure, ()) for point in points)
    if diverged:
        text += f"; it is not a finite number in every replicate at {diverged} of {plural(len(points), 'size')}"
    return f"{text}."


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
    return density(size) if axis == "density" else plural(round(size), axis.removesuffix("s"))
