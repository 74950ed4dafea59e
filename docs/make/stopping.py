"""docs/early-bird.md: searches that end once their mask is stable, of imp and edge-popup on MNIST."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import contrast, ends, networks, number, sign, spread

PAGE, STUDY = "docs/early-bird.md", "mnist-stop-when-stable"


def iterations(arm: str) -> float:
    """Of a whole search, in the mean over the searches."""
    own = networks(STUDY).where(arm=arm)
    return sum(own.values("steps")) / len(own.last_levels().rows)


def tables() -> Iterator[Table]:
    yield Table(STUDY, list(rows()))


def rows() -> Iterator[tuple[str, ...]]:
    yield "", "weights kept", "iterations", "test accuracy"
    for arm in networks(STUDY).arms():
        last = networks(STUDY).last_levels().where(arm=arm)
        kept = f"{number(100 * fmean(last.values('density')), 1)} %"
        yield arm, kept, number(iterations(arm), 0), spread(last.values("test_accuracy"))


def claims() -> Iterator[Claim]:
    found = {arm: contrast(STUDY, f"{arm}, stopped", arm) for arm in ("imp", "edge-popup")}
    saved = {arm: number(100 * (1 - iterations(f"{arm}, stopped") / iterations(arm)), 0) for arm in found}
    yield Claim(
        PAGE,
        "imp is spared {imp} % of its iterations, and no difference in accuracy is shown ({imp_ends} points); "
        "edge-popup is spared {popup} %, and loses {points} points ({popup_ends})",
        {
            "imp": saved["imp"],
            "imp_ends": ends(found["imp"]),
            "popup": saved["edge-popup"],
            "points": number(-100 * found["edge-popup"].difference, 2),
            "popup_ends": ends(found["edge-popup"]),
        },
        sign(found["imp"]) == 0 and sign(found["edge-popup"]) == -1,
    )
