"""docs/supermasks.md: the CIFAR-10 part, and supermasks as initialisations."""

from __future__ import annotations

from collections.abc import Iterator

from pages import Claim, Table
from results import arm, networks, number

PAGE = "docs/supermasks.md"


def tables() -> Iterator[Table]:
    yield Table("mask-init", list(rows()))


def rows() -> Iterator[tuple[str, ...]]:
    arms = ("weights only", "mask only", "mask, then weights")
    yield "test accuracy, %", *arms, "masked, mask only", "masked, third arm"
    for name, study in (("CIFAR-10, 600 it", "cifar10-mask-init"), ("MNIST, 160 it", "mnist-mask-init")):
        masked = (f"{number(100 * (1 - arm(study, which, 'density')[0]), 1)} %" for which in arms[1:])
        yield name, *(number(100 * arm(study, which)[0], 2) for which in arms), *masked


def claims() -> Iterator[Claim]:
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
        "is {jump} points of validation accuracy on CIFAR-10 ({before} to {after}), of which {soon} in the first 60 "
        "iterations",
        {
            "jump": number(100 * (after[-1] - before), 1),
            "before": number(100 * before, 1),
            "after": number(100 * after[-1], 1),
            "soon": number(100 * (after[1] - before), 1),
        },
        after[1] - before > (after[-1] - before) / 2,
    )
