"""docs/geometry.md: the same searches across initialisation schemes and seeds, on MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import Claim, Table
from results import number, record, spread

PAGE = "docs/geometry.md"
STUDY = "mnist-initialisations"
SHORT = {"kaiming_normal": "Kaiming normal", "xavier_normal": "Xavier normal", "signed_constant": "signed constants"}


def result() -> Mapping[str, Any]:
    found: Mapping[str, Any] = record(STUDY, "initialisations.json")["result"]
    return found


def overlap(kind: str, mask: str, init: str) -> Mapping[str, Any]:
    """What masks share as a whole: of the first pair of that kind with that mask and scheme."""
    rows = result()["overlaps"]
    found: Mapping[str, Any] = next(
        one for one in rows if one["kind"] == kind and mask in one["masks"] and init in one["inits"]
    )["whole"]
    return found


def tables() -> Iterator[Table]:
    yield Table(STUDY, list(accuracies()))
    yield Table(f"{STUDY}-overlap", list(overlaps()))


def accuracies() -> Iterator[tuple[str, ...]]:
    """A row for each scheme: what its searches end with, and how its masks do on the weights of other schemes."""
    found = result()
    yield (
        "initialisation",
        "dense",
        "ticket",
        "supermask, untrained",
        "ticket's mask of the first on these weights",
        "random mask on these weights",
    )
    ends = {(one["init"], one["mask"]): one["accuracy"]["values"] for one in found["accuracy"]}
    moved = {(one["mask"], one["found"], one["on"]): one["trained"]["values"] for one in found["transfer"]}
    first = found["inits"][0]
    for init in found["inits"]:
        yield (
            SHORT[init],
            *(spread(ends[init, mask]) for mask in ("dense", "IMP ticket", "supermask")),
            spread(moved["IMP ticket", first, init]),
            spread(moved["random as IMP ticket", init, init]),
        )


def overlaps() -> Iterator[tuple[str, ...]]:
    yield "what differs", "masks", "initialisations", "shared / by chance", "same inputs", "same sizes", "first weights"
    for one in result()["overlaps"]:
        weights = one.get("weights")
        yield (
            one["kind"],
            " and ".join(dict.fromkeys(one["masks"])),
            ", ".join(SHORT[init] for init in dict.fromkeys(one["inits"])),
            *(ratio(one["whole"][name]) for name in ("ratio", "ratio_same_inputs", "ratio_same_sizes")),
            "" if weights is None else number(weights["mean"], 2),
        )


def ratio(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return ""
    low, high = found["interval"]
    return f"{number(found['mean'], 2)} ± {number((high - low) / 2, 2)}"


def means(kind: str, mask: str, name: str = "ratio") -> list[float]:
    """A figure of every kind of pair of those masks."""
    rows = result()["overlaps"]
    return [one["whole"][name]["mean"] for one in rows if one["kind"] == kind and mask in one["masks"]]


def ends(found: Mapping[str, Any]) -> str:
    low, high = (number(end, 2) for end in found["interval"])
    return f"{low} to {high}"


def points(found: Mapping[str, Any]) -> str:
    """A difference of accuracies and its interval."""
    low, high = (number(100 * end, 2, sign=True) for end in found["interval"])
    return f"{number(100 * found['mean'], 2, sign=True)} points ({low} to {high})"


def claims() -> Iterator[Claim]:
    normal, signed = "kaiming_normal", "signed_constant"
    both = [overlap("methods", "supermask", init) for init in result()["inits"]]
    shared = [found["ratio"]["mean"] for found in both]
    yield Claim(
        PAGE,
        "the two methods share {low} to {high} times as many weights as chance, more than chance under every scheme",
        {"low": number(min(shared), 2), "high": number(max(shared), 2)},
        all(found["ratio"]["interval"][0] > 1 for found in both),
    )
    sized = [found["ratio_same_sizes"] for found in both]
    yield Claim(
        PAGE,
        "against masks that favour the same sizes it is still {low} to {high}",
        {
            "low": number(min(found["mean"] for found in sized), 2),
            "high": number(max(found["mean"] for found in sized), 2),
        },
        all(found["interval"][0] > 1 for found in sized),
    )
    seeds = [one["whole"] for one in result()["overlaps"] if one["kind"] in ("seeds", "schemes and seeds")]
    inputs = [found["ratio_same_inputs"] for found in seeds]
    yield Claim(
        PAGE,
        "tickets of two seeds share {ratio} times chance on signed constants ({ends}), as they like the same inputs",
        {
            "ratio": number(overlap("seeds", "IMP ticket", signed)["ratio"]["mean"], 2),
            "ends": ends(overlap("seeds", "IMP ticket", signed)["ratio"]),
        },
        overlap("seeds", "IMP ticket", signed)["ratio"]["interval"][0] > 1,
    )
    yield Claim(
        PAGE,
        "counted input by input, no pair of two seeds shares more or fewer than chance: {low} to {high}",
        {
            "low": number(min(found["mean"] for found in inputs), 2),
            "high": number(max(found["mean"] for found in inputs), 2),
        },
        all(found["interval"][0] <= 1 <= found["interval"][1] for found in inputs),
    )
    alike, less = (
        next(
            one["whole"]["ratio"]["mean"]
            for one in result()["overlaps"]
            if one["kind"] == "schemes" and one["masks"][0] == "IMP ticket" and one["inits"] == [normal, other]
        )
        for other in ("xavier_normal", signed)
    )
    yield Claim(
        PAGE,
        "their tickets share {alike} times chance, those of normal weights and of their signs alone {less} times",
        {"alike": number(alike, 2), "less": number(less, 2)},
        alike > less > 1,
    )
    change = {
        (one["init"], one["mask"]): one["against_first"]
        for one in result()["accuracy"]
        if one["against_first"] is not None
    }
    ticket, supermask = change[signed, "IMP ticket"], change[signed, "supermask"]
    yield Claim(
        PAGE,
        "on signed constants supermasks are better than on Kaiming normal weights by {supermask}, tickets by {ticket}, "
        "both little",
        {"supermask": points(supermask), "ticket": points(ticket)},
        supermask["interval"][0] > 0 and ticket["interval"][0] > 0,
    )
    moved = next(
        one for one in result()["transfer"] if (one["mask"], one["found"], one["on"]) == ("IMP ticket", normal, signed)
    )
    yield Claim(
        PAGE,
        "trained on signed constants, differs by {own} from their own ticket's mask, and by {chance} from a random one",
        {"own": points(moved["against_own_trained"]), "chance": points(moved["against_random_trained"])},
        moved["against_random_trained"]["interval"][0] > 0,
    )
