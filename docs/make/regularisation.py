"""docs/supermasks.md: joint training beside weight decay, dropout and early stopping."""

from __future__ import annotations

from collections.abc import Iterator

from joint import gaps
from pages import Claim, Table
from results import Difference, arm, contrast, ends, networks, number, paired, sign, spread

PAGE = "docs/supermasks.md"
STUDIES = ("mnist-regularisation", "mnist-regularisation-noise", "mnist-regularisation-noise-5000")
DENSE = "weights only"


def tables() -> Iterator[Table]:
    yield Table("regularisation", list(rows()))


def rows() -> Iterator[tuple[str, ...]]:
    settings = ("1,000 examples", "1,000, a fifth wrong", "5,000, a fifth wrong")
    yield "", *(head for setting in settings for head in (f"test accuracy: {setting}", "gap"))
    for name in networks(STUDIES[0]).arms():
        yield name, *(cell for study in STUDIES for cell in (spread(arm(study, name)), spread(gaps(study, name))))


def tested(study: str, name: str) -> Difference:
    """An arm's test accuracy minus that of weights only."""
    return contrast(study, name, DENSE)


def gapped(study: str, name: str) -> Difference:
    """An arm's gap minus that of weights only; every replicate of both begins with the same weights."""
    return paired(gaps(study, name), gaps(study, DENSE), True)


def said(found: Difference, key: str) -> dict[str, str]:
    return {key: number(100 * found.difference, 2, sign=True), f"{key}_ends": ends(found)}


def claims() -> Iterator[Claim]:
    accuracy = {study: tested(study, "joint 0.5") for study in STUDIES}
    gap = {study: gapped(study, "joint 0.5") for study in STUDIES}
    yield Claim(
        PAGE,
        "Its gap is not smaller than that of weights only in any of the three settings: the difference is {a} points "
        "({a_ends}), {b} ({b_ends}) and {c} ({c_ends}).",
        {k: v for key, study in zip("abc", STUDIES, strict=True) for k, v in said(gap[study], key).items()},
        all(sign(found) >= 0 for found in gap.values()),
    )
    yield Claim(
        PAGE,
        "Nor is its test accuracy higher: {a} points ({a_ends}), {b} ({b_ends}) and {c} ({c_ends}).",
        {k: v for key, study in zip("abc", STUDIES, strict=True) for k, v in said(accuracy[study], key).items()},
        all(sign(found) <= 0 for found in accuracy.values()),
    )
    noisy = STUDIES[1:]
    for name, text in (
        ("dropout 0.5", "Dropout of one half adds {a} points ({a_ends}) and {b} ({b_ends}) of test accuracy"),
        ("early stopping", "early stopping adds {a} ({a_ends}) and {b} ({b_ends})"),
    ):
        found = [tested(study, name) for study in noisy]
        yield Claim(
            PAGE,
            text,
            {**said(found[0], "a"), **said(found[1], "b")},
            all(sign(one) == 1 for one in found),
        )
