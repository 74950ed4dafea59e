"""docs/early-bird.md: early-bird tickets of ResNet-20 on CIFAR-10 images, their search in low precision on digits."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import Networks, Row, contrast, ends, networks, number, sign, spread, turned
from tombola.formats import multiple

PAGE = "docs/early-bird.md"
CIFAR, DIGITS = "cifar10-early-bird", "digits-early-bird"


def replicates(study: str, arm: str) -> list[tuple[Row, ...]]:
    """The levels of each search."""
    own = networks(study).where(arm=arm)
    return [own.where(replicate=r).rows for r in dict.fromkeys(row["replicate"] for row in own.rows)]


def column(rows: tuple[Row, ...], name: str) -> list[float]:
    return Networks(rows).values(name)


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


EPOCH = {CIFAR: 23, DIGITS: 21}
"""Study -> iterations of an epoch."""


def emerged(study: str, arm: str) -> list[float]:
    """The epochs at which the mask of each search was found stable."""
    return [value / EPOCH[study] for rows in replicates(study, arm) for value in column(rows, "emerged")]


def tables() -> Iterator[Table]:
    yield Table(CIFAR, list(rows(CIFAR)))
    yield Table(DIGITS, list(rows(DIGITS)))


def rows(study: str) -> Iterator[tuple[str, ...]]:
    yield "", "drawn at epoch", "weights kept", "test accuracy", "FLOPs, search included"
    for arm in networks(study).arms():
        last = networks(study).last_levels().where(arm=arm)
        yield (
            *(arm.removesuffix(" 0.5"), ", ".join(number(step / EPOCH[study], 0) for step in drawn(study, arm))),
            *(f"{number(100 * fmean(last.values('density')), 1)} %", spread(last.values("test_accuracy"))),
            multiple(fmean(cost(study, arm))),
        )


def listed(values: list[float]) -> str:
    return ", ".join(number(value, 0) for value in values)


def claims() -> Iterator[Claim]:
    yield from precision_claims()
    yield from cifar_claims()
    early, late = ("early-bird 0.5", "train-prune-retrain 0.5")
    accuracy = {"dense": contrast(DIGITS, early, "dense"), "late": contrast(DIGITS, early, late)}
    yield Claim(
        PAGE,
        "on digits the tickets emerge at half of the training and cost {dense_cost} of a dense training, {late_cost} "
        "of train, prune, retrain; no difference in accuracy is shown ({dense} and {late} points)",
        {
            "dense_cost": number(fmean(cost(DIGITS, early)), 2),
            "late_cost": number(fmean(cost(DIGITS, early)) / fmean(cost(DIGITS, late)), 2),
            **{name: ends(found) for name, found in accuracy.items()},
        },
        set(emerged(DIGITS, early)) == {6.0} and all(sign(found) == 0 for found in accuracy.values()),
    )


def precision_claims() -> Iterator[Claim]:
    plain = emerged(DIGITS, "early-bird 0.5")
    low = {p: emerged(DIGITS, f"search in {p} 0.5") for p in ("bf16-mixed", "bfp8")}
    yield Claim(
        PAGE,
        "the mask is stable at epochs {plain} in float32, {half} in bf16-mixed and {block} in bfp8: within two epochs",
        {"plain": listed(plain), "half": listed(low["bf16-mixed"]), "block": listed(low["bfp8"])},
        all(abs(a - b) <= 2 for values in low.values() for a, b in zip(values, plain, strict=True)),
    )
    found = {p: contrast(DIGITS, f"search in {p} 0.5", "early-bird 0.5") for p in low}
    yield Claim(
        PAGE,
        "No difference in accuracy is shown ({half} and {block} points)",
        {"half": ends(found["bf16-mixed"]), "block": ends(found["bfp8"])},
        all(sign(one) == 0 for one in found.values()),
    )


def cifar_claims() -> Iterator[Claim]:
    late = "train-prune-retrain"
    when = emerged(CIFAR, "early-bird")
    behind = {arm: contrast(CIFAR, arm, late) for arm in ("early-bird", "from scratch", "drawn at 2ep", "drawn at 4ep")}
    yield Claim(
        PAGE,
        "not so in 12 epochs of the residual network: the masks are stable at epochs {when}, after the learning rate "
        "was cut, and early-bird saves little ({cost} of a dense training)",
        {"when": listed(when), "cost": number(fmean(cost(CIFAR, "early-bird")), 2)},
        min(when) > 6 and 0.9 < fmean(cost(CIFAR, "early-bird")) < 1,
    )
    yield Claim(
        PAGE,
        "Train, prune, retrain is ahead of every other ticket (of early-bird by {early} points, {ends}), for it goes "
        "through the short schedule twice; no difference from the dense network is shown for the others ({scratch} for "
        "the one from scratch)",
        {
            "early": number(-100 * behind["early-bird"].difference, 1),
            "ends": ends(turned(behind["early-bird"]), digits=1),
            "scratch": ends(contrast(CIFAR, "from scratch", "dense"), digits=1),
        },
        all(sign(one) == -1 for one in behind.values())
        and all(sign(contrast(CIFAR, arm, "dense")) == 0 for arm in behind),
    )
    two, waited = contrast(CIFAR, "drawn at 2ep", "dense"), contrast(CIFAR, "drawn at 2ep", "early-bird")
    yield Claim(
        PAGE,
        "tickets drawn after 2 of 12 epochs, not yet stable, are ahead of those that waited by {waited} points "
        "({waited_ends}); no difference from the dense network is shown ({dense_ends}), at {cost} of its FLOPs",
        {
            "waited": number(100 * waited.difference, 1),
            "waited_ends": ends(waited, digits=1),
            "dense_ends": ends(two, digits=1),
            "cost": number(fmean(cost(CIFAR, "drawn at 2ep")), 2),
        },
        sign(two) == 0 and sign(waited) == 1,
    )
