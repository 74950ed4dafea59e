"""docs/supermasks.md: what an IMP ticket and a supermask share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import Claim, Table
from results import number, record, spread

PAGE = "docs/supermasks.md"
OVERLAP = {
    "IMP ticket": "IMP ticket",
    "supermask": "supermask",
    "random as IMP ticket": "random, IMP's layer densities",
    "random as supermask": "random, the supermask's",
    "dense": "dense",
}


def tables() -> Iterator[Table]:
    yield Table("overlap", list(rows()))


def overlap(density: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record("mnist-overlap", f"result-{density}.json")
    return found


def tried(density: int, mask: str, how: str) -> Mapping[str, Any]:
    """A mask's figure `untrained` or `trained`."""
    found: Mapping[str, Any] = next(a for a in overlap(density)["accuracy"] if a["mask"] == mask)[how]
    return found


def changed(density: int, of: str, against: str, how: str) -> Mapping[str, Any]:
    """The difference of two masks, paired by replicate."""
    differences = overlap(density)["differences"]
    found: Mapping[str, Any] = next(d for d in differences if (d["of"], d["against"]) == (of, against))[how]
    return found


def rows() -> Iterator[tuple[str, ...]]:
    yield "mask", *(f"{how}, {d} %" for d in (10, 50) for how in ("untrained", "weights trained"))
    for mask, name in OVERLAP.items():
        cells = (tried(d, mask, how)["values"] for d in (10, 50) for how in ("untrained", "trained"))
        yield name, *map(spread, cells)


def within(found: Mapping[str, Any], turn: bool = False) -> str:
    """low to high of a figure's interval, in points; `turn`: of the second minus the first."""
    scale = -100 if turn else 100
    low, high = sorted(scale * end for end in found["interval"])
    return f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}"


def claims() -> Iterator[Claim]:
    ten, half = overlap(10)["whole"], overlap(50)["whole"]
    yield Claim(
        PAGE,
        "At 10 % the two masks share {ratio} times as many weights as chance would ({low} to {high}); against random "
        "masks that favour initially large weights as they do, {sized} times ({sized_low} to {sized_high})",
        {
            "ratio": number(ten["ratio"]["mean"], 2),
            "low": number(ten["ratio"]["interval"][0], 2),
            "high": number(ten["ratio"]["interval"][1], 2),
            "sized": number(ten["ratio_same_sizes"]["mean"], 2),
            "sized_low": number(ten["ratio_same_sizes"]["interval"][0], 2),
            "sized_high": number(ten["ratio_same_sizes"]["interval"][1], 2),
        },
        ten["ratio_same_sizes"]["interval"][0] > 1,
    )
    output = overlap(10)["layers"][-1]["first"]["density"]["mean"]
    yield Claim(
        PAGE,
        "those that IMP keeps are {imp} times as large as the layer's mean at the start, the supermask's {mask} "
        "times. At 50 % they share {half} times chance. Their layers differ: at 10 % IMP keeps {output} % of the "
        "output layer",
        {
            "imp": number(ten["first"]["magnitude"]["mean"], 1),
            "mask": number(ten["second"]["magnitude"]["mean"], 1),
            "half": number(half["ratio"]["mean"], 2),
            "output": number(100 * output, 0),
        },
    )
    trains = changed(10, "supermask", "IMP ticket", "trained")
    works = changed(10, "supermask", "IMP ticket", "untrained")
    yield Claim(
        PAGE,
        "the ticket trains better at 10 % (by {points} points, but the interval includes 0: {interval}), the "
        "supermask works better untrained (by {works}, {works_interval})",
        {
            "points": number(-100 * trains["mean"], 2),
            "interval": within(trains, turn=True),
            "works": number(100 * works["mean"], 1),
            "works_interval": within(works),
        },
        trains["interval"][1] > 0 > trains["interval"][0] and works["interval"][0] > 0,
    )
    imp = {d: changed(d, "IMP ticket", "random as IMP ticket", "untrained") for d in (10, 50)}
    mask = {d: changed(d, "supermask", "random as supermask", "trained") for d in (10, 50)}
    yield Claim(
        PAGE,
        "the ticket untrained is {imp10} points above its random mask at 10 % and {imp50} at 50 %; weights trained "
        "under the supermask are {mask10} points above those under its random mask at 10 %, and at 50 % the "
        "difference is not significant ({mask50})",
        {
            "imp10": number(100 * imp[10]["mean"], 1),
            "imp50": number(100 * imp[50]["mean"], 1),
            "mask10": number(100 * mask[10]["mean"], 2),
            "mask50": within(mask[50]),
        },
        imp[10]["interval"][0] > 0
        and imp[50]["interval"][0] > 0
        and mask[10]["interval"][0] > 0 > mask[50]["interval"][0],
    )
    yield Claim(
        PAGE,
        "An untrained IMP mask at {low} to {high} % is Zhou's",
        {
            "low": number(100 * tried(10, "IMP ticket", "untrained")["mean"], 0),
            "high": number(100 * tried(50, "IMP ticket", "untrained")["mean"], 0),
        },
    )
    yield Claim(
        PAGE,
        "too few are left for that: {ten} % against {half} % at one half",
        {
            "ten": number(100 * tried(10, "supermask", "untrained")["mean"], 1),
            "half": number(100 * tried(50, "supermask", "untrained")["mean"], 1),
        },
    )
    masks = ("random as IMP ticket", "random as supermask")
    chance = [tried(density, mask, "untrained") for density in (10, 50) for mask in masks]
    yield Claim(
        "README.md",
        "random masks left untrained are at chance, {low} to {high} % in the mean over three searches",
        {
            "low": number(100 * min(c["mean"] for c in chance), 1),
            "high": number(100 * max(c["mean"] for c in chance), 1),
        },
        all(c["interval"][0] < 0.1 < c["interval"][1] for c in chance),
    )
