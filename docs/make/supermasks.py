"""docs/supermasks.md: learned masks against weight training, joint training, and what masks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import fmean
from typing import Any

from pages import Claim, Table
from results import (
    Difference,
    arm,
    contrast,
    ends,
    networks,
    number,
    paired,
    record,
    sign,
    spread,
    turned,
)

PAGE = "docs/supermasks.md"
DRAWN = {
    "drawn mask": ("drawn mask", "95.3"),
    "+ signed constant": ("drawn mask, signed constant", "96.4"),
    "+ rescaling": ("drawn mask, rescaled", "97.8"),
    "+ both": ("drawn mask, rescaled, signed constant", "98.0"),
}
"""Row -> arm, and the test accuracy of Zhou et al. 2019, table 1."""
SAMPLED = "test_accuracy_sampled"
DENSITIES = (30, 50, 70)
FAMILIES = {"weights, random mask": "weights, random mask", "mask only": "mask only", "joint": "joint"}

_masks = partial(arm, "mnist-supermasks")
_against = partial(contrast, "mnist-supermasks")


def tables() -> Iterator[Table]:
    yield Table("drawn-masks", list(drawn_rows()))
    yield Table("mask-densities", list(density_rows()))
    yield Table("joint", list(joint_rows()))
    yield Table("overlap", list(overlap_rows()))
    yield Table("mask-init", list(mask_init_rows()))


def drawn_rows() -> Iterator[tuple[str, ...]]:
    yield "", "kept", "p > 0.5 mask", "mean of 10 drawn masks", "Zhou et al. 2019"
    for name, (which, published) in DRAWN.items():
        kept = f"{number(100 * fmean(_masks(which, 'density')), 1)} %"
        yield name, kept, spread(_masks(which)), spread(_masks(which, SAMPLED)), published


def density_rows() -> Iterator[tuple[str, ...]]:
    kept = (10, 30, 50, 70, 90)
    yield "kept", *(f"{density} %" for density in kept), "100 %"
    yield "edge-popup", *(spread(_masks(f"edge-popup {density}")) for density in kept), ""
    yield "joint", "", *(spread(_masks(f"joint {density}")) for density in DENSITIES), "", ""
    yield "weights only", *[""] * len(kept), spread(_masks("weights only"))


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


def joint_rows() -> Iterator[tuple[str, ...]]:
    yield "", "kept", "test accuracy", "gap", "test accuracy with cue", "shift"
    for row, kept, name in joint_arms():
        yield (
            *(row, kept, spread(arm("mnist-joint", name)), spread(gaps("mnist-joint", name))),
            *(spread(arm("mnist-joint-cue", name)), spread(shifts(name))),
        )


OVERLAP = {
    "IMP ticket": "IMP ticket",
    "supermask": "supermask",
    "random as IMP ticket": "random, IMP's layer densities",
    "random as supermask": "random, the supermask's",
    "dense": "dense",
}


def overlap(density: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = record("mnist-overlap", f"result-{density}.json")
    return found


def tried(density: int, mask: str, how: str) -> Mapping[str, Any]:
    """A mask's figure `untrained` or `trained`."""
    found: Mapping[str, Any] = next(a for a in overlap(density)["accuracy"] if a["mask"] == mask)[how]
    return found


def changed(density: int, of: str, against: str, how: str) -> Mapping[str, Any]:
    """The difference of two masks, paired by replicate."""
    differences = overlap(density)["differences"]
    found: Mapping[str, Any] = next(d for d in differences if (d["of"], d["against"]) == (of, against))[how]
    return found


def overlap_rows() -> Iterator[tuple[str, ...]]:
    yield "mask", *(f"{how}, {d} %" for d in (10, 50) for how in ("untrained", "weights trained"))
    for mask, name in OVERLAP.items():
        cells = (tried(d, mask, how)["values"] for d in (10, 50) for how in ("untrained", "trained"))
        yield name, *map(spread, cells)


def mask_init_rows() -> Iterator[tuple[str, ...]]:
    arms = ("weights only", "mask only", "mask, then weights")
    yield "test accuracy, %", *arms, "masked, mask only", "masked, third arm"
    for name, study in (("CIFAR-10, 600 it", "cifar10-mask-init"), ("MNIST, 160 it", "mnist-mask-init")):
        masked = (f"{number(100 * (1 - arm(study, which, 'density')[0]), 1)} %" for which in arms[1:])
        yield name, *(number(100 * arm(study, which)[0], 2) for which in arms), *masked


def within(found: Mapping[str, Any], turn: bool = False) -> str:
    """low to high of a figure's interval, in points; `turn`: of the second minus the first."""
    scale = -100 if turn else 100
    low, high = sorted(scale * end for end in found["interval"])
    return f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}"


def claims() -> Iterator[Claim]:
    yield from untrained_claims()
    yield from joint_claims()
    yield from overlap_claims()
    yield from cifar_claims()


