"""The comparisons that the seeds of the field ask for, as lists of arms."""

from __future__ import annotations

from dataclasses import dataclass

from tombola.errors import TombolaError
from tombola.study.setting import Arm, Setting
from tombola.train.length import Length


@dataclass(frozen=True)
class MaskInit:
    """Are supermasks good initialisations? Mask only, weights only, and mask then weights, at equal total length.

    Args:
        length: training of every arm in all, in epochs or iterations; the third arm spends half of it on the mask
        weights_lr: learning rate where weights are trained from the start
        mask_lr: learning rate of the masks
        finetune_lr: learning rate of the weights under a finished mask
    """

    length: str = "60ep"
    weights_lr: float = 0.01
    mask_lr: float = 0.01
    finetune_lr: float = 1e-5


# mshlis/SuperMasks: Adam, batch 128, cut by 10 when the training metric has not risen for 2 evaluations; norms are
# trained in every arm, biases are masked too
_SUPERMASKS = {"optimizer": "adam", "batch_size": 128, "schedule": "plateau", "patience": 2, "gamma": 0.1}
_THRESHOLD = {"rule": "threshold", "biases": True, "train_norms": True}


def mask_init_arms(setting: Setting) -> list[Arm]:
    """The three arms of "Super-Masks: Are They Good Initializations?" (mshlis/SuperMasks)."""
    options: MaskInit = setting.options
    half = halved(options.length)
    weights = {**_SUPERMASKS, "length": options.length, "lr": options.weights_lr, **setting.recipe}
    mask = {**_SUPERMASKS, "length": options.length, "lr": options.mask_lr, **setting.recipe}
    then = {"finetune": half, "finetune_lr": options.finetune_lr}
    return [
        setting.arm("weights only", "dense", {}, weights),
        setting.arm("mask only", "learned-mask", _THRESHOLD, mask),
        setting.arm("mask, then weights", "learned-mask", {**_THRESHOLD, **then}, {**mask, "length": half}),
    ]


@dataclass(frozen=True)
class JointStudy:
    """Does joint training regularise? Weights only, mask only and joint, at several densities.

    Args:
        densities: fractions of weights kept
        weight_gradient: the joint arms' rule for the weights: masked, dense or sr-ste
        weights_lr: learning rate of the arms that train weights only (null: the recipe's)
        mask_lr: learning rate of the arms that train masks only (null: the recipe's)
        joint_lr: learning rate of the weights in the joint arms (null: the recipe's)
        score_lr: learning rate of the scores in the joint arms (null: as joint_lr)
    """

    densities: tuple[float, ...] = (0.3, 0.5, 0.7)
    weight_gradient: str = "masked"
    weights_lr: float | None = None
    mask_lr: float | None = None
    joint_lr: float | None = None
    score_lr: float | None = None

    def __post_init__(self) -> None:
        from tombola.select.checks import checked_densities  # which imports torch

        object.__setattr__(self, "densities", checked_densities(self.densities))


def joint_arms(setting: Setting) -> list[Arm]:
    """A dense network, and at every density weights under a random mask, a mask, and both.

    "Finding Lottery Tickets via Gradient Descent" (LeapMind, 2021) says that the last regularises.
    """
    options: JointStudy = setting.options
    arms = [setting.arm("weights only", "dense", {}, lr=options.weights_lr)]
    for density in options.densities:
        kept = {"density": density}
        own = {"weight_gradient": options.weight_gradient, "score_lr": options.score_lr}
        for family, method, more, lr in (
            ("weights, random mask", "joint", {"freeze_scores": 1.0}, options.weights_lr),
            ("mask only", "edge-popup", {}, options.mask_lr),
            ("joint", "joint", own, options.joint_lr),
        ):
            name = f"{family} {density:g}"
            arms.append(setting.arm(name, method, {**kept, **more}, lr=lr, density=density, family=family))
    return arms


def halved(length: str) -> str:
    """Half of a length; TombolaError if nothing would be left of it."""
    whole = Length.parse(length)
    if whole.iterations % 2:
        raise TombolaError(f"length is {length}; its iterations must be even, since half of them go to the mask")
    if whole == Length():
        raise TombolaError(f"length is {length}, of which half is nothing; ask for more")
    return f"{whole.epochs / 2:g}ep{whole.iterations // 2}it"
