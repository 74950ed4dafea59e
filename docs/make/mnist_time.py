"""docs/mnist.md: the time to a fixed loss, and what each layer of LeNet-300-100's tickets keeps."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import difference, difference_sign, ends, networks, number, spread

PAGE = "docs/mnist.md"
STUDY = "mnist-lenet"
CONTROLS = ("reinit", "random")
COMPARED = 7
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


def share(layer: str, level: int) -> str:
    rows = networks(STUDY, "layers.csv").where(arm="ticket", level=level, name=layer).rows
    return f"{number(100 * fmean(float(row['kept']) / float(row['total']) for row in rows), 1)} %"


def tables() -> Iterator[Table]:
    arms = ("ticket", *CONTROLS)
    yield Table(
        "mnist-lenet-speed",
        (
            ("density", "ticket", "reinitialised", "random mask"),
            *(
                (
                    density(level) + (" (dense)" if level == 0 else ""),
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
    faster = difference_sign(ticket, dense) < 0
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
