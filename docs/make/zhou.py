"""docs/deconstructing.md: Zhou's criteria, kept and pruned actions, and masks without any training, on MNIST."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pages import Claim, Table
from results import Difference, contrast, ends, networks, number, sign, spread

PAGE = "docs/deconstructing.md"
CRITERIA, KEPT, PRUNED = "mnist-criteria", "mnist-kept-actions", "mnist-pruned-actions"
REFERENCE = "large_final / rewind / zero"
PART = {CRITERIA: 0, KEPT: 1, PRUNED: 2}
"""Which part of a combination's name a study varies."""


def densities(study: str) -> list[str]:
    """As the arms' names have them, from dense to sparse."""
    found = [name.rpartition(" at ")[2] for name in networks(study).arms() if " at " in name]
    return list(dict.fromkeys(found))


def combinations(study: str) -> list[str]:
    """The reference first."""
    found = [name.rpartition(" at ")[0] for name in networks(study).arms() if " at " in name]
    return list(dict.fromkeys(found))


def combination(study: str, part: str) -> str:
    """The one that differs from the reference in a single part."""
    parts = REFERENCE.split(" / ")
    parts[PART[study]] = part
    return " / ".join(parts)


def against_reference(study: str, part: str, density: str) -> Difference:
    """Test accuracy, paired by search, over training seeds and test images."""
    return contrast(study, f"{combination(study, part)} at {density}", f"{REFERENCE} at {density}")


def signs(study: str, parts: Sequence[str], kept: Sequence[str]) -> list[int]:
    return [sign(against_reference(study, part, density)) for part in parts for density in kept]


def cell(study: str, name: str, density: str) -> str:
    """Mean ± half of the interval; an arrow where the difference from the reference is significant."""
    values = networks(study).last_levels().where(arm=f"{name} at {density}").values("test_accuracy")
    if name == REFERENCE:
        return spread(values)
    way = sign(contrast(study, f"{name} at {density}", f"{REFERENCE} at {density}"))
    return spread(values) + {1: " ↑", 0: "", -1: " ↓"}[way]


def rows(study: str) -> Iterator[tuple[str, ...]]:
    kept = densities(study)
    yield "", *kept
    for name in combinations(study):
        yield f"`{name.split(' / ')[PART[study]]}`", *(cell(study, name, density) for density in kept)


def tables() -> Iterator[Table]:
    for study in PART:
        yield Table(study, list(rows(study)))


def shown(found: Difference) -> str:
    return number(100 * found.difference, 2, sign=True)


def worst(study: str, part: str) -> Difference:
    """Its difference from the reference at the lowest density."""
    return against_reference(study, part, densities(study)[-1])


def each(study: str, parts: Sequence[str]) -> dict[str, str]:
    return {part: shown(worst(study, part)) for part in parts}


def claims() -> Iterator[Claim]:
    yield from criteria_claims()
    yield from kept_claims()
    yield from pruned_claims()


def criteria_claims() -> Iterator[Claim]:
    kept = densities(CRITERIA)
    increase = worst(CRITERIA, "magnitude_increase")
    rest = signs(CRITERIA, ["magnitude_increase"], kept[:-1])
    yield Claim(
        PAGE,
        "confirmed: no difference is shown at the three higher densities, and at the lowest it is ahead by {points} "
        "points ({ends})",
        {"points": number(100 * increase.difference, 2), "ends": ends(increase)},
        rest == [0, 0, 0] and sign(increase) == 1,
    )
    poor = ["large_init", "small_init", "large_init_large_final", "random"]
    controls = ["small_final", "small_init_small_final"]
    yield Claim(
        PAGE,
        "confirmed: all of them behind at every density below the highest; at the lowest {large_init}, {small_init}, "
        "{large_init_large_final} and {random} points, and {small_final} for the smallest final weights",
        {**each(CRITERIA, poor), "small_final": shown(worst(CRITERIA, "small_final"))},
        set(signs(CRITERIA, [*poor, *controls], kept[1:])) == {-1},
    )
    same = signs(CRITERIA, ["large_final_same_sign", "magnitude_increase_same_sign"], kept[1:])
    yield Claim(
        PAGE,
        "no difference from the plain criteria is shown below the highest density ({low} and {increase} points at the "
        "lowest)",
        {
            "low": shown(worst(CRITERIA, "large_final_same_sign")),
            "increase": shown(worst(CRITERIA, "magnitude_increase_same_sign")),
        },
        set(same) == {0},
    )


def kept_claims() -> Iterator[Claim]:
    kept = densities(KEPT)
    without = ["reinit", "reshuffle", "constant"]
    yield Claim(
        PAGE,
        "confirmed: at every density below the highest they are behind, by {reinit}, {reshuffle} and {constant} points "
        "at the lowest, half of what a random mask loses ({random})",
        {
            **{part: number(-100 * worst(KEPT, part).difference, 2) for part in without},
            "random": number(-100 * worst(CRITERIA, "random").difference, 2),
        },
        set(signs(KEPT, without, kept[1:])) == {-1},
    )
    same = [f"{part}_same_sign" for part in without]
    yield Claim(
        PAGE,
        "confirmed, and more: none of the three is behind at any density, and at the lowest they are {reinit}, "
        "{reshuffle} and {constant} points from the ticket, of which the second is significant",
        {part.removesuffix("_same_sign"): shown(worst(KEPT, part)) for part in same},
        -1 not in signs(KEPT, same, kept) and [sign(worst(KEPT, part)) for part in same] == [0, 1, 0],
    )


def pruned_claims() -> Iterator[Claim]:
    kept = densities(PRUNED)
    freeze = worst(PRUNED, "freeze")
    yield Claim(
        PAGE,
        "not decidable with three searches: behind in the mean at every density, but no interval leaves out 0 (at the "
        "lowest {points} points, {ends}); frozen at other weights of the layer (`freeze_reinit`) they are behind by "
        "{reinit}",
        {
            "points": shown(freeze),
            "ends": ends(freeze),
            "reinit": number(-100 * worst(PRUNED, "freeze_reinit").difference, 2),
        },
        set(signs(PRUNED, ["freeze"], kept)) == {0}
        and all(against_reference(PRUNED, "freeze", density).difference < 0 for density in kept)
        and sign(worst(PRUNED, "freeze_reinit")) == -1,
    )
    variants = ["zero_or_freeze", "zero_or_freeze_all"]
    controls = ["zero_or_freeze_reshuffled", "zero_or_freeze_reversed"]
    yield Claim(
        PAGE,
        "confirmed: at the two lower densities both variants are ahead of `zero`, at the lowest by {zero_or_freeze} "
        "and {zero_or_freeze_all} points; as many zeros at other places gain nothing ({zero_or_freeze_reshuffled}), "
        "and the reverse is behind at every density ({zero_or_freeze_reversed})",
        each(PRUNED, [*variants, *controls]),
        set(signs(PRUNED, variants, kept[-2:])) == {1}
        and set(signs(PRUNED, controls[:1], kept)) == {0}
        and set(signs(PRUNED, controls[1:], kept)) == {-1},
    )
    train = [against_reference(PRUNED, "train", density) for density in kept]
    yield Claim(
        PAGE,
        "as an initialisation alone the mask does not help: `train` is behind the ticket at the three higher "
        "densities, by {most} points at most",
        {"most": number(-100 * min(one.difference for one in train[:-1]), 2)},
        [sign(one) for one in train] == [-1, -1, -1, 0],
    )
