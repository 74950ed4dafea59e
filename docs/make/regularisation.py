"""docs/supermasks.md: joint training beside weight decay, dropout and early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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


def three(found: Mapping[str, Difference]) -> dict[str, str]:
    """The differences of the three settings, as a, b and c."""
    return {k: v for key, study in zip("abc", STUDIES, strict=True) for k, v in said(found[study], key).items()}


def claims() -> Iterator[Claim]:
    joint = "joint 0.5"
    gap = {study: gapped(study, joint) for study in STUDIES}
    yield Claim(
        PAGE,
        "Against weights only, a smaller gap is not shown in any of the three settings: the difference is {a} points "
        "({a_ends}), {b} ({b_ends}) and {c} ({c_ends}).",
        three(gap),
        all(sign(found) >= 0 for found in gap.values()),
    )
    accuracy = {study: tested(study, joint) for study in STUDIES}
    yield Claim(
        PAGE,
        "Nor is a higher test accuracy: {a} points ({a_ends}), {b} ({b_ends}) and {c} ({c_ends}).",
        three(accuracy),
        all(sign(found) <= 0 for found in accuracy.values()),
    )
    learned = {study: contrast(study, joint, "weights, random mask 0.5") for study in STUDIES}
    yield Claim(
        PAGE,
        "Nor does learning the mask add anything to a random one of as many weights: the test accuracy differs by {a} "
        "points ({a_ends}), {b} ({b_ends}) and {c} ({c_ends}).",
        three(learned),
        all(sign(found) <= 0 for found in learned.values()),
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
