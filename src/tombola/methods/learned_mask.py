"""Learned masks by probabilities: Zhou et al. 2019 (drawn), mshlis/SuperMasks (thresholded), mshlis/ILSampling.

`LearnedMask.definition` is the method (weights w, scores s, g = dL/d(effective weight), draws u); the weights stay as
they are while the mask is learned. Zhou et al. train logits from 0 by SGD at lr 100 (the preset of LeNet on MNIST);
mshlis/SuperMasks begin with everything kept, at 1, and mask biases too. The intermediate rule (Intermediate Loss
Sampling, mshlis 2019) learns from drawn masks too, but by where a step would have moved the draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import HAND_ON, Definition, SupermaskMethod, check_not_negative, is_nothing
from tombola.names import check_known

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.train.hooks import Hook

RULES = ("bernoulli", "threshold", "intermediate")
STEP = 1000.0
"""Of rule intermediate. Its author's is 1, at which gradients of a mean over a batch drown in the draws' noise."""
_MOST_SAMPLES = 10_000


@dataclass(frozen=True)
class LearnedMask(SupermaskMethod):
    """Learn the probability of keeping each weight; the density is an outcome, unless the mask is pressed to one.

    With rule bernoulli, masks are drawn anew at every step and the ticket holds the p > 0.5 mask. Validation (the early
    stop too) and test are of that mask; val_accuracy_sampled and test_accuracy_sampled are means over drawn masks. With
    rule threshold, p > 0.5 decides always. Rule intermediate draws as bernoulli does and learns by another gradient,
    whose size is that of the draw's noise and not the loss's: it needs an lr of its own.

    Args:
        rule: bernoulli, threshold or intermediate
        density: press the mask to this fraction of all masked weights, by a pressure on all p that is steered meanwhile
            (null: none, the density is what comes out)
        reached_at: share of the training after which that density is reached and then held
        logit: what every logit starts at; null: 1 (everything kept) for threshold, 0 (p = 0.5) for the others
        sampling_step: step size a of rule intermediate, which multiplies gradients of the loss; 1 is its author's
        sampling_raw: the author's form of rule intermediate, in which the moved draw may leave [0, 1]
        weights: identity, or signed_constant (each weight its sign times the layer's standard deviation)
        rescale: multiply every layer by the inverse of its kept fraction (dynamic weight rescaling)
        samples: masks drawn at the end for val_accuracy_sampled and test_accuracy_sampled
        biases: mask biases too
        train_norms: train scale and bias of norm layers along with the masks
        mask_decay: strength of a penalty that favours sparser masks: this times the sum of all p is added to the loss
        finetune: length of a second level in which the mask is frozen and the weights are trained; 0it for none
        finetune_lr: learning rate of that level
        hand_on: which masks that level, the test and the ticket have: last, or best (of the lowest validation loss)
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "learned-mask"
    version: ClassVar[int] = 2  # 1 validated drawn masks
    trains_scores_only: ClassVar[bool] = True

    rule: str = "bernoulli"
    density: float | None = None
    reached_at: float = 0.5
    logit: float | None = None
    sampling_step: float = STEP
    sampling_raw: bool = False
    weights: str = "identity"
    rescale: bool = False
    samples: int = 10
    biases: bool = False
    train_norms: bool = False
    mask_decay: float = 0.0
    finetune: str = "0it"
    finetune_lr: float = 1e-5
    hand_on: str = "last"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        is_nothing(self.finetune)
        check_known("rule", self.rule, RULES)
        check_known("weights", self.weights, ("identity", "signed_constant"))
        check_known("hand_on", self.hand_on, HAND_ON)
        if self.hand_on == "best" and (self.density is not None or self.stop_when_stable):
            other = "density" if self.density is not None else "stop_when_stable"
            raise TombolaError(f"hand_on is best, and {other} is about the last masks; leave one of the two out")
        if self.logit is not None and not math.isfinite(self.logit):
            raise TombolaError(f"logit is {self.logit}; it must be a finite number")
        if not (math.isfinite(self.sampling_step) and self.sampling_step > 0):
            raise TombolaError(f"sampling_step is {self.sampling_step}; it must be a number above 0, e.g. 1000")
        if self.rule != "intermediate" and (self.sampling_step != STEP or self.sampling_raw):
            raise TombolaError(
                f"sampling_step and sampling_raw are for rule intermediate, not {self.rule}; leave them out"
            )
        if self.rule == "threshold" and self.logit is not None and self.logit <= 0:
            raise TombolaError(f"logit is {self.logit}, at which rule threshold keeps nothing; it must lie above 0")
        if not 1 <= self.samples <= _MOST_SAMPLES:
            raise TombolaError(f"samples is {self.samples}, but it must lie between 1 and {_MOST_SAMPLES:,}")
        check_not_negative(mask_decay=self.mask_decay, finetune_lr=self.finetune_lr)
        if not 0 < self.reached_at <= 1:
            raise TombolaError(f"reached_at is {self.reached_at}; it must lie in (0, 1]: a share of the training")
        if self.density is not None and self.mask_decay:
            raise TombolaError(
                f"density is {self.density} and mask_decay {self.mask_decay:g}, but the pressure towards a density is "
                "steered; give one of the two"
            )

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """Kept with probability p = sigmoid(s), drawn or where p > 0.5; the gradient passes as if the mask were p.

        With rule intermediate it is p less where a step of a from the draw leads, against G = dL/d(mask):
        1 / (1 + aG) if it kept the weight, -aG / (1 - aG) if not, in which G counts as 0 where that leaves [0, 1].
        `mask_decay` adds its strength times p(1 - p) to dL/ds.
        """
        p = s.sigmoid()
        mask = (s > 0 if self.rule == "threshold" else u < p).to(w)
        base = w.sign() * w.std(correction=0) if self.weights == "signed_constant" else w
        effective, by_mask = base * mask, g * base
        if self.rescale:
            scale = mask.numel() / mask.sum()
            effective, by_mask = effective * scale, by_mask * scale
            by_mask = by_mask - (by_mask * mask).sum() / mask.sum()  # the scale falls where the mask grows
        if self.rule != "intermediate":
            return Definition(effective, by_mask * (p * (1 - p)))
        moved = self.sampling_step * by_mask
        if self.sampling_raw:
            return Definition(effective, p - where(mask, 1 / (1 + moved), -moved / (1 - moved)))
        up, down = moved.clamp(min=0), -moved.clamp(max=0)
        return Definition(effective, p - where(mask, 1 / (1 + up), down / (1 + down)))

    @property
    def scope(self) -> str:
        """A density holds over all masked weights together."""
        return "layer" if self.density is None else "global"

    def density_of_masks(self) -> float | None:
        """Masks of the training are pressed to the density; only the last one has it exactly."""
        return None

    def settles(self, steps_per_epoch: int, total: int) -> int | None:
        """A mask that is pressed becomes what it is with the last iteration."""
        return None if self.density is not None else super().settles(steps_per_epoch, total)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these options cannot work on this network."""
        super().check(network, steps_per_epoch, total, mask)
        if self.density is not None:
            from tombola.supermask.layers import layers

            count = sum(layer.weight.numel() for layer in layers(network))
            if round(self.density * count) < 1:
                raise TombolaError(f"at density {self.density:g} nothing is kept of {count:,} weights; ask for more")

    def second_level(self) -> tuple[str, float]:
        """The weights are trained under the mask, if asked for."""
        return self.finetune, self.finetune_lr

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """The pressure towards sparser masks, or towards a density."""
        if self.density is not None:
            return [levels.PressDensity(self.density, self.reached_at)]
        return [levels.MaskDecay(self.mask_decay)] if self.mask_decay else []

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.intermediate import Intermediate
        from tombola.supermask.represent import Identity, Represent, SignedConstant
        from tombola.supermask.rules import Bernoulli, MaskRule, Threshold

        represent: Represent = SignedConstant(self.rescale) if self.weights != "identity" else Identity(self.rescale)
        rules: dict[str, MaskRule] = {
            "bernoulli": Bernoulli(),
            "threshold": Threshold(),
            "intermediate": Intermediate(self.sampling_step, self.sampling_raw),
        }
        return levels.Learning(
            rule=rules[self.rule],
            represent=represent,
            scores=self.logit,
            include=(*self.include, *(layer_biases(network) if self.biases else ())),
            exclude=self.exclude,
            rest="norms" if self.train_norms else "frozen",
            hooks=self.hooks,
            samples=self.samples,
            best=self.hand_on == "best",
        )


def where(mask: Tensor, kept: Tensor, pruned: Tensor) -> Tensor:
    """One or the other, by a mask of 0 and 1."""
    return kept.where(mask > 0, pruned)


def layer_biases(network: nn.Module) -> list[str]:
    """Names of the biases of layers whose weight is prunable (not of norms)."""
    from tombola.parameters import parameters_by_name, prunable

    names = [f"{weight.removesuffix('weight')}bias" for weight in prunable(network)]
    there = parameters_by_name(network)
    return [name for name in names if name in there]
