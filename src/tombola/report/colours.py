"""Colours of figures on white and on a dark page."""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Iterable

DARKEST, LIGHTEST = 0.03, 0.36  # relative luminance that a shade on white may have

_ON_DARK = {
    "#0072b2": "#5cb8f0",
    "#c79a2b": "#f7e463",
    "#560a58": "#d94fc0",
    "#5fa4e6": "#d8ecff",
    "#9a2c11": "#d23c20",
    "#4a22bd": "#7b6cf6",
    "#d55e00": "#ff9552",
    "#009e73": "#3ed1a4",
    "#4b5158": "#8f98a3",
    "#1c2126": "#e8ebee",
    "#5a626b": "#a9b1b9",
    "#d5dade": "#3a4149",
    "#ffffff": "#171b20",
}
"""Hues, ink, muted ink, rules and paper on white -> the same on a dark page."""


def on_dark(colour: str) -> str:
    """The colour that stands for ``colour`` on a dark page: what is dark on white is bright there."""
    if colour in _ON_DARK:
        return _ON_DARK[colour]
    place = math.log(max(luminance(colour), DARKEST) / DARKEST) / math.log(LIGHTEST / DARKEST)
    return toward(colour, 0.72 * (0.17 / 0.72) ** min(place, 1.0))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, 0 (black) to 1 (white), as WCAG 2 defines it."""
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in _rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def toward(colour: str, target: float) -> str:
    """The colour made lighter or darker, at its hue and saturation (HLS), until its luminance is ``target``."""
    hue, _, saturation = colorsys.rgb_to_hls(*_rgb(colour))
    low, high = 0.0, 1.0
    made = colour
    for _ in range(16):
        middle = (low + high) / 2
        made = "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, middle, saturation))
        low, high = (middle, high) if luminance(made) < target else (low, middle)
    return made


def css_name(colour: str) -> str:
    """The CSS variable that holds a colour: ``--f0072b2``."""
    return f"--f{colour[1:]}"


def css_colours(texts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """CSS variable -> (colour on white, colour on a dark page), of all that the texts use."""
    used = sorted({f"#{code}" for text in texts for code in re.findall(r"var\(--f([0-9a-f]{6})\)", text)})
    return {css_name(colour): (colour, on_dark(colour)) for colour in used}