def untrained_claims() -> Iterator[Claim]:
    behind = _against("edge-popup 50", "weights only")
    yield Claim(
        PAGE,
        "untrained networks come near the trained one: edge-popup at 50 % is {points} points behind",
        {"points": number(-100 * behind.difference, 2)},
        sign(behind) < 0,
    )
    signed = _against("drawn mask, signed constant", "drawn mask", SAMPLED)
    stored = _against("drawn mask, signed constant", "drawn mask")
    yield Claim(
        PAGE,
        "signed constants help drawn masks by {points} points in the mean (of the p > 0.5 mask no difference is "
        "shown, {stored})",
        {"points": number(100 * signed.difference, 2), "stored": ends(stored)},
        sign(signed) > 0 and sign(stored) == 0,
    )
    scaled = _against("drawn mask, rescaled", "drawn mask", SAMPLED)
    beside = _against("drawn mask, rescaled, signed constant", "drawn mask, signed constant", SAMPLED)
    yield Claim(
        PAGE,
        "rescaling adds {alone} points to the mean of drawn masks (there 2.5), and beside signed constants no "
        "difference is shown ({interval}; there 1.6)",
        {"alone": number(100 * scaled.difference, 2), "interval": ends(beside)},
        sign(scaled) > 0 and sign(beside) == 0,
    )
    gains = {density: _against(f"joint {density}", "weights only") for density in DENSITIES}
    yield Claim(
        PAGE,
        "joint training beats training the weights alone by {at50} points at 50 % and {at70} at 70 %; at 30 % no "
        "difference is shown ({at30})",
        {
            "at50": number(100 * gains[50].difference, 2),
            "at70": number(100 * gains[70].difference, 2),
            "at30": ends(gains[30]),
        },
        sign(gains[50]) > 0 and sign(gains[70]) > 0 and sign(gains[30]) == 0,
    )


def first_weights(name: str) -> list[str]:
    return [row["origin"] for row in networks("mnist-joint").last_levels().where(arm=name).rows]


def compared(family: str, density: int, against: str, read: Callable[[str], list[float]]) -> Difference:
    """A family's arm minus another one, in what `read` gives of an arm."""
    first = f"{family} {density / 100:g}"
    second = against if against == "weights only" else f"{against} {density / 100:g}"
    return paired(read(first), read(second), first_weights(first) == first_weights(second))


def joint_claims() -> Iterator[Claim]:
    gap = partial(gaps, "mnist-joint")
    dense, random = "weights only", "weights, random mask"
    found = {d: compared("joint", d, dense, gap) for d in DENSITIES}
    yield Claim(
        PAGE,
        "Against the dense network, its gap is smaller at no density: the difference is {at30} points at 30 % "
        "({ends30}), {at50} at 50 % ({ends50}) and {at70} at 70 % ({ends70}).",
        both(found),
        all(sign(one) >= 0 for one in found.values()),
    )
    found = {d: compared("joint", d, dense, shifts) for d in DENSITIES}
    yield Claim(
        PAGE,
        "its shift is larger by {at30} points at 30 % ({ends30}) and by {at50} at 50 % ({ends50}); at 70 % no "
        "difference is shown ({ends70})",
        {key: value for key, value in both(found).items() if key != "at70"},
        [sign(found[d]) for d in DENSITIES] == [1, 1, 0],
    )
    found = {d: turned(compared("joint", d, random, shifts)) for d in DENSITIES}
    level = [sign(compared("joint", d, random, gap)) for d in DENSITIES]
    yield Claim(
        PAGE,
        "at 30 % it falls less for the cue, by {at30} points of shift ({ends30}). At 50 and 70 % no difference is "
        "shown ({ends50}; {ends70}), and in the gap at no density.",
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
        "no difference is shown ({ends50}; {ends70}). It falls for the cue the hardest at every density.",
        {
            "at30": number(100 * found[30].difference, 2),
            **{f"ends{d}": ends(found[d]) for d in DENSITIES},
        },
        [sign(found[d]) for d in DENSITIES] == [1, 0, 0] and set(hardest) == {1},
    )
    yield Claim(
        "README.md",
        "here its gap between training and validation accuracy is smaller than the dense network's at no density, "
        "and a spurious cue misleads it no less.",
        {},
        all(sign(compared("joint", d, dense, read)) >= 0 for d in DENSITIES for read in (gap, shifts)),
    )


def both(found: Mapping[int, Difference]) -> dict[str, str]:
    """Points and ends of each density's difference."""
    points = {f"at{d}": number(100 * one.difference, 2) for d, one in found.items()}
    return points | {f"ends{d}": ends(one) for d, one in found.items()}


