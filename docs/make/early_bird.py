"""docs/early-bird.md: early-bird tickets of ResNet-20 on CIFAR-10 images, and their search in low precision on digits."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import Networks, Row, contrast, ends, networks, number, sign, spread

PAGE = "docs/early-bird.md"
CIFAR, DIGITS = "cifar10-early-bird", "digits-early-bird"


def replicates(study: str, arm: str) -> list[tuple[Row, ...]]:
    """The levels of each search."""
    own = networks(study).where(arm=arm)
    return [own.where(replicate=r).rows for r in dict.fromkeys(row["replicate"] for row in own.rows)]


def column(rows: tuple[Row, ...], name: str) -> list[float]:
    return Networks(rows).values(name)


def steps_per_epoch(study: str) -> float:
    return {CIFAR: 3000 / 128, DIGITS: 1}[study]


def cost(study: str, arm: str) -> list[float]:
    """FLOPs of a whole search over those of the dense training with the same seed."""
    dense = [sum(column(rows, "flops")) for rows in replicates(study, "dense")]
    own = [sum(column(rows, "flops")) for rows in replicates(study, arm)]
    return [a / b for a, b in zip(own, dense, strict=True)]


def drawn(study: str, arm: str) -> list[float]:
    """The iterations at which the tickets were drawn."""
    return [value for rows in replicates(study, arm) for value in column(rows, "drawn")]


def arms(study: str) -> list[str]:
    return networks(study).arms()


def rows(study: str, epoch: int) -> Iterator[tuple[str, ...]]:
    """`epoch`: its iterations."""
    yield "", "drawn at epoch", "weights kept", "test accuracy", "FLOPs of search and training"
    for arm in arms(study):
        last = networks(study).last_levels().where(arm=arm)
        when = drawn(study, arm)
        yield (
            *(arm, ", ".join(number(step / epoch, 0) for step in when)),
            *(f"{number(100 * fmean(last.values('density')), 1)} %", spread(last.values("test_accuracy"), digits=1)),
            f"{number(fmean(cost(study, arm)), 2)}x",
        )
