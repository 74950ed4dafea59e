"""docs/questions.md: what the sources ask, answered from the results of the other pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import geometry
import joint
import sparse_descent as descent
from other_ways import BUDGETS, flops, last
from pages import Claim, Table
from results import arm, contrast, mean_percent, networks, number, record, sign, turned

PAGE = "docs/questions.md"


def tables() -> Iterator[Table]:
    return iter(())


def claims() -> Iterator[Claim]:
    yield from _regime()
    yield from _told()
    yield from _searches()
    yield from _regularises()
    yield from _starts()


def _regime() -> Iterator[Claim]:
    lottery = descent.curve("lottery")
    threshold, other = (descent.kept(descent.curve(name).threshold) for name in ("lottery", "finetune"))
    best = min(lottery.points, key=lambda point: point["test_error"])
    fits = lottery.at(lottery.threshold)
    yield Claim(
        PAGE,
        "down to {kept} kept weights, {ratio} weights for each output of each example, and one level sparser it does "
        "not.",
        {"kept": f"{threshold:,}", "ratio": number(threshold / descent.full(), 3)},
        threshold < descent.full(),
    )
    yield Claim(
        PAGE,
        "the same masks on fine-tuned weights leave the labels at {other} kept weights already",
        {"other": f"{other:,}"},
        other > threshold,
    )
    yield Claim(
        PAGE,
        "the best one misclassifies {best} % of the test images, the sparsest that still fits every label {fits} %.",
        {"best": descent.percent(best["test_error"]), "fits": descent.percent(fits["test_error"])},
        best["density"] > fits["density"] and best["test_error"] < fits["test_error"],
    )


def _told() -> Iterator[Claim]:
    names = (*geometry.TOLD, "loss", "growing")
    shuffled = [geometry.told(name, "against_shuffled")["interval"] for name in names]
    best = max(names, key=lambda name: geometry.told(name, "within_density")["value"])
    yield Claim(
        PAGE,
        "no statistic of the untrained network ranks a mask against its own layer-shuffled copy, all intervals of the "
        "rank correlations including 0. Among masks of one density some do rank, best of them the gradient norm with "
        "{value},",
        {"value": number(geometry.told(best, "within_density")["value"], 2, sign=True)},
        all(low < 0 < high for low, high in shuffled) and best == "gradient_norm",
    )
    ticket, other = max(geometry.value("loss", tickets=True)), min(geometry.value("loss", tickets=False))
    yield Claim(
        PAGE,
        "with a loss of at most {ticket} before any training where every other mask has at least {other},",
        {"ticket": number(ticket, 2), "other": number(other, 2)},
        ticket < other,
    )


def _searches() -> Iterator[Claim]:
    study = BUDGETS[1]
    at = {
        name: mean_percent(last(study, f"{name} 0.5")) for name in ("anneal", "evolve", "random-search", "edge-popup")
    }
    better = [contrast(study, f"{name} 0.5", "random-search 0.5") for name in ("anneal", "evolve")]
    yield Claim(
        PAGE,
        "reach {anneal} % on MNIST by annealing and {evolve} % by evolution, where the best of as many random masks "
        "reaches {random} %. Edge-popup reaches {popup} % with the same forward passes, at about three times the "
        "FLOPs.",
        {
            "anneal": at["anneal"],
            "evolve": at["evolve"],
            "random": at["random-search"],
            "popup": at["edge-popup"],
        },
        all(sign(found) == 1 for found in better)
        and round(flops(study, "edge-popup 0.5") / flops(study, "anneal 0.5"), 1) == 3,
    )
    trained = last(study, "magnitude, trained 0.5")
    yield Claim(PAGE, "with pruning by magnitude reaches {trained} %", {"trained": mean_percent(trained)})


def _regularises() -> Iterator[Claim]:
    dense, random, gap = "weights only", "weights, random mask", partial(joint.gaps, "mnist-joint")
    gaps = [joint.compared("joint", density, dense, gap) for density in joint.DENSITIES]
    yield Claim(
        PAGE,
        "the gap between training and validation accuracy of LeNet-300-100 on MNIST is not smaller than the dense "
        "network's at any density",
        {},
        all(sign(found) >= 0 for found in gaps),
    )
    found = {density: joint.compared("joint", density, dense, joint.shifts) for density in joint.DENSITIES}
    yield Claim(
        PAGE,
        "it loses {at30} points more than the dense network at 30 % of the weights, and {at50} at 50 %.",
        {f"at{density}": number(100 * found[density].difference, 2) for density in (30, 50)},
        sign(found[30]) == sign(found[50]) == 1,
    )
    learned = {density: turned(joint.compared("joint", density, random, joint.shifts)) for density in joint.DENSITIES}
    yield Claim(
        PAGE,
        "is small: {less} points less of that loss at 30 %, and nothing that could be shown at 50 and 70 %.",
        {"less": number(100 * learned[30].difference, 2)},
        [sign(learned[density]) for density in joint.DENSITIES] == [1, 0, 0],
    )


def _starts() -> Iterator[Claim]:
    study = "cifar10-mask-init"
    third, first = arm(study, "mask, then weights")[0], arm(study, "weights only")[0]
    yield Claim(
        PAGE,
        "WRN-28-1 reaches {third} % with half of 600 iterations for the mask and half for the weights, and {first} % "
        "with",
        {"third": number(100 * third, 2), "first": number(100 * first, 2)},
        third < first,
    )
    levels = networks(study).where(arm="mask, then weights")
    before, after = (levels.where(level=level).values("val_accuracy")[0] for level in (1, 2))
    yield Claim(
        PAGE,
        "The jump of the weights trained under the mask is {jump} points of validation accuracy",
        {"jump": number(100 * (after - before), 1)},
        after > before,
    )
    dropped = _finding("best mask, then weights at 1e-05 − weights only, dropped: validation accuracy")
    larger = _finding("best mask, then weights at 0.01 − best mask, then weights at 1e-05: validation accuracy")
    yield Claim(
        PAGE,
        "small steps under the best mask end {below} points of validation accuracy below weights alone whose learning "
        "rate drops as far for as long, and steps of 0.01 are better than small ones by {larger} points.",
        {"below": number(-100 * dropped["mean"], 2), "larger": number(100 * larger["mean"], 2)},
        dropped["interval"][1] < 0 < larger["interval"][0],
    )


def _finding(measured: str) -> Mapping[str, Any]:
    """What the quick form of supermask-init-steps measured."""
    findings = record("reproductions", "supermask-init-steps.json")["result"]["findings"]
    found: Mapping[str, Any] = next(one for one in findings if one["measured"] == measured)["found"]
    return found
