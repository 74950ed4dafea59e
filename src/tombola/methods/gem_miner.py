"""Gem-Miner (Sreenivasan et al. 2022, "Rare gems"): rounded scores, of which ever more are frozen out.

`GemMiner.definition` is a step, `densities` how many scores take part. Scores begin uniform in [0, 1], weights stay
as they were drawn. The authors freeze out every 5 epochs, and add 1e-4 times the squared scores to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Definition, SupermaskMethod, check_not_negative, is_nothing
from tombola.train.length import steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.mask import Mask
    from tombola.train.hooks import Hook


@dataclass(frozen=True)
class GemMiner(SupermaskMethod):
    """Learn a mask of low density: scores in [0, 1] are rounded, and the lowest are frozen at 0 step by step.

    The fraction of weights that still take part falls geometrically to the density, which the last freezing
    before the end reaches; the same share of those left is frozen out each time.

    Args:
        density: fraction of weights that take part in the end
        scope: over what the lowest scores are sought: global or layer
        freeze_every: how often scores are frozen out, e.g. "5ep"
        exact: keep all that still take part when the training ends, so that the density is met exactly; otherwise
            the scores decide, and it may be lower
        score_weight_decay: weight decay of the scores; 2e-4 is the gradient of 1e-4 times the sum of their squares
        train_norms: train scale and bias of norm layers along with the scores
        finetune: length of a second level in which the mask is frozen and the weights are trained; 0it for none
        finetune_lr: learning rate of that level
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "gem-miner"
    version: ClassVar[int] = 1
    trains_scores_only: ClassVar[bool] = True

    density: float = 0.05
    scope: str = "global"
    freeze_every: str = "5ep"
    exact: bool = True
    score_weight_decay: float = 2e-4
    train_norms: bool = False
    finetune: str = "0it"
    finetune_lr: float = 0.01
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        is_nothing(self.finetune)
        if is_nothing(self.freeze_every):
            raise TombolaError(f"freeze_every is {self.freeze_every}; it must be at least one iteration, e.g. 5ep")
        check_not_negative(score_weight_decay=self.score_weight_decay, finetune_lr=self.finetune_lr)

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """Scores are held in [0, 1] and rounded, half up; the gradient passes the rounding as it is.

        A score that has been frozen out is 0 and stays it (`FreezeOut`).
        """
        mask = s.clamp(0, 1) >= 0.5
        return Definition(w * mask, g * w)

    def init(self) -> str:
        """The initialisation of networks by name that are given none."""
        return "signed_constant"

    def second_level(self) -> tuple[str, float]:
        """The weights are trained under the mask, if asked for."""
        return self.finetune, self.finetune_lr

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network at this length."""
        from tombola.supermask.rules import TopK

        if self.density < 1 and not self.densities(steps_per_epoch, total):
            raise TombolaError(
                f"freeze_every is {self.freeze_every}, which leads to no freezing before the end of {total} iterations"
                "; shorten it, or train for longer"
            )
        self.check_stopping(steps_per_epoch, total)
        learning = self.learning(network)
        if self.scope == "layer":  # top-k leaves the same layers empty as the last freezing will
            learning = replace(learning, rule=TopK(self.density))
        levels.check_learning(network, learning, mask)

    _or_instead: ClassVar[str] = ", or set exact to false, which keeps what the scores decide"

    def density_of_masks(self) -> None:
        """The density is what may be kept, and at the end is; until then the scores decide."""
        return None

    def settles(self, steps_per_epoch: int, total: int) -> int | None:
        """After the last freezing; with `exact` only what the end keeps has the density."""
        return None if self.exact else max(self.densities(steps_per_epoch, total), default=0)

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """The freezings; at the end, with `exact`, all that take part are kept."""
        total = search.setup.total_steps
        densities = self.densities(search.setup.steps_per_epoch, total)
        return [levels.FreezeOut(densities, self.scope, total if self.exact else None)]

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.rules import Round

        return levels.Learning(
            rule=Round(),
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.train_norms else "frozen",
            score_settings={"weight_decay": self.score_weight_decay},
            hooks=self.hooks,
        )

    def densities(self, steps_per_epoch: int, total: int) -> dict[int, float]:
        """step of each freezing -> fraction that takes part from then on: density^(r/R) after r of R freezings."""
        period = max(1, steps(self.freeze_every, steps_per_epoch))
        rounds = (total - 1) // period
        return {r * period: self.density ** (r / rounds) for r in range(1, rounds + 1)}
