"""A figure with its heading, caption and files; captions are derived from what is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.formats import Unit, plural
from tombola.report import figures, style
from tombola.report.figures import Row, Series, Trace
from tombola.runs.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A figure, the name of its files, its heading and its caption."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Remark:
    """One sentence in place of a figure that would show nothing."""

    text: str


Shown = Plot | Remark


def slug(text: str) -> str:
    """``text`` as part of a file name or an HTML id: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "run"


def sentences(*parts: str) -> str:
    """Parts of a caption, empty ones left out."""
    return " ".join(part for part in parts if part)


def over_replicates(sizes: Iterable[int]) -> str:
    """How many replicates means are taken over: "3 replicates", "1 to 3 replicates"."""
    known = tuple(sizes)
    few, many = min(known), max(known)
    return plural(many, "replicate") if few == many else f"{few} to {many} replicates"


def band_caption(series: Sequence[Series]) -> str:
    """Legend of the lines, marks and bands of a figure against density."""
    shown = [line.shown for line in series]
    sizes = [p.spread.n for points in shown for p in points]
    kind = figures.band_kind(series)
    if kind == "none":
        return "Each mark is of one replicate."
    lines, lone = any(len(points) > 1 for points in shown), any(len(points) == 1 for points in shown)
    what = {(True, False): "Line", (False, True): "Mark", (True, True): "Line or mark"}[lines, lone]
    around = {(True, False): "band", (False, True): "bar", (True, True): "band or bar"}[lines, lone]
    ends = "95 % t-interval of the mean" if kind == "interval" else "lowest to highest"
    return f"{what}: mean over {over_replicates(sizes)}; {around}: {ends}."


def trace_caption(traces: Sequence[Trace]) -> str:
    """Legend of the lines and bands of training curves."""
    sizes = [trace.curve.n for trace in traces]
    if max(sizes) < 2:
        return ""
    lines = {len(trace.curve.steps) > 1 for trace in traces}
    around = {frozenset({True}): "band", frozenset({False}): "bar"}.get(frozenset(lines), "band or bar")
    what = "Line" if True in lines else "Mark"
    return f"{what}: mean over {over_replicates(sizes)}; {around}: lowest to highest."


def cut_caption(window: tuple[float, float] | None, traces: Sequence[Trace], unit: Unit) -> str:
    """Where the steep start of the curves is cut off, if it is."""
    if window is None:
        return ""
    if min(v for trace in traces for v in trace.curve.low) < window[0]:
        return f"The axis begins at {unit.show(window[0])}: the steep start is cut off."
    if max(v for trace in traces for v in trace.curve.high) > window[1]:
        return f"The axis ends at {unit.show(window[1])}: the steep start is cut off."
    return ""


def close_up_caption(window: tuple[float, float], series: Sequence[Series], unit: Unit) -> str:
    """The range that a close-up shows of the whole figure."""
    kind = figures.band_kind(series)
    ends = [end for line in series for p in line.shown for end in figures.ends_of(p, kind)]
    above = " and above" if max(ends) > window[1] else ""
    cut = f"; what lies below{above} is cut off" if min(ends) < window[0] else ""
    return f"The same numbers from {unit.show(window[0])} on{cut}."


def row_caption(rows: Sequence[Row]) -> str:
    """Legend of the marks and bars of arms."""
    several = [row for row in rows if len(row.values) > 1]
    if not several:
        return "Each mark is of one replicate."
    counts = over_replicates(len(row.values) for row in rows) if all(row.values for row in rows) else "the replicates"
    barred = "; bar: 95 % interval" if any(row.interval for row in rows) else ""
    return f"Large mark: mean over {counts}{barred}; small marks: single replicates."


def direction_caption(better: str | None, metric: str) -> str:
    """Whether higher or lower is better, unless it is obvious."""
    return "" if better is None or metric == "accuracy" else f"{better.capitalize()} is better."


def close_up(series: Sequence[Series], dense: float | None) -> tuple[float, float] | None:
    """Limits that show the crowd near the top, where the whole range hides it; None where it does not."""
    means = sorted(p.spread.mean for line in series for p in line.shown)
    top = max(means[-1], dense if dense is not None else means[-1])
    whole = top - means[0]
    reach = max(top - means[len(means) // 4], whole / 40)
    if whole < 0.02 or len(means) < 6 or 3 * reach > whole:
        return None
    kind = figures.band_kind(series)
    highest = max(figures.ends_of(p, kind)[1] for line in series for p in line.shown)
    return top - 2 * reach, max(top + 0.35 * reach, min(highest + 0.1 * reach, top + 2 * reach))


def files(plot: Plot, folder: Path, prefix: str = "") -> tuple[str, tuple[Path, Path]]:
    """Write ``<prefix><name>.svg`` and ``.pdf`` into ``folder``; returns the inline SVG and the two paths."""
    svg = style.svg_bytes(plot.figure)
    paths = folder / f"{prefix}{plot.name}.svg", folder / f"{prefix}{plot.name}.pdf"
    write_bytes(paths[0], svg)
    write_bytes(paths[1], style.pdf_bytes(plot.figure))
    return style.inline_svg(svg, f"{prefix}{plot.name}"), paths
