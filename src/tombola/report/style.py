"""The style of all figures, and how they become files: deterministic SVG and PDF."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tombola.report.colours import css_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.1  # inches: narrow, so that letters stay legible when a phone shrinks the figure


ARM_NAMES: Mapping[str, str] = {
    "ticket": "Ticket",
    "random": "Random mask",
    "reinit": "Reinitialised",
    "dense": "Dense",
}
INK, MUTED, RULE, PAPER = "#1c2126", "#5a626b", "#d5dade", "#ffffff"

STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "tombola",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "text.color": INK,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.6,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.6,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.constrained_layout.use": True,
}


def arm_name(arm: str) -> str:
    """Display name of an arm."""
    return ARM_NAMES.get(arm, plain(arm))


def plain(text: str, max_length: int = 40) -> str:
    """Text that any figure can hold: no control characters, no leading underscore, at most ``max_length`` long."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(clean) > max_length:
        half = (max_length - 1) // 2
        clean = f"{clean[: max_length - 1 - half]}…{clean[-half:]}"
    return f" {clean}" if clean.startswith("_") else clean


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's defaults and our style, independent of the user's rcParams, which are restored on exit."""
    import matplotlib

    settings: Any = STYLE  # newer stubs list every key
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure (inches), free of pyplot; call it inside :func:`styled`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue()


def pdf_bytes(figure: Figure) -> bytes:
    """The figure as PDF; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
    return buffer.getvalue()


def inline_svg(svg: bytes, prefix: str) -> str:
    """The figure to be set inside a page: ids made unique, colours and font left to the style sheet."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)

    def tag(match: re.Match[str]) -> str:
        markup = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", match.group())
        markup = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", markup)
        return re.sub(r"(?<=[ :\"])#[0-9a-f]{6}\b", lambda c: f"var({css_name(c.group())})", markup)

    # tags only: user text lies between tags (its < is escaped) and is left unchanged
    return f"{head}>{re.sub(r'<[^>]*>', tag, rest).strip()}"
