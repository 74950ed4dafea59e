"""The masks that trainings went through: how far each lies from the others, when they were stable, what that saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tombola.formats import MISSING, count, density, percent
from tombola.report import style
from tombola.report.aggregate import Curve, levels_of, merged, pick
from tombola.report.axes import alike, iterations_axis, legend_above, log_axis, round_ticks
from tombola.report.looks import Look, Looks, shades
from tombola.report.plot import Plot, Remark, Shown, over_replicates, sentences
from tombola.report.style import plain
from tombola.report.tables import Cell, Row, Table
from tombola.results.comparison import ComparisonResult
from tombola.results.search import TICKET, SearchResult
from tombola.results.trial import LevelResult, MaskHistory

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MAX_LINES, MAX_HEATMAPS = 6, 2
WATCHED: Mapping[str, str] = {
    "mask": "the mask was stable",
    "displacement": "the weights moved at a small part of their first pace",
    "correlation": "the layers' correlations were those of the dense network",
    "gradient": "the layers' gradients were those of the dense network",
}
"""Detector -> what it found."""


@dataclass(frozen=True)
class Masks:
    """The masks that one kind of training went through, over replicates; `label` names it, "" where there is one."""

    label: str
    look: Look
    histories: tuple[MaskHistory, ...]

    @property
    def distances(self) -> Curve | None:
        """The distance between each mask and the one before: mean, lowest and highest."""
        known = [
            {step: value for step, value in zip(one.steps, one.distances, strict=True) if value is not None}
            for one in self.histories
        ]
        return merged(known)

    @property
    def emerged(self) -> tuple[int, ...]:
        """Iterations at which a stable mask was found."""
        return tuple(one.emerged for one in self.histories if one.emerged is not None)


def search_masks(find: SearchResult, look: Look) -> list[Masks]:
    """What was read in the trainings of each level, and at each density where a level watched several."""
    found: list[tuple[str, tuple[MaskHistory, ...]]] = []
    for number, replicates in levels_of(find, TICKET).items():
        read = [level.mask_histories for level in replicates if level.mask_histories]
        for index in range(max(map(len, read), default=0)):
            there = tuple(one[index] for one in read if index < len(one))
            kept = [one.density for one in there if one.density is not None]
            at = f"{density(math.fsum(kept) / len(kept))} kept" if kept else "density learned"
            found.append((f"level {number}, {at}", there))
    return [Masks(label if len(found) > 1 else "", look, there) for label, there in found]


def study_masks(study: ComparisonResult, looks: Looks) -> list[Masks]:
    """What each arm read in the training of its last level that read masks."""
    found = []
    for arm in study.arms:
        read = [[level.mask_histories for level in levels if level.mask_histories] for levels in arm.replicates]
        last = tuple(one[-1][-1] for one in read if one)
        if last:
            found.append(Masks(arm.name, looks.arm(arm.name), last))
    return found


def search_plots(find: SearchResult, look: Look) -> list[Shown]:
    """The masks of a search; where a stable one ended a training, what that saved."""
    whole = saved(_searches(find))
    ended = [Remark(f"Stopped at a stable mask: {saved_sentence(whole)}")] if whole and whole.stopped else []
    return [*stability_plots(search_masks(find, look)), *ended]


def stability_plots(masks: Sequence[Masks], *, heatmaps: bool = True) -> list[Shown]:
    """Distances of successive masks over training, and those of all pairs, with the moment of emergence."""
    drawn = [one for one in masks if one.distances is not None]
    if not drawn:
        return []
    shown = _apart([drawn[index] for index in pick(range(len(drawn)), MAX_LINES)])
    some = f"{len(shown)} of {len(drawn)} lines." if len(shown) < len(drawn) else ""
    ends = [value for one in shown if (curve := one.distances) for value in (*curve.low, *curve.high)]
    if alike(ends):
        each = "the same" if ends[0] == 0 else f"{percent(ends[0])} from the one before"
        return [Remark(f"Masks over training: {each} at every reading.")]
    if not heatmaps:
        some = sentences("Of several levels the last whose masks were read.", some)
    return [_distances(shown, some), *(_heatmap(one, i) for i, one in enumerate(_with_matrix(drawn) * heatmaps))]


def _apart(shown: Sequence[Masks]) -> list[Masks]:
    """In shades, where all have the same look."""
    if len({one.look for one in shown}) > 1:
        return list(shown)
    return [replace(one, look=look) for one, look in zip(shown, shades(shown[0].look, len(shown)), strict=True)]


def _distances(shown: Sequence[Masks], some: str) -> Plot:
    first = shown[0].histories[0]
    what = "channels" if first.unit == "channels" else "weights"
    sizes = [curve.n for one in shown if (curve := one.distances)]
    band = f"Line: mean over {over_replicates(sizes)}; band: lowest to highest." if max(sizes) > 1 else ""
    marked = any(one.emerged for one in shown)
    threshold = _threshold(shown)
    levels = any(one.label.startswith("level ") for one in shown)
    return Plot(
        "mask-distances",
        "How much the mask still changes",
        sentences(
            f"Share of the {what} in which a mask differs from the one read before it. {_when(shown)}",
            "Of every level: the mask that would be drawn of it then, at the density given." if levels else "",
            some,
            band,
            f"Large mark: from there on {_found(shown)} (mean over the replicates in which it was found)."
            if marked
            else "",
            "Dashed: the distance below which it counts as stable." if threshold is not None else "",
            "Logarithmic axis, on which a distance of 0 is not drawn.",
        ),
        distances_figure(shown, threshold),
    )


def _when(shown: Sequence[Masks]) -> str:
    gaps = {b - a for one in shown for h in one.histories for a, b in zip(h.steps, h.steps[1:], strict=False)}
    usual = max(gaps, key=lambda gap: sum(gap in _gaps(h) for one in shown for h in one.histories), default=0)
    return f"Read every {usual:,} iterations." if usual else ""


def _gaps(history: MaskHistory) -> list[int]:
    return [b - a for a, b in zip(history.steps, history.steps[1:], strict=False)]


def _found(shown: Iterable[Masks]) -> str:
    kinds = {h.detector for one in shown for h in one.histories if h.detector is not None}
    return " or ".join(WATCHED.get(kind, "it was stable") for kind in sorted(kinds))


def _threshold(shown: Sequence[Masks]) -> float | None:
    """The distance that all detectors compare with; None where they look at something else."""
    known = {h.threshold for one in shown for h in one.histories if h.detector == "mask"}
    return known.pop() if len(known) == 1 else None


def distances_figure(masks: Sequence[Masks], threshold: float | None) -> Figure:
    """Distances of successive masks in percent over iterations, on a log axis; the moment of emergence as a mark."""
    import numpy as np

    with style.styled():
        figure = style.new_figure(2.95)
        axes = figure.add_subplot()
        last = 0
        for one in masks:
            curve = one.distances
            assert curve is not None
            last = max(last, curve.steps[-1])
            mean, low, high = (_above_zero(values) for values in (curve.mean, curve.low, curve.high))
            line: dict[str, Any] = {"color": one.look.colour, "linestyle": one.look.dash}
            if curve.n > 1:
                axes.fill_between(curve.steps, low, high, color=one.look.colour, alpha=0.15, linewidth=0)
            lone = one.look.marker if len(curve.steps) == 1 else "none"
            axes.plot(curve.steps, mean, label=plain(one.label), marker=lone, **line)
            if one.emerged:
                at = math.fsum(one.emerged) / len(one.emerged)
                height = float(np.interp(at, curve.steps, mean))
                axes.plot([at], [height], one.look.marker, color=one.look.colour, markersize=8)
        if threshold is not None:
            axes.axhline(100 * threshold, color=style.MUTED, linewidth=1, linestyle=(0, (4, 2)))
        ends = (value for one in masks if (curve := one.distances) for value in (*curve.low, *curve.high))
        log_axis(axes.yaxis, [100 * value for value in ends if value > 0])
        iterations_axis(axes, last)
        axes.set_ylabel("Mask changed (%)")
        legend_above(figure, axes)
    return figure


def _above_zero(values: Sequence[float]) -> NDArray[np.float64]:
    """In percent; NaN, which is not drawn, for 0."""
    import numpy as np

    shares = 100 * np.asarray(values, dtype=np.float64)
    return np.where(shares > 0, shares, np.nan)


# ---- all pairs ---------------------------------------------------------------------------------------------


def _with_matrix(masks: Sequence[Masks]) -> list[Masks]:
    there = [one for one in masks if _matrix(one) is not None]
    return [there[index] for index in pick(range(len(there)), MAX_HEATMAPS)]


def _matrix(one: Masks) -> MaskHistory | None:
    """The first replicate's history with the distances of all pairs, of at least three masks."""
    return next((h for h in one.histories if h.matrix is not None and len(h.steps) > 2), None)


