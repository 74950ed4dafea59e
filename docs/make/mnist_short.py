"""docs/mnist.md, the shorter study whose logs, layers and test outcomes are all kept: time to a fixed loss, layers."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import Difference, Outcomes, apart, crossed, difference, ends, networks, number, outcomes, sign, spread

PAGE = "docs/mnist.md"
STUDY = "mnist-lenet-short"
CONTROLS = ("reinit", "random")
COMPARED = 4
"""The level whose speed the page speaks of."""


def levels() -> list[int]:
    return sorted({int(row["level"]) for row in networks(STUDY).where(arm="ticket").rows})


def values(arm: str, level: int, column: str = "test_accuracy") -> list[float]:
    return networks(STUDY).where(arm=arm, level=level).values(column)


def density(level: int) -> str:
    return f"{number(100 * values('ticket', level, 'density')[0], 1)} %"


def reached(arm: str, level: int) -> list[float]:
    """Iterations to the dense networks' mean lowest loss; those that never get there count with their whole length."""
    rows = networks(STUDY).where(arm=arm, level=level).rows
    return [float(row["iterations_to_dense_loss"] or row["steps"]) for row in rows]


def time(arm: str, level: int) -> str:
    """Mean iterations to that loss, and how many never get there."""
    rows = networks(STUDY).where(arm=arm, level=level).rows
    if not rows:
        return ""
    late = sum(not row["iterations_to_dense_loss"] for row in rows)
    return spread(reached(arm, level), 1, 0) + (f" ({late} of {len(rows)} never)" if late else "")


def accuracy(arm: str, level: int) -> str:
    found = values(arm, level)
    return spread(found) if found else ""


def right(arm: str, level: int) -> Outcomes:
    found = outcomes(STUDY, arm=arm, level=level)
    assert found is not None
    return found


def share(layer: str, level: int) -> str:
    rows = networks(STUDY, "layers.csv").where(arm="ticket", level=level, name=layer).rows
    return f"{number(100 * fmean(float(row['kept']) / float(row['total']) for row in rows), 1)} %"


def tables() -> Iterator[Table]:
    head = ("density", "ticket", "reinitialised", "random mask", "ticket, iterations", "reinitialised", "random mask")
    arms = ("ticket", *CONTROLS)
    yield Table(
        "mnist-lenet-speed",
        (
            head,
            *(
                (
                    density(level) + (" (dense)" if level == 0 else ""),
                    *(accuracy(arm, level) for arm in arms),
                    *(time(arm, level) for arm in arms),
                )
                for level in levels()
            ),
        ),
    )
    names = list(dict.fromkeys(row["name"] for row in networks(STUDY, "layers.csv").rows))
    yield Table(
        "mnist-lenet-layers",
        (
            ("density", *(f"`{name}`" for name in names)),
            *((density(level), *(share(name, level) for name in names)) for level in levels()),
        ),
    )


def claims() -> Iterator[Claim]:
    ticket, dense = reached("ticket", COMPARED), reached("ticket", 0)
    faster = apart(ticket, dense) < 0
    yield Claim(
        PAGE,
        "tickets of {density} get there after {ticket} iterations, the dense networks after {dense} (difference "
        "{difference}, 95 %: {interval})",
        {
            "density": density(COMPARED),
            "ticket": number(fmean(ticket), 0),
            "dense": number(fmean(dense), 0),
            "difference": number(fmean(ticket) - fmean(dense), 0, sign=True),
            "interval": ends(difference(ticket, dense), 1, 0),
        },
        faster,
    )
    above = crossed(right("ticket", COMPARED), right("ticket", 0), same_starts=True)
    controls = {arm: crossed(right("ticket", COMPARED), right(arm, COMPARED), same_starts=False) for arm in CONTROLS}
    yield Claim(
        PAGE,
        "end {above} points above the dense networks (95 %: {above_ends}), {reinit} above their masks on other weights "
        "({reinit_ends}) and {random} above random masks ({random_ends})",
        {"above": points(above), "above_ends": ends(above)}
        | {arm: points(found) for arm, found in controls.items()}
        | {f"{arm}_ends": ends(found) for arm, found in controls.items()},
        all(sign(found) > 0 for found in (above, *controls.values())),
    )


def points(found: Difference) -> str:
    return number(100 * found.difference, 2, sign=True)
