"""Float, binary and masked binary networks, as a list of arms.

The comparison of "Finding Lottery Tickets via Gradient Descent" (LeapMind, 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tombola.methods.base import ACTIVATIONS
from tombola.names import check_known
from tombola.study.setting import Arm, Setting


@dataclass(frozen=True)
class BinaryStudy:
    """Float weights, binary weights, multi-prize without and with trained norms, joint binary, at several densities.

    Args:
        densities: fractions of weights that the masked arms keep
        activations: float or binary; with binary there is one more arm, a float network
        weights_lr: learning rate of the arms that train weights only (null: the recipe's)
        mask_lr: learning rate of the multi-prize arms (null: the recipe's)
        joint_lr: learning rate of the weights in the joint arms (null: the recipe's)
        score_lr: learning rate of the scores in the joint arms (null: as joint_lr)
    """

    densities: tuple[float, ...] = (0.2, 0.5)
    activations: str = "float"
    weights_lr: float | None = None
    mask_lr: float | None = None
    joint_lr: float | None = None
    score_lr: float | None = None

    def __post_init__(self) -> None:
        from tombola.select.checks import checked_densities  # which imports torch

        object.__setattr__(self, "densities", checked_densities(self.densities))
        check_known("activations", self.activations, ACTIVATIONS)


def binary_arms(setting: Setting) -> list[Arm]:
    """The arms, at equal length; float weights come first, and all others are compared with them."""
    options: BinaryStudy = setting.options
    form = {"activations": options.activations}
    binary = options.activations == "binary"
    arms = [setting.arm("float", "dense", {}, lr=options.weights_lr)]
    if binary:
        arms.append(setting.arm("float weights, binary activations", "dense", form, lr=options.weights_lr))
    arms.append(setting.arm("binary weights", "binary-weights", form, lr=options.weights_lr))
    joint: dict[str, Any] = {"weights": "binary", "score_lr": options.score_lr}
    for density in options.densities:
        kept = {**form, "density": density}
        families: list[tuple[str, str, dict[str, Any], float | None]] = [
            ("multi-prize", "multi-prize", {}, options.mask_lr),
            ("joint binary", "joint", joint, options.joint_lr),
        ]
        if binary or normed(setting):
            families.insert(1, ("multi-prize, trained norms", "multi-prize", {"norms": "trained"}, options.mask_lr))
        for family, method, more, lr in families:
            name = f"{family} {density:g}"
            arms.append(setting.arm(name, method, {**kept, **more}, lr=lr, density=density, family=family))
    return arms


def normed(setting: Setting) -> bool:
    """Whether the network has norms to train."""
    from tombola.models.registry import has_norms

    return has_norms(setting.model.name)