def _heatmap(one: Masks, index: int) -> Plot:
    history = _matrix(one)
    assert history is not None
    named = f", {one.label}" if one.label else ""
    found = f"White lines: iteration {history.emerged:,}, from which on {_found([one])}." if history.emerged else ""
    whose = "; of the first replicate" if len(one.histories) > 1 else ""
    return Plot(
        f"mask-heatmap{f'-{index + 1}' if index else ''}",
        f"Distances between all masks{named}",
        sentences(
            f"Share of the mask in which the masks of two iterations differ{whose}: dark is alike. "
            "A dark square at the lower right: the mask had settled.",
            found,
        ),
        heatmap_figure(history),
    )


def heatmap_figure(history: MaskHistory) -> Figure:
    """The distances of all pairs of masks, in percent; white lines at the moment of emergence."""
    import numpy as np

    matrix, size = history.matrix or (), len(history.steps)
    shares = np.zeros((size, size))
    for row, distances in enumerate(matrix):
        shares[row, :row] = shares[:row, row] = 100 * np.asarray(distances)
    with style.styled():
        figure = style.new_figure(3.3)
        axes = figure.add_subplot()
        drawn = axes.imshow(shares, cmap="viridis", vmin=0, interpolation="none")
        axes.grid(visible=False)
        _name_steps(axes, history.steps)
        if history.emerged in history.steps:
            at = history.steps.index(history.emerged)
            for line in (axes.axhline, axes.axvline):
                line(at, color=style.INK, linewidth=2.6)
                line(at, color=style.PAPER, linewidth=1.3)
        bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.outline.set_visible(False)
        round_ticks(bar.ax.yaxis)
        bar.set_label("Mask differs (%)")
    return figure


