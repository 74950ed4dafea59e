"""A figure with what stands around it: heading, caption, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.report import figures, style
from tombola.report.figures import Series
from tombola.report.words import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A figure, the name of its files, its heading and its caption."""

    name: str
    title: str
    caption: str
    figure: Figure


def band_words(series: Sequence[Series]) -> str:
    """What the lines and bands of a figure are."""
    sizes = [p.spread.n for line in series for p in line.points]
    few, many = min(sizes), max(sizes)
    over = plural(many, "replicate") if few == many else f"{few} to {many} replicates"
    kind = figures.band_kind(series)
    if kind == "none":
        return "One replicate, so no band."
    band = "95 % t-interval of the mean" if kind == "interval" else "lowest to highest"
    return f"Line: mean over {over}; band: {band}."


def close_up(series: Sequence[Series], dense: float | None) -> tuple[float, float] | None:
    """Limits that show the crowd near the top, where the whole range hides it; None where it does not."""
    means = sorted(p.spread.mean for line in series for p in line.points)
    top = max(means[-1], dense if dense is not None else means[-1])
    whole = top - means[0]
    reach = max(top - means[len(means) // 4], whole / 40)
    if whole < 0.02 or len(means) < 6 or 3 * reach > whole:
        return None
    highest = max(p.spread.high for line in series for p in line.points)
    return top - 2 * reach, max(top + 0.35 * reach, highest + 0.1 * reach)


def files(plot: Plot, folder: Path, prefix: str = "") -> tuple[str, tuple[Path, Path]]:
    """Write ``<prefix><name>.svg`` and ``.pdf`` into ``folder``; returns the inline SVG and the two paths."""
    svg = style.svg_bytes(plot.figure)
    paths = folder / f"{prefix}{plot.name}.svg", folder / f"{prefix}{plot.name}.pdf"
    paths[0].write_bytes(svg)
    paths[1].write_bytes(style.pdf_bytes(plot.figure))
    return style.inline_svg(svg, f"{prefix}{plot.name}"), paths
