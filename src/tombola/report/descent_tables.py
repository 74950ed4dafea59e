"""The table and the key numbers of a curve of double descent."""

from __future__ import annotations

from tombola.formats import MISSING, Unit, count, density, number, significant
from tombola.report.numbers import Number
from tombola.report.plot import sentences
from tombola.report.tables import Row, Table
from tombola.results.double_descent import Axis, DescentPoint, DescentResult
from tombola.results.record import Figure

_ERROR = Unit("accuracy")
"""Errors are printed as accuracies are: shares in percent."""
HEADS = {
    "train_loss": "Training loss",
    "test_loss": "Test loss",
    "train_error": "Training error",
    "test_error": "Test error",
    "norm": "Norm",
    "memorised": "Wrong labels given",
    "distance": "Distance",
}
NOTHING = 1e-9
"""A training loss below it is 0 but for rounding."""
SIZES: dict[Axis, str] = {"features": "Features", "parameters": "Parameters", "density": "Weights kept"}


def descent_tables(result: DescentResult) -> list[Table]:
    """Every point of every series."""
    return [_table(result, name, points) for name, points in result.series.items()]


def _table(result: DescentResult, series: str, points: tuple[DescentPoint, ...]) -> Table:
    shown = [name for name in HEADS if any(getattr(point, name) is not None for point in points)]
    forest = any(point.trees is not None for point in points)
    size, first = size_head(result), ("Trees × leaves",) if forest else ()
    over = ("Over threshold",) if result.threshold else ()
    rows: list[Row] = [
        (
            size_text(point.size(result.axis), result.axis),
            *((f"{point.trees} × {number(point.leaves or 0, 0)}",) if forest else ()),
            *((number(point.size(result.axis) / result.threshold, 2),) if result.threshold else ()),
            *(_cell(point.figure(name), name) for name in shown),
        )
        for point in points
    ]
    several = f"Means over {result.replicates} replicates"
    note = sentences(
        f"n = {count(result.examples)} training examples, K = {result.outputs} outputs.",
        f"Losses: {result.loss}.",
        f"Threshold: {size_text(result.threshold, result.axis)}." if result.threshold is not None else "",
        (f"{several} ± half of the 95 % t-interval." if result.replicates >= 3 else f"{several}.")
        if result.replicates > 1
        else "Each value is of one replicate.",
    )
    title = f"Double descent: {series}" if series else "Double descent"
    return Table(title, (size, *first, *over, *(HEADS[name] for name in shown)), tuple(rows), note)


def _cell(figure: Figure, measure: str) -> str:
    if figure.mean is None:
        return MISSING
    if measure.endswith("error") or measure == "memorised":
        return _ERROR.interval(figure.mean, figure.interval)
    if measure == "train_loss" and 0 < figure.mean < NOTHING:
        return f"< {significant(NOTHING, 1)}"
    return Unit(measure).interval(figure.mean, figure.interval)


def size_head(result: DescentResult) -> str:
    """What sizes are, over a column or at an axis."""
    return "Leaves in all" if result.curve_kind == "forest" else SIZES[result.axis]


def size_text(size: float | None, axis: Axis) -> str:
    """A size without its unit: "1,294", "5.00 %"."""
    if size is None:
        return MISSING
    return density(size) if axis == "density" else number(size, 0)


def descent_numbers(result: DescentResult) -> tuple[Number, ...]:
    """The peak, the threshold, and the lowest error of the first series."""
    unit = "weights kept" if result.axis == "density" else result.unit[1]
    numbers = []
    if result.peak is not None:
        numbers.append(Number("Peak", size_text(result.peak, result.axis), unit))
    if result.threshold is not None:
        numbers.append(Number("Threshold", size_text(result.threshold, result.axis), unit))
    points = next(iter(result.series.values()), ())
    errors = [(point.test_error, point.size(result.axis)) for point in points if point.test_error is not None]
    if errors:
        lowest, size = min(errors)
        numbers.append(Number("Lowest test error", _ERROR.show(lowest), f"at {size_text(size, result.axis)} {unit}"))
    losses = [(point.test_loss, point.size(result.axis)) for point in points if point.test_loss is not None]
    if losses:
        loss, size = min(losses)
        numbers.append(Number("Lowest test loss", significant(loss), f"at {size_text(size, result.axis)} {unit}"))
    return (*numbers, Number("Replicates", str(result.replicates), "of every model"))
