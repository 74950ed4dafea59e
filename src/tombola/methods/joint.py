"""Joint training of mask and weights: edge-popup's scores and ordinary weight training at once.

Proposed in "Finding Lottery Tickets via Gradient Descent" (LeapMind, 2021), without a formula; `Joint.definition` is
ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import (
    Definition,
    SupermaskMethod,
    binary_form,
    binary_rewrites,
    check_fraction,
    check_not_negative,
    fixed_density,
    is_nothing,
    mean_size,
    sign,
)
from tombola.methods.edge_popup import largest
from tombola.names import check_known
from tombola.train.length import steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec
    from tombola.train.hooks import Hook

RULES = ("masked", "dense", "sr-ste")


@dataclass(frozen=True)
class Joint(SupermaskMethod):
    """Train the weights and learn their mask at the same time.

    Args:
        density: fraction of weights kept
        scope: layer or global
        pattern: what is kept as one: element, block:V, inputs:V, N:M such as 2:4, or channel
        prune_outputs: let pattern channel remove rows of output layers too, which are classes
        weight_gradient: masked (the true gradient: pruned weights do not change), dense (straight through the mask,
            so that pruned weights keep learning), or sr-ste (dense, with pruned weights decaying to 0)
        sr_ste_decay: strength of that decay
        weights: identity, or binary (alpha·sign(w)·M, the gradient passing straight through the sign where |w| <= 1)
        activations: float or binary
        scores: how scores are initialised: the name of an initialisation
        score_lr: learning rate of the scores (null: the recipe's, which the weights have)
        score_weight_decay: weight decay of the scores (null: the recipe's)
        score_momentum: momentum of the scores under SGD (null: the recipe's)
        scores_first: length in which only the scores learn, e.g. "5ep"
        weights_first: length in which only the weights learn, e.g. "5ep"
        freeze_scores: last fraction of the training, in which scores are frozen and only weights are trained;
            1: weights are trained under a random mask
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    _or_instead: ClassVar[str] = ", or set freeze_scores to 0"

    name: ClassVar[str] = "joint"
    version: ClassVar[int] = 1

    density: float = 0.5
    scope: str = "layer"
    pattern: str = "element"
    prune_outputs: bool = False
    weight_gradient: str = "masked"
    sr_ste_decay: float = 2e-4
    weights: str = "identity"
    activations: str = "float"
    scores: str = "torch_default"
    score_lr: float | None = None
    score_weight_decay: float | None = None
    score_momentum: float | None = None
    scores_first: str = "0it"
    weights_first: str = "0it"
    freeze_scores: float = 0.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_known("weight_gradient", self.weight_gradient, RULES)
        check_known("weights", self.weights, ("identity", "binary"))
        check_fraction(freeze_scores=self.freeze_scores)
        if not is_nothing(self.scores_first) and not is_nothing(self.weights_first):
            raise TombolaError("scores_first and weights_first are both given; only one can be first")
        check_not_negative(
            score_lr=self.score_lr,
            score_weight_decay=self.score_weight_decay,
            score_momentum=self.score_momentum,
        )

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """Edge-popup's mask and its gradient; the weights learn too, through the mask or past it."""
        mask = largest(s, self.density)
        effective, through = w * mask, g
        if self.weights == "binary":
            alpha = mean_size(w, mask)
            effective, through = alpha * sign(w) * mask, g * alpha * (w.abs() <= 1)
        if self.weight_gradient == "masked":
            through = through * mask
        elif self.weight_gradient == "sr-ste":
            through = through + self.sr_ste_decay * (1 - mask) * w
        return Definition(effective, g * w * s.sign(), through)

    def init(self) -> str | None:
        """Kaiming for binary weights, as in multi-prize: masked signs of smaller weights let no signal through."""
        return "kaiming_normal" if self.weights == "binary" else None

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        binary = "binary" in (self.weights, self.activations)
        return binary_form(spec, self.activations, affine=True) if binary else spec

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network at this length."""
        for name, first in (("scores_first", self.scores_first), ("weights_first", self.weights_first)):
            if steps(first, steps_per_epoch) >= total:
                raise TombolaError(f"{name} is {first}, which leaves nothing of {total} iterations")
        scores_from, scores_until, weights_from = self._turns(steps_per_epoch, total)
        if weights_from > scores_until or 0 < scores_from >= scores_until:
            idle = "nothing learns for a while" if weights_from > scores_until else "the scores never learn"
            first = self.scores_first if weights_from > scores_until else self.weights_first
            raise TombolaError(
                f"with freeze_scores {self.freeze_scores:g} after a first part of {first}, {idle} in {total} "
                "iterations; make one of them shorter"
            )
        super().check(network, steps_per_epoch, total, mask)

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.represent import Binary, Identity
        from tombola.supermask.rules import TopK
        from tombola.supermask.weights import weight_rule

        return levels.Learning(
            rule=TopK(fixed_density(self.pattern, self.density), self.scope, self.pattern),
            represent=Binary() if self.weights == "binary" else Identity(),
            weights=weight_rule(self.weight_gradient, self.sr_ste_decay),
            scores=self.scores,
            include=self.include,
            exclude=self.exclude,
            score_settings=self.score_settings(),
            prune_outputs=self.prune_outputs,
            hooks=self.hooks,
            rewrites=self._rewrites(network),
        )

    def score_settings(self) -> Mapping[str, Any]:
        """The optimiser's settings for the scores, where they differ."""
        own = {"lr": self.score_lr, "weight_decay": self.score_weight_decay, "momentum": self.score_momentum}
        return {name: value for name, value in own.items() if value is not None}

    def _rewrites(self, network: nn.Module) -> tuple[Mapping[str, Any], ...]:
        rewrites = binary_rewrites(network, self.activations, self.include, self.exclude)
        return tuple(r for r in rewrites if r["kind"] != "binary-layers" or self.weights == "binary")

    def settles(self, steps_per_epoch: int, total: int) -> int | None:
        """When the scores begin to learn; where they stop before the end, the weights learn on under a frozen mask."""
        scores_from, scores_until, _ = self._turns(steps_per_epoch, total)
        return scores_from if scores_until >= total else None

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """Scores and weights by turns, where they do not learn together all the time."""
        setup = search.setup
        learns = self.phases(setup.steps_per_epoch, setup.total_steps)
        always = all(learns(step) == (True, True) for step in (0, setup.total_steps - 1))
        return [] if always else [levels.Phases(learns)]

    def phases(self, steps_per_epoch: int, total: int) -> Callable[[int], tuple[bool, bool]]:
        """step -> (scores learn, weights learn)."""
        scores_from, scores_until, weights_from = self._turns(steps_per_epoch, total)
        return lambda step: (scores_from <= step < scores_until, step >= weights_from)

    def _turns(self, steps_per_epoch: int, total: int) -> tuple[int, int, int]:
        """The steps at which the scores begin to learn, stop, and the weights begin to learn."""
        scores_until = total - round(self.freeze_scores * total)
        return steps(self.weights_first, steps_per_epoch), scores_until, steps(self.scores_first, steps_per_epoch)
