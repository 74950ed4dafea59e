"""How figures look, and how they become files: fixed colours per arm, deterministic SVG and PDF."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.1  # inches: narrow, so that letters stay legible when a phone shrinks the figure


@dataclass(frozen=True)
class Look:
    """Colour on white, colour on black, line style and marker. Never told apart by colour alone."""

    colour: str
    dark: str
    dash: Any = "-"
    marker: str = "o"


# Okabe and Ito's colour-blind-safe colours; the dark ones are the same hues, lighter.
ARM_LOOKS: Mapping[str, Look] = {
    "ticket": Look("#0072b2", "#5cb8f0"),
    "random": Look("#d55e00", "#ff9552", (0, (4, 1.6)), "s"),
    "reinit": Look("#009e73", "#3ed1a4", (0, (5, 1.4, 1, 1.4)), "^"),
    "dense": Look("#4b5158", "#b4bbc3", (0, (1, 1.3)), "D"),
}
ARM_NAMES: Mapping[str, str] = {
    "ticket": "Ticket",
    "random": "Random mask",
    "reinit": "Reinitialised",
    "dense": "Dense",
}
RUN_LOOKS = (
    Look("#0073b3", "#5db8f0", "-", "o"),
    Look("#d45e00", "#ff9553", (0, (4, 1.6)), "s"),
    Look("#009e74", "#3ed1a5", (0, (5, 1.4, 1, 1.4)), "^"),
    Look("#b8578f", "#eb9bc8", (0, (1, 1.3)), "D"),
    Look("#8a6d00", "#e3c03d", (0, (7, 2)), "v"),
    Look("#4b5159", "#b4bbc4", (0, (3, 1, 1, 1, 1, 1)), "P"),
)
# From few to many pruned weights: rising lightness on white, other hues throughout.
LEVEL_LOOKS = (
    Look("#3b2a8c", "#a99bff", "-", "o"),
    Look("#1f6aa5", "#62b4ee", (0, (5, 1.4)), "s"),
    Look("#138a7a", "#3fd3bd", (0, (5, 1.4, 1, 1.4)), "^"),
    Look("#5f9410", "#a6d94f", (0, (1, 1.3)), "D"),
    Look("#c77700", "#f7b955", (0, (3, 1, 1, 1, 1, 1)), "v"),
)
INK, MUTED, RULE, PAPER = "#1c2126", "#5a626b", "#d5dade", "#ffffff"
_DARK = {INK: "#e8ebee", MUTED: "#a9b1b9", RULE: "#3a4149", PAPER: "#171b20"}

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
    "lines.markersize": 4.2,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.constrained_layout.use": True,
}


def series_look(index: int) -> Look:
    """The look of the ``index``-th of many lines: no two of the first 36 are the same."""
    size = len(RUN_LOOKS)
    form = RUN_LOOKS[(index + index // size) % size]
    return replace(RUN_LOOKS[index % size], dash=form.dash, marker=form.marker)


def arm_look(arm: str) -> Look:
    return ARM_LOOKS.get(arm, RUN_LOOKS[3])


def arm_name(arm: str) -> str:
    return ARM_NAMES.get(arm, plain(arm))


def plain(text: str, most: int = 40) -> str:
    """Text that any figure can hold: no control characters, no leading underscore, at most ``most`` long."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(clean) > most:
        half = (most - 1) // 2
        clean = f"{clean[: most - 1 - half]}…{clean[-half:]}"
    return f" {clean}" if clean.startswith("_") else clean


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults plus ours, whatever the user's settings are; put back at the end."""
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


def colours() -> dict[str, tuple[str, str]]:
    """Colour of a figure file -> (name of its CSS variable, its colour on a dark page)."""
    looks = {look.colour: look.dark for look in (*ARM_LOOKS.values(), *RUN_LOOKS, *LEVEL_LOOKS)}
    return {light: (f"--f{light[1:]}", dark) for light, dark in {**looks, **_DARK}.items()}


def inline_svg(svg: bytes, prefix: str) -> str:
    """The figure to be set inside a page: ids made unique, colours and font left to the style sheet."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    names = {light: f"var({name})" for light, (name, _) in colours().items()}

    def tag(match: re.Match[str]) -> str:
        found = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", match.group())
        found = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", found)
        return re.sub(r"#[0-9a-f]{6}\b", lambda c: names.get(c.group(), c.group()), found)

    # Tags only: what a user wrote is text between tags (its < is escaped) and stays as it is.
    return f"{head}>{re.sub(r'<[^>]*>', tag, rest).strip()}"
