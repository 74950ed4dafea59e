"""The digits part of docs/supermasks.md: every kind of learned mask on the data that come along."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import fmean

from pages import Claim, Table
from results import contrast, crossed, ends, networks, number, outcomes, sign, spread

PAGE, STUDY = "docs/supermasks.md", "digits-masks"
ROWS = {
    "weights only": "weights only",
    "edge-popup, 50 %": "edge-popup 50",
    "iterand, 50 %, every 100it": "iterand 50",
    "multicoat, 50 and 25 %": "multicoat 50, 25",
    "edge-popup, 2:4": "edge-popup 2:4",
    "joint, 2:4, sr-ste": "joint 2:4",
    "signed-supermask": "signed",
    "the same, weight decay 3e-2": "signed, more decay",
    "edge-popup, 5 %": "edge-popup 5",
    "gem-miner, 5 %": "gem-miner 5",
}
TRAINED = ("weights only", "joint 2:4")
"""Arms that have no figure for the mask alone."""

_against = partial(contrast, STUDY)


def level(name: str, number_: int, column: str = "test_accuracy") -> list[float]:
    return networks(STUDY).where(arm=name, level=number_).values(column)


def tables() -> Iterator[Table]:
    rows = [("", "kept", "mask alone", "weights trained")]
    for row, name in ROWS.items():
        last = networks(STUDY).last_levels().where(arm=name)
        alone = "" if name in TRAINED else spread(level(name, 1))
        trained = spread(last.values("test_accuracy")) if name in (*TRAINED, "gem-miner 5") else ""
        rows.append((row, f"{number(100 * fmean(last.values('density')), 1)} %", alone, trained))
    yield Table("digits-masks", rows)


def claims() -> Iterator[Claim]:
    alike = {
        "coats": _against("multicoat 50, 25", "edge-popup 50"),
        "pattern": _against("edge-popup 2:4", "edge-popup 50"),
        "signed": _against("signed", "edge-popup 50"),
        "iterand": _against("iterand 50", "edge-popup 50"),
    }
    yield Claim(
        PAGE,
        "No difference from edge-popup at 50 % is shown for multicoat ({coats}), 2:4 ({pattern}), signed masks "
        "({signed}) and IteRand ({iterand})",
        {name: ends(found) for name, found in alike.items()},
        all(sign(found) == 0 for found in alike.values()),
    )
    mined, popped = (outcomes(STUDY, arm=name, level=1) for name in ("gem-miner 5", "edge-popup 5"))
    assert mined is not None
    assert popped is not None
    rare = crossed(mined, popped, same_starts=False)
    yield Claim(
        PAGE,
        "At 5 % Gem-Miner's mask alone is {points} points above edge-popup's ({interval})",
        {"points": number(100 * rare.difference, 1), "interval": ends(rare, digits=1)},
        sign(rare) > 0,
    )
