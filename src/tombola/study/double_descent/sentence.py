"""A curve of double descent in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tombola.formats import density, number, percent, plural
from tombola.results.double_descent import Axis, DescentPoint, Phase, peak_of, unit_of


def peak_in(points: Sequence[DescentPoint], axis: Axis, measure: str) -> float | None:
    """The size at which a measure of one series has its peak."""
    return peak_of([point.size(axis) for point in points], [getattr(point, measure) for point in points])


def sentence(kind: str, curve: Sequence[DescentPoint], axis: Axis, measure: str, threshold: float | None) -> str:
    """Where a measure of every series has its peak, how that lies to the threshold, and where it is lowest."""
    said = partial(size_in_words, axis=axis, unit=unit_of(kind, axis))
    name = measure.replace("_", " ")
    texts = []
    for series in dict.fromkeys(point.series for point in curve):
        points = [point for point in curve if point.series == series]
        of = f" of {series}" if series else ""
        texts.append(_of_series(points, f"{name[:1].upper()}{name[1:]}{of}", axis, measure, threshold, said))
    return " ".join(texts)


def _of_series(
    points: Sequence[DescentPoint],
    name: str,
    axis: Axis,
    measure: str,
    threshold: float | None,
    said: Callable[[float], str],
) -> str:
    peak = peak_in(points, axis, measure)
    if peak is None:
        text = f"{name} has no peak inside the curve"
    else:
        text = f"{name} has its peak at {said(peak)}"
        if threshold:
            text += f", {number(peak / threshold, 2)} times the threshold of {said(threshold)}"
    known = [(value, point.size(axis)) for point in points if (value := getattr(point, measure)) is not None]
    if not known:
        return f"{name} is not a finite number at any size."
    text += f"; it is lowest at {said(min(known)[1])}"
    diverged = sum(None in point.values.get(measure, ()) for point in points)
    if diverged:
        text += f"; it is not a finite number in every replicate at {diverged} of {plural(len(points), 'size')}"
    return f"{text}."


def phases_in_words(series: str, phases: Sequence[Phase]) -> str:
    """Where every phase of a series lies; "" without phases."""
    told = "; ".join(f"{phase.name} {_stretch(phase)}" for phase in phases)
    return f"Phases of {series}: {told}." if told else ""


def unfitted_in_words(points: Sequence[DescentPoint], tolerance: float) -> str:
    """That the dense network, the first of the points, does not fit the training labels; "" where it does."""
    error = points[0].train_error
    if error is None or error <= tolerance:
        return ""
    return (
        f"The dense network has a training error of {percent(error)}, so that there is no threshold: sparse double "
        "descent begins with a network that fits every label. Train longer, or on fewer examples."
    )


def _stretch(phase: Phase) -> str:
    if phase.densest is None or phase.sparsest is None:
        return "not seen"
    ends = dict.fromkeys((density(phase.densest), density(phase.sparsest)))
    return " to ".join(ends)


def size_in_words(size: float, axis: Axis, unit: tuple[str, str]) -> str:
    """A size with its unit (one, several): "1,294 features", "1 leaf", "5.00 % of the weights"."""
    shown = density(size) if axis == "density" else number(size, 0)
    return f"{shown} {unit[round(size) != 1]}"