def overlap_claims() -> Iterator[Claim]:
    ten, half = overlap(10)["whole"], overlap(50)["whole"]
    yield Claim(
        PAGE,
        "At 10 % the two masks share {ratio} times as many weights as chance would ({low} to {high}); against random "
        "masks that favour initially large weights as they do, {sized} times ({sized_low} to {sized_high})",
        {
            "ratio": number(ten["ratio"]["mean"], 2),
            "low": number(ten["ratio"]["interval"][0], 2),
            "high": number(ten["ratio"]["interval"][1], 2),
            "sized": number(ten["ratio_same_sizes"]["mean"], 2),
            "sized_low": number(ten["ratio_same_sizes"]["interval"][0], 2),
            "sized_high": number(ten["ratio_same_sizes"]["interval"][1], 2),
        },
        ten["ratio_same_sizes"]["interval"][0] > 1,
    )
    output = overlap(10)["layers"][-1]["first"]["density"]["mean"]
    yield Claim(
        PAGE,
        "those that IMP keeps are {imp} times as large as the layer's mean at the start, the supermask's {mask} "
        "times. At 50 % they share {half} times chance. Their layers differ: at 10 % IMP keeps {output} % of the "
        "output layer",
        {
            "imp": number(ten["first"]["magnitude"]["mean"], 1),
            "mask": number(ten["second"]["magnitude"]["mean"], 1),
            "half": number(half["ratio"]["mean"], 2),
            "output": number(100 * output, 0),
        },
    )
    trains = changed(10, "supermask", "IMP ticket", "trained")
    works = changed(10, "supermask", "IMP ticket", "untrained")
    yield Claim(
        PAGE,
        "the ticket trains better at 10 % (by {points} points, but the interval includes 0: {interval}), the "
        "supermask works better untrained (by {works}, {works_interval})",
        {
            "points": number(-100 * trains["mean"], 2),
            "interval": within(trains, turn=True),
            "works": number(100 * works["mean"], 1),
            "works_interval": within(works),
        },
        trains["interval"][1] > 0 > trains["interval"][0] and works["interval"][0] > 0,
    )
    imp = {d: changed(d, "IMP ticket", "random as IMP ticket", "untrained") for d in (10, 50)}
    mask = {d: changed(d, "supermask", "random as supermask", "trained") for d in (10, 50)}
    yield Claim(
        PAGE,
        "the ticket untrained is {imp10} points above its random mask at 10 % and {imp50} at 50 %; weights trained "
        "under the supermask are {mask10} points above those under its random mask at 10 %, and at 50 % no "
        "difference is shown ({mask50})",
        {
            "imp10": number(100 * imp[10]["mean"], 1),
            "imp50": number(100 * imp[50]["mean"], 1),
            "mask10": number(100 * mask[10]["mean"], 2),
            "mask50": within(mask[50]),
        },
        imp[10]["interval"][0] > 0
        and imp[50]["interval"][0] > 0
        and mask[10]["interval"][0] > 0 > mask[50]["interval"][0],
    )
    yield Claim(
        PAGE,
        "An untrained IMP mask at {low} to {high} % is Zhou's",
        {
            "low": number(100 * tried(10, "IMP ticket", "untrained")["mean"], 0),
            "high": number(100 * tried(50, "IMP ticket", "untrained")["mean"], 0),
        },
    )
    yield Claim(
        PAGE,
        "too few are left for that: {ten} % against {half} % at one half",
        {
            "ten": number(100 * tried(10, "supermask", "untrained")["mean"], 1),
            "half": number(100 * tried(50, "supermask", "untrained")["mean"], 1),
        },
    )
    masks = ("random as IMP ticket", "random as supermask")
    chance = [tried(density, mask, "untrained") for density in (10, 50) for mask in masks]
    yield Claim(
        "README.md",
        "random masks left untrained are at chance, {low} to {high} % in the mean over three searches",
        {
            "low": number(100 * min(c["mean"] for c in chance), 1),
            "high": number(100 * max(c["mean"] for c in chance), 1),
        },
        all(c["interval"][0] < 0.1 < c["interval"][1] for c in chance),
    )


def cifar_claims() -> Iterator[Claim]:
    popup, dense = (arm("cifar10-conv-4", name)[0] for name in ("edge-popup 50 %", "dense"))
    yield Claim(
        PAGE,
        "edge-popup at 50 % (SGD 0.1) {popup} %, dense training (Adam 3e-4) {dense} % test accuracy",
        {"popup": number(100 * popup, 2), "dense": number(100 * dense, 2)},
        popup < dense,
    )
    third = arm("mnist-mask-init", "mask, then weights", "density")[0]
    yield Claim(
        PAGE,
        "the third arm's mask had removed {share} % of the weights, so that the network under it was dense",
        {"share": number(100 * (1 - third), 1)},
        third == 1,
    )
    layers = networks("cifar10-mask-init", "layers.csv").where(arm="mask only", level=1).rows
    most = max(1 - int(row["kept"]) / int(row["total"]) for row in layers)
    yield Claim(
        PAGE,
        "(no layer masks more than {most} % here, 16 % there)",
        {"most": number(100 * most, 1)},
        most < 0.16,
    )
    curves = networks("cifar10-mask-init", "curves.csv").where(arm="mask, then weights")
    before = curves.where(level=1).values("val_accuracy")[-1]
    after = curves.where(level=2).values("val_accuracy")
    yield Claim(
        PAGE,
        "is {jump} points of validation accuracy on CIFAR-10 ({before} to {after}), of which {soon} in the first 60 iterations",
        {
            "jump": number(100 * (after[-1] - before), 1),
            "before": number(100 * before, 1),
            "after": number(100 * after[-1], 1),
            "soon": number(100 * (after[1] - before), 1),
        },
        after[1] - before > (after[-1] - before) / 2,
    )
