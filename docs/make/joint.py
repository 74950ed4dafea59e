"""docs/supermasks.md: does joint training of mask and weights regularise?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from pages import Claim, Table
from results import Difference, arm, ends, networks, number, paired, sign, spread, turned

PAGE = "docs/supermasks.md"
DENSITIES = (30, 50, 70)
FAMILIES = ("weights, random mask", "mask only", "joint")


def tables() -> Iterator[Table]:
    yield Table("joint", list(rows()))


def joint_arms() -> Iterator[tuple[str, str, str]]:
    """Row, kept, arm."""
    yield "weights only", "100 %", "weights only"
    for density in DENSITIES:
        for family in FAMILIES:
            yield family, f"{density} %", f"{family} {density / 100:g}"


def gaps(study: str, name: str) -> list[float]:
    """Training minus validation accuracy, both in evaluation mode."""
    trained, val = arm(study, name, "train_accuracy_eval"), arm(study, name, "val_accuracy")
    return [a - b for a, b in zip(trained, val, strict=True)]


def shifts(name: str) -> list[float]:
    """Validation minus test accuracy with the cue."""
    study = "mnist-joint-cue"
    return [a - b for a, b in zip(arm(study, name, "val_accuracy"), arm(study, name), strict=True)]


def rows() -> Iterator[tuple[str, ...]]:
    yield "", "kept", "test accuracy", "gap", "test accuracy with cue", "shift"
    for row, kept, name in joint_arms():
        yield (
            *(row, kept, spread(arm("mnist-joint", name)), spread(gaps("mnist-joint", name))),
            *(spread(arm("mnist-joint-cue", name)), spread(shifts(name))),
        )


def first_weights(name: str) -> list[str]:
    return [row["origin"] for row in networks("mnist-joint").last_levels().where(arm=name).rows]


def compared(family: str, density: int, against: str, read: Callable[[str], list[float]]) -> Difference:
    """A family's arm minus another one, in what `read` gives of an arm."""
    first = f"{family} {density / 100:g}"
    second = against if against == "weights only" else f"{against} {density / 100:g}"
    return paired(read(first), read(second), first_weights(first) == first_weights(second))


def claims() -> Iterator[Claim]:
    gap = partial(gaps, "mnist-joint")
    dense, random = "weights only", "weights, random mask"
    found = {d: compared("joint", d, dense, gap) for d in DENSITIES}
    yield Claim(
        PAGE,
        "Against the dense network, its gap is not smaller at any density: the difference is {at30} points at 30 % "
        "({ends30}), {at50} at 50 % ({ends50}) and {at70} at 70 % ({ends70}).",
        both(found),
        all(sign(one) >= 0 for one in found.values()),
    )
    found = {d: compared("joint", d, dense, shifts) for d in DENSITIES}
    yield Claim(
        PAGE,
        "its shift is larger by {at30} points at 30 % ({ends30}) and by {at50} at 50 % ({ends50}); at 70 % the "
        "difference is not significant ({ends70})",
        {key: value for key, value in both(found).items() if key != "at70"},
        [sign(found[d]) for d in DENSITIES] == [1, 1, 0],
    )
    found = {d: turned(compared("joint", d, random, shifts)) for d in DENSITIES}
    level = [sign(compared("joint", d, random, gap)) for d in DENSITIES]
    yield Claim(
        PAGE,
        "at 30 % it relies less on the cue, by {at30} points of shift ({ends30}). At 50 and 70 % the difference is "
        "not significant ({ends50}; {ends70}), and that of the gap at no density.",
        {
            "at30": number(100 * found[30].difference, 2),
            **{f"ends{d}": ends(found[d]) for d in DENSITIES},
        },
        [sign(found[d]) for d in DENSITIES] == [1, 0, 0] and level == [0, 0, 0],
    )
    found = {d: turned(compared("mask only", d, dense, gap)) for d in DENSITIES}
    others = (dense, random, "joint")
    hardest = [sign(compared("mask only", d, other, shifts)) for d in DENSITIES for other in others]
    yield Claim(
        PAGE,
        "A mask alone has a smaller gap than the dense network at 30 %, by {at30} points ({ends30}); at 50 and 70 % "
        "the difference is not significant ({ends50}; {ends70}). At every density it relies on the cue most of all.",
        {
            "at30": number(100 * found[30].difference, 2),
            **{f"ends{d}": ends(found[d]) for d in DENSITIES},
        },
        [sign(found[d]) for d in DENSITIES] == [1, 0, 0] and set(hardest) == {1},
    )
    yield Claim(
        "README.md",
        "here its gap between training and validation accuracy is not smaller than the dense network's at any density, "
        "and a spurious cue misleads it no less.",
        {},
        all(sign(compared("joint", d, dense, read)) >= 0 for d in DENSITIES for read in (gap, shifts)),
    )


def both(found: Mapping[int, Difference]) -> dict[str, str]:
    """Points and ends of each density's difference."""
    points = {f"at{d}": number(100 * one.difference, 2) for d, one in found.items()}
    return points | {f"ends{d}": ends(one) for d, one in found.items()}
