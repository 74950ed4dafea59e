"""docs/supermasks.md: the CIFAR-10 part, and supermasks as initialisations."""

from __future__ import annotations

from collections.abc import Iterator

from pages import Claim, Table
from results import arm, contrast, ends, networks, number, sign, spread

PAGE = "docs/supermasks.md"
DROPPED = "weights only, dropped"


STEPS = "mnist-mask-init-steps"


def tables() -> Iterator[Table]:
    yield Table("mask-init", list(rows()))
    yield Table("mask-init-steps", list(step_rows()))


def step_rows() -> Iterator[tuple[str, ...]]:
    yield "", "test accuracy, %", "validation accuracy, %", "against weights only, dropped: points of test accuracy"
    for name in networks(STEPS).arms():
        found = contrast(STEPS, name, DROPPED)
        apart = "" if name == DROPPED else f"{number(100 * found.difference, 2, sign=True)} ({ends(found)})"
        yield name, spread(arm(STEPS, name)), spread(arm(STEPS, name, "val_accuracy")), apart


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
        "the third arm's mask had removed {share} % of the weights, so that the network was still dense",
        {"share": number(100 * (1 - third), 1)},
        third == 1,
    )
    levels = networks("cifar10-mask-init").where(arm="mask, then weights")
    before, after = (levels.where(level=level).values("val_accuracy")[0] for level in (1, 2))
    yield Claim(
        PAGE,
        'mask-only does not keep pace with weight training, and the "large jump" of the weights trained under the '
        "mask is {jump} points of validation accuracy on CIFAR-10 ({before} to {after})",
        {
            "jump": number(100 * (after - before), 1),
            "before": number(100 * before, 1),
            "after": number(100 * after, 1),
        },
        all(
            arm(study, "mask only")[0] < arm(study, "weights only")[0]
            for study in ("cifar10-mask-init", "mnist-mask-init")
        ),
    )
    yield from _steps()


def _steps() -> Iterator[Claim]:
    small, middle, large = (f"best mask, then weights at {rate}" for rate in ("1e-05", "0.001", "0.01"))
    found = {name: contrast(STEPS, name, DROPPED) for name in (small, middle, large)}
    yield Claim(
        PAGE,
        "Steps of 1e-5 leave the network {behind} points behind weights alone that drop as far ({behind_ends}); steps "
        "of 1e-3 bring it {ahead} points ahead ({ahead_ends}), and of steps of 1e-2 no difference is shown "
        "({large_ends})",
        {
            "behind": number(-100 * found[small].difference, 2),
            "behind_ends": ends(found[small]),
            "ahead": number(100 * found[middle].difference, 2),
            "ahead_ends": ends(found[middle]),
            "large_ends": ends(found[large]),
        },
        [sign(one) for one in found.values()] == [-1, 1, 0],
    )
    wiped = contrast(STEPS, large, small)
    yield Claim(
        PAGE,
        "larger steps do not wipe out a boost of small ones: those of 1e-2 test {gain} points better than those of "
        "1e-5 ({gain_ends})",
        {"gain": number(100 * wiped.difference, 2), "gain_ends": ends(wiped)},
        sign(wiped) == 1 and arm(STEPS, "mask only") == arm(STEPS, "best mask only"),
    )
