"""When the tickets of a study were drawn: what they reach against that epoch, and where they emerged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tombola import formats
from tombola.formats import Unit
from tombola.report import style
from tombola.report.aggregate import Spread, spread
from tombola.report.axes import legend_above, not_above_100, round_ticks
from tombola.report.looks import CONTROLS, Look, Looks
from tombola.report.plot import Plot, Shown, direction_caption, over_replicates, sentences
from tombola.report.tables import Cell, Row, Table
from tombola.results.comparison import ComparedArm, ComparisonResult
from tombola.results.trial import LevelResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Emergence:
    """When the ticket of one density became stable in each replicate, and what it then reached; epochs."""

    epochs: tuple[float, ...]
    reached: Spread


@dataclass(frozen=True)
class Draws:
    """Tickets of one density, drawn at set epochs."""

    label: str
    look: Look
    epochs: tuple[float, ...]
    reached: tuple[Spread, ...]
    emerged: Emergence | None


def draw_plots(study: ComparisonResult, looks: Looks) -> list[Shown]:
    """One figure, if tickets of a density were drawn at two epochs or more."""
    draws = _draws(study, looks)
    if not draws:
        return []
    unit = Unit(study.metric)
    dense = next((arm for arm in study.arms if arm.dense), None)
    across = None if dense is None else spread(dense.test_accuracy.known)
    caption = sentences(
        f"Test {study.metric} of the network that was trained on with the channels drawn at that epoch.",
        direction_caption(study.better, study.metric),
        _legend(draws),
        "Star and upright line: where the ticket emerged." if any(line.emerged for line in draws) else "",
        "Dotted: the dense network." if across is not None else "",
    )
    figure = draws_figure(
        draws, ylabel=unit.axis("Test"), factor=unit.factor, dense=None if across is None else across.mean
    )
    return [Plot("study-drawn", f"Test {study.metric} against the epoch of drawing", caption, figure)]


def _draws(study: ComparisonResult, looks: Looks) -> list[Draws]:
    groups: dict[float, list[ComparedArm]] = {}
    for arm in study.arms:
        if _asked(arm).get("draw_at") is not None and _epochs(arm):
            groups.setdefault(float(_asked(arm)["density"]), []).append(arm)
    lines = [_line(study, looks, density, arms) for density, arms in groups.items()]
    return [line for line in lines if len(set(line.epochs)) > 1]


def _line(study: ComparisonResult, looks: Looks, density: float, arms: Sequence[ComparedArm]) -> Draws:
    known = [(arm, reached) for arm in arms if (reached := spread(arm.test_accuracy.known)) is not None]
    points = sorted(((fmean(_epochs(arm)), reached) for arm, reached in known), key=lambda point: point[0])
    own = next((arm for arm in study.arms if _emerging(arm, arms)), None)
    return Draws(
        label=f"{formats.density(density)} of channels",
        look=looks.arm((own or arms[0]).name),
        epochs=tuple(epoch for epoch, _ in points),
        reached=tuple(reached for _, reached in points),
        emerged=None if own is None else _emergence(own),
    )


def _asked(arm: ComparedArm) -> dict[str, Any]:
    """The arm's options."""
    return dict(arm.options or {})


def _emerging(arm: ComparedArm, drawn: Sequence[ComparedArm]) -> bool:
    """Whether the arm differs from those drawn at set epochs in that alone, and in how it finds its ticket stable."""
    free = ("draw_at", "stable_")
    own, other = (
        {name: value for name, value in _asked(one).items() if not name.startswith(free)} for one in (arm, drawn[0])
    )
    return arm.method == drawn[0].method and own == other and _asked(arm).get("draw_at") is None and bool(_epochs(arm))


def _emergence(arm: ComparedArm) -> Emergence | None:
    if any(emerged_epoch(levels) is None for levels in arm.replicates if levels):
        return None  # where it did not in all, tickets were drawn at the end of the training
    reached = spread(arm.test_accuracy.known)
    return None if reached is None else Emergence(_epochs(arm), reached)


def _epochs(arm: ComparedArm) -> tuple[float, ...]:
    """The epochs at which the replicates' channels were drawn; () where none were, or masks were not read by epoch."""
    found = [drawn_epoch(levels) for levels in arm.replicates if levels]
    known = tuple(epoch for epoch in found if epoch is not None)
    return known if len(known) == len(found) else ()


