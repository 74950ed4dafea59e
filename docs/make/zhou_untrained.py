"""docs/deconstructing.md: masks alone, on weights that are never trained."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import Difference, contrast, networks, number, sign, spread
from tombola.results.statistics import interval

PAGE, STUDY = "docs/deconstructing.md", "mnist-untrained"
WEIGHTS = {"init": "79.3", "signed_constant": "86.3"}
"""Weights under the masks -> what Zhou et al. 2019, table 1, reach with large_final_same_sign."""
ZHOU = "large_final_same_sign"


def family(criterion: str, weights: str) -> str:
    return f"{criterion} / {weights}"


def criteria() -> list[str]:
    found = [name.partition(" / ")[0] for name in networks(STUDY).arms() if " / " in name]
    return [name for name in dict.fromkeys(found) if name != "random"]


def values(name: str, column: str = "test_accuracy") -> list[float]:
    return networks(STUDY).where(arm=name).values(column)


def best(criterion: str, weights: str) -> str:
    """The density, as the arms' names have it, of the highest mean validation accuracy."""
    own = [name for name in networks(STUDY).arms() if name.startswith(f"{family(criterion, weights)} at ")]
    return max(own, key=lambda name: fmean(values(name, "val_accuracy"))).rpartition(" at ")[2]


def above_random(criterion: str, weights: str) -> Difference:
    kept = best(criterion, weights)
    return contrast(STUDY, f"{family(criterion, weights)} at {kept}", f"{family('random', weights)} at {kept}")


def tables() -> Iterator[Table]:
    yield Table(STUDY, list(rows()))


def rows() -> Iterator[tuple[str, ...]]:
    yield "criterion", "weights", "kept", "test accuracy", "random mask", "Zhou et al. 2019"
    for criterion in criteria():
        for weights, published in WEIGHTS.items():
            kept = best(criterion, weights)
            yield (
                *(f"`{criterion}`", f"`{weights}`", kept, spread(values(f"{family(criterion, weights)} at {kept}"))),
                *(spread(values(f"{family('random', weights)} at {kept}")), published if criterion == ZHOU else ""),
            )


def claims() -> Iterator[Claim]:
    reached = {w: values(f"{family(ZHOU, w)} at {best(ZHOU, w)}") for w in WEIGHTS}
    beyond = {w: 100 * fmean(reached[w]) - float(WEIGHTS[w]) for w in WEIGHTS}
    covered = interval(reached["init"])
    assert covered is not None
    yield Claim(
        PAGE,
        "signed constants: confirmed, {constant} %, {more} points above theirs. Initial weights: {init} % in the mean, "
        "{less} points below theirs, but the three searches reach {low} to {high} %, and 79.3 % lies within the "
        "interval of their mean ({from_} to {to} %): not decidable with so few. Random masks of the same densities "
        "stay at {random} and {other} %",
        {
            "constant": number(100 * fmean(reached["signed_constant"]), 1),
            "more": number(beyond["signed_constant"], 1),
            "init": number(100 * fmean(reached["init"]), 1),
            "less": number(-beyond["init"], 1),
            "low": number(100 * min(reached["init"]), 1),
            "high": number(100 * max(reached["init"]), 1),
            "from_": number(100 * covered[0], 1),
            "to": number(100 * covered[1], 1),
            **{
                name: number(100 * fmean(values(f"random / {w} at {best(ZHOU, w)}")), 1)
                for name, w in (("random", "init"), ("other", "signed_constant"))
            },
        },
        covered[0] < 0.793 < covered[1]
        and 0 < beyond["signed_constant"] < 2
        and all(sign(above_random(ZHOU, w)) == 1 for w in WEIGHTS),
    )