def _name_steps(axes: Axes, steps: Sequence[int]) -> None:
    """A row and a column for every mask, some named by their iterations."""
    shown = pick(range(len(steps)), 5)
    names = [count(steps[index]) for index in shown]
    axes.set_xticks(shown, names)
    axes.set_yticks(shown, names)
    axes.set_xlabel("Training iterations")
    axes.set_ylabel("Training iterations")


# ---- what stopping saved -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """Iterations trained, and those without stopping at stable masks; how many of the trainings ended at one."""

    trained: float
    planned: float
    stopped: int
    trainings: int


def saved(searches: Iterable[Sequence[LevelResult]]) -> Saved | None:
    """Over the trainings of known length in the levels of each search; None where no mask of theirs was read.

    None of the iterations before a rewind point count. As in `SearchCost.train_prune_retrain`, a small network that
    goes on from where its search was stopped would be trained for its recipe's whole length after a whole search.
    """
    known = [
        (level, plan)
        for levels in searches
        for before, level in zip((None, *levels), levels, strict=False)
        if (plan := _planned(level, before)) is not None
    ]
    if not any(level.mask_histories for level, _ in known):
        return None
    trained = sum(level.trained_steps for level, _ in known)
    return Saved(trained, sum(plan for _, plan in known), sum(_ended_early(level) for level, _ in known), len(known))


