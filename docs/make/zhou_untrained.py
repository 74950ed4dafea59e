"""docs/deconstructing.md: masks alone, on weights that are never trained."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from pages import Claim, Table
from results import Difference, contrast, networks, number, sign, spread

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
    reached = {w: fmean(values(f"{family(ZHOU, w)} at {best(ZHOU, w)}")) for w in WEIGHTS}
    beyond = {w: 100 * value - float(WEIGHTS[w]) for w, value in reached.items()}
    yield Claim(
        PAGE,
        "confirmed: {init} and {constant} %, that is {init_more} and {constant_more} points more than there; random "
        "masks of the same densities stay at {init_random} and {constant_random} %",
        {
            "init": number(100 * reached["init"], 1),
            "constant": number(100 * reached["signed_constant"], 1),
            "init_more": number(beyond["init"], 1),
            "constant_more": number(beyond["signed_constant"], 1),
            **{
                f"{short}_random": number(100 * fmean(values(f"random / {w} at {best(ZHOU, w)}")), 1)
                for short, w in (("init", "init"), ("constant", "signed_constant"))
            },
        },
        all(value > 0 for value in beyond.values()) and all(sign(above_random(ZHOU, w)) == 1 for w in WEIGHTS),
    )
