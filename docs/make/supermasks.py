"""docs/supermasks.md: untrained networks on MNIST, by drawn masks and by edge-popup."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import fmean

from pages import Claim, Table
from results import arm, contrast, ends, number, sign, spread

PAGE = "docs/supermasks.md"
DRAWN = {
    "drawn mask": ("drawn mask", "95.3"),
    "+ signed constant": ("drawn mask, signed constant", "96.4"),
    "+ rescaling": ("drawn mask, rescaled", "97.8"),
    "+ both": ("drawn mask, rescaled, signed constant", "98.0"),
}
"""Row -> arm, and the test accuracy of Zhou et al. 2019, table 1."""
SAMPLED = "test_accuracy_sampled"
DENSITIES = (30, 50, 70)

_masks = partial(arm, "mnist-supermasks")
_against = partial(contrast, "mnist-supermasks")


def tables() -> Iterator[Table]:
    yield Table("drawn-masks", list(drawn_rows()))
    yield Table("mask-densities", list(density_rows()))


def drawn_rows() -> Iterator[tuple[str, ...]]:
    yield "", "kept", "p > 0.5 mask", "mean of 10 drawn masks", "Zhou et al. 2019"
    for name, (which, published) in DRAWN.items():
        kept = f"{number(100 * fmean(_masks(which, 'density')), 1)} %"
        yield name, kept, spread(_masks(which)), spread(_masks(which, SAMPLED)), published


def density_rows() -> Iterator[tuple[str, ...]]:
    kept = (10, 30, 50, 70, 90)
    yield "kept", *(f"{density} %" for density in kept), "100 %"
    yield "edge-popup", *(spread(_masks(f"edge-popup {density}")) for density in kept), ""
    yield "joint", "", *(spread(_masks(f"joint {density}")) for density in DENSITIES), "", ""
    yield "weights only", *[""] * len(kept), spread(_masks("weights only"))


def claims() -> Iterator[Claim]:
    yield Claim(
        "README.md",
        "edge-popup reaches {half} at 50 % of the weights and {tenth} at 10 %, against {dense} with all weights "
        "trained",
        {
            "half": spread(_masks("edge-popup 50")),
            "tenth": spread(_masks("edge-popup 10")),
            "dense": spread(_masks("weights only")),
        },
    )
    behind = _against("edge-popup 50", "weights only")
    yield Claim(
        PAGE,
        "untrained networks come near the trained one: edge-popup at 50 % is {points} points behind",
        {"points": number(-100 * behind.difference, 2)},
        sign(behind) < 0,
    )
    signed = _against("drawn mask, signed constant", "drawn mask", SAMPLED)
    stored = _against("drawn mask, signed constant", "drawn mask")
    yield Claim(
        PAGE,
        "signed constants help drawn masks by {points} points in the mean (of the p > 0.5 mask the difference is "
        "not significant, {stored})",
        {"points": number(100 * signed.difference, 2), "stored": ends(stored)},
        sign(signed) > 0 and sign(stored) == 0,
    )
    scaled = _against("drawn mask, rescaled", "drawn mask", SAMPLED)
    beside = _against("drawn mask, rescaled, signed constant", "drawn mask, signed constant", SAMPLED)
    yield Claim(
        PAGE,
        "rescaling adds {alone} points to the mean of drawn masks (there 2.5), and beside signed constants the "
        "difference is not significant ({interval}; there 1.6)",
        {"alone": number(100 * scaled.difference, 2), "interval": ends(beside)},
        sign(scaled) > 0 and sign(beside) == 0,
    )
    gains = {density: _against(f"joint {density}", "weights only") for density in DENSITIES}
    yield Claim(
        PAGE,
        "joint training beats training the weights alone by {at50} points at 50 % and {at70} at 70 %; at 30 % the "
        "difference is not significant ({at30})",
        {
            "at50": number(100 * gains[50].difference, 2),
            "at70": number(100 * gains[70].difference, 2),
            "at30": ends(gains[30]),
        },
        sign(gains[50]) > 0 and sign(gains[70]) > 0 and sign(gains[30]) == 0,
    )