def _searches(find: SearchResult) -> list[tuple[LevelResult, ...]]:
    return [replicate.levels for replicate in find.replicates]


def _planned(level: LevelResult, before: LevelResult | None) -> int | None:
    """Iterations that would be trained if no stable mask ended a training; None where that is not known."""
    plan = _whole(level)
    if plan is None:
        return None
    if _ended_early(level):
        return plan - level.first_step
    if before is not None and level.channels is not None and _ended_early(before) and level.first_step == before.steps:
        return plan
    return level.trained_steps


def _whole(level: LevelResult) -> int | None:
    """Where the training would end if it were not stopped; None if its masks were read and that was not recorded."""
    histories = level.mask_histories or ()
    plans = [one.planned for one in histories if one.planned is not None]
    if histories and not plans:
        return None
    return max(plans) if plans else level.whole_steps or level.steps


def _ended_early(level: LevelResult) -> bool:
    """Whether a stable mask ended the training: one drawn at a set iteration ends there whatever its mask does."""
    plan = _whole(level)
    found = any(one.emerged == level.steps for one in level.mask_histories or ())
    return found and plan is not None and level.steps < plan


def search_table(find: SearchResult, look: Look) -> Table | None:
    """A row for every training whose masks were read: when they were stable, and what ending there saved."""
    masks = search_masks(find, look)
    whole = saved(_searches(find))
    if not masks or whole is None:
        return None
    rows: list[Row] = []
    for one in masks:
        curve = one.distances
        rows.append(
            (
                one.label or "The search",
                count(_mean(len(h.steps) for h in one.histories)),
                percent(curve.mean[-1]) if curve else MISSING,
                count(_mean(one.emerged)) if one.emerged else MISSING,
                f"{len(one.emerged)} of {len(one.histories)}",
            )
        )
    kinds = _detectors(masks)
    note = sentences(
        "Last distance: share of the mask that changed between the last two readings.",
        f"Stable: as detector {kinds} says; the mean over the replicates in which it does." if kinds else "",
        saved_sentence(whole),
    )
    head = ("Masks", "Read", "Last distance", "Stable at iteration", "Found")
    return Table("Masks over training", head, tuple(rows), note)


def study_table(study: ComparisonResult, looks: Looks) -> Table | None:
    """What ending trainings at a stable mask has saved in each arm; None where no arm ended one."""
    known = [(arm.name, saved(arm.replicates)) for arm in study.arms]
    found = [(name, whole) for name, whole in known if whole is not None]
    if not any(whole.stopped for _, whole in found):
        return None
    rows: list[Row] = [
        (
            Cell(name, look=looks.arm(name)),
            f"{whole.stopped} of {whole.trainings}",
            count(whole.trained / study.replicates),
            count(whole.planned / study.replicates),
            percent(1 - whole.trained / whole.planned, 0),
        )
        for name, whole in found
    ]
    note = (
        "Iterations: as trained in all levels of one search, none before a rewind point; mean over the replicates. "
        "Planned: without stopping at a stable mask; a small network that goes on from its search then trains whole."
    )
    head = ("Arm", "Trainings ended early", "Iterations", "Planned", "Saved")
    return Table("What stopping at a stable mask saved", head, tuple(rows), note)


def saved_sentence(whole: Saved) -> str:
    """What ending early has saved."""
    if not whole.stopped:
        return "No training was ended by it."
    share = percent(1 - whole.trained / whole.planned, 0)
    return (
        f"{whole.stopped} of {whole.trainings} trainings ended there: {count(whole.trained)} of {count(whole.planned)} "
        f"iterations were trained, {share} fewer."
    )


def _detectors(masks: Sequence[Masks]) -> str:
    return " or ".join(sorted({h.detector for one in masks for h in one.histories if h.detector is not None}))


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.fsum(known) / len(known) if known else None