def drawn_table(study: ComparisonResult, looks: Looks) -> list[Table]:
    """When every arm drew its channels, and whether they were stable; none if no arm draws channels."""
    rows = [row for arm in study.arms if (row := _row(arm, looks)) is not None]
    note = sentences(
        "Epochs of the search, one for each replicate." if study.replicates > 1 else "Epochs of the search.",
        "Emerged: since when the mask of channels was stable.",
    )
    heads = ("Arm", "Channels kept", "Drawn", "Emerged")
    return [Table("When the tickets were drawn", heads, tuple(rows), note)] if rows else []


def _row(arm: ComparedArm, looks: Looks) -> Row | None:
    epochs, levels = _epochs(arm), [levels for levels in arm.replicates if levels]
    counts = [replicate[-1].channels for replicate in levels]
    if not epochs:
        return None
    kept = dict.fromkeys(f"{count.kept:,} of {count.total:,}" for count in counts if count is not None)
    emerged = ", ".join(_shown(emerged_epoch(replicate)) for replicate in levels)
    return Cell(arm.name, look=looks.arm(arm.name)), ", ".join(kept), ", ".join(map(_shown, epochs)), emerged


def _shown(epoch: float | None) -> str:
    return formats.MISSING if epoch is None else f"{epoch:.4g}"


def emerged_epoch(levels: Sequence[LevelResult]) -> float | None:
    """The epoch at which a search found its mask of channels stable."""
    per_epoch, histories = _steps_per_epoch(levels), levels[0].mask_histories or ()
    if per_epoch is None or histories[0].emerged is None:
        return None
    return histories[0].emerged / per_epoch


def drawn_epoch(levels: Sequence[LevelResult]) -> float | None:
    """The epoch at which a search drew the channels of its last level."""
    channels, per_epoch = levels[-1].channels, _steps_per_epoch(levels)
    return None if channels is None or channels.drawn is None or per_epoch is None else channels.drawn / per_epoch


def _steps_per_epoch(levels: Sequence[LevelResult]) -> int | None:
    """Masks of channels are read at the start of every epoch."""
    histories = levels[0].mask_histories
    if not histories or histories[0].unit != "channels" or len(histories[0].steps) < 2:
        return None
    first, second, *_ = histories[0].steps
    return second - first if second > first else None


def _legend(draws: Sequence[Draws]) -> str:
    sizes = [one.n for line in draws for one in line.reached]
    if max(sizes) < 2:
        return "Each mark is of one replicate."
    ends = "95 % t-interval of the mean" if _intervals(draws) else "lowest to highest"
    return f"Line: mean over {over_replicates(sizes)}; band: {ends}."


def _intervals(draws: Sequence[Draws]) -> bool:
    return all(one.interval is not None for line in draws for one in line.reached)


def draws_figure(draws: Sequence[Draws], *, ylabel: str, factor: float, dense: float | None) -> Figure:
    """A quantity against the epoch of drawing: a line per density, a star and an upright line where it emerged.

    Args:
        draws: at least one, each of two epochs or more.
        ylabel: what the vertical axis shows, with its unit.
        factor: multiplier of the values for display (100 for percent).
        dense: value of the dense network, drawn across.
    """
    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        for line in draws:
            _draw(axes, line, factor, _intervals(draws))
        if dense is not None:
            look = CONTROLS["dense"]
            axes.axhline(
                factor * dense, label="Dense", zorder=1.5, color=look.colour, linestyle=look.dash, linewidth=1.3
            )
        axes.set_xlim(left=0)
        axes.set_xlabel("Epoch at which the ticket was drawn")
        axes.set_ylabel(ylabel)
        axes.margins(y=0.06)
        round_ticks(axes.xaxis)
        round_ticks(axes.yaxis)
        if factor == 100:
            not_above_100(axes, max(factor * one.high for line in draws for one in line.reached))
        legend_above(figure, axes)
    return figure


def _draw(axes: Axes, line: Draws, factor: float, intervals: bool) -> None:
    colour, y = line.look.colour, [factor * one.mean for one in line.reached]
    if max(one.n for one in line.reached) > 1:
        ends = [one.interval if intervals and one.interval is not None else (one.low, one.high) for one in line.reached]
        low, high = [factor * end[0] for end in ends], [factor * end[1] for end in ends]
        axes.fill_between(line.epochs, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(line.epochs, y, label=line.label, marker=line.look.marker, color=colour, linestyle=line.look.dash)
    if line.emerged is not None:
        for epoch in line.emerged.epochs:
            axes.axvline(epoch, color=colour, linewidth=0.8, alpha=0.5, zorder=1.2)
        at = fmean(line.emerged.epochs)
        axes.plot(
            [at], [factor * line.emerged.reached.mean], "*", label=f"{line.label}, emerged", color=colour, markersize=11
        )
