"""docs/verdict.md: how often verify's claims and intervals are wrong, in made-up experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pages import Claim, Table
from results import Networks, networks, number

PAGE, STUDY, NAME = "docs/verdict.md", "verdict-error-rates", "rates.csv"
STATED, WITHIN = 0.05, 0.01
GROUPS: dict[str, dict[str, object]] = {
    "50, 5": {"examples": 50, "replicates": 5},
    **{f"359, {n}": {"examples": 359, "replicates": n} for n in (3, 5, 10)},
    **{f"1,000, {n}": {"examples": 1000, "replicates": n} for n in (3, 5, 10)},
    "10,000, 5": {"examples": 10_000, "replicates": 5},
}
COLUMNS = {
    "matches": "claimed to match",
    "beats": "claimed to beat",
    "outside": "outside the two-sided interval",
    "any_claim": "any of three, Holm",
    "any_uncorrected": "any of three, uncorrected",
    "seeds_alone": "claimed to match, seeds alone",
}


def rates() -> Networks:
    return networks(STUDY, NAME)


def between(values: list[float], digits: int = 3) -> str:
    return f"{number(min(values), digits)} to {number(max(values), digits)}"


def tables() -> Iterator[Table]:
    rows = [("test examples, replicates", "settings", *COLUMNS.values())]
    for name, wanted in GROUPS.items():
        found = rates().where(**wanted)
        rows.append((name, str(len(found.rows)), *(between(found.values(column)) for column in COLUMNS)))
    yield Table("verdict-error-rates", rows)


def share(column: str, holds: Callable[[float], bool], found: Networks | None = None) -> str:
    values = (found or rates()).values(column)
    return f"{sum(map(holds, values))} of {len(values)}"


def claims() -> Iterator[Claim]:
    every = rates()
    one_sided = [*every.values("matches"), *every.values("beats")]
    yield Claim(
        PAGE,
        "One-sided rates reach {most} where 0.05 is stated",
        {"most": number(max(one_sided), 4)},
        holds=max(one_sided) < 0.065,
    )
    yield Claim(
        PAGE,
        "intervals miss in at most {most} of the experiments",
        {"most": number(max(every.values("outside")), 4)},
        holds=max(every.values("outside")) <= 0.06,
    )
    yield Claim(
        PAGE,
        "after Holm's correction at least one false claim is made in at most {most} of them, without it in up "
        "to {open} of them",
        {"most": number(max(every.values("any_claim")), 4), "open": number(max(every.values("any_uncorrected")), 3)},
        holds=max(every.values("any_claim")) <= 0.06,
    )
    yield Claim(
        PAGE,
        "Seeds alone would have claimed a false match in up to {most} of them",
        {"most": number(max(every.values("seeds_alone")), 3)},
    )
    yield Claim(
        PAGE,
        "within 0.01 of what is stated in {matches} settings for a match, {beats} for a control and {outside} for the "
        "interval",
        {
            column: share(column, lambda value: STATED - WITHIN <= value <= STATED + WITHIN)
            for column in ("matches", "beats", "outside")
        },
    )
    yield Claim(
        PAGE,
        "Above 0.06 are {above} for a match and {controls} for a control",
        {
            "above": share("matches", lambda value: value > 0.06),
            "controls": share("beats", lambda value: value > 0.06),
        },
    )
    few = every.where(examples=359, accuracy=0.995)
    yield Claim(
        PAGE,
        "At an accuracy of 99.5 % on 359 examples, where a network has two errors, the rates for a match go from {low} "
        "to {high} only",
        {"low": number(min(few.values("matches")), 3), "high": number(max(few.values("matches")), 3)},
    )
