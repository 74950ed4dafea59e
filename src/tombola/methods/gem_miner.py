"""Gem-Miner (Sreenivasan et al. 2022, "Rare gems"): rounded scores, of which ever more are frozen out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.methods.checks import check_density, check_not_negative
from tombola.names import unknown
from tombola.train.length import Length, steps

if TYPE_CHECKING:
    from torch import nn

    from tombola.levels.hooks import FreezeOut
    from tombola.levels.learn import Learning
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask


@dataclass(frozen=True)
class GemMiner:
    """Learn a mask at low density: scores in [0, 1] are rounded, and the lowest are frozen out step by step.

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
    default_init: ClassVar[str] = "signed_constant"

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
        check_fields(self)
        object.__setattr__(self, "include", tuple(self.include))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        check_density(self.density)
        Length.parse(self.finetune)
        if self.scope not in ("global", "layer"):
            raise TombolaError(unknown("scope", self.scope, ("layer", "global")))
        if Length.parse(self.freeze_every) == Length():
            raise TombolaError(f"freeze_every is {self.freeze_every}; it must be longer than nothing, e.g. 5ep")
        for field in ("score_weight_decay", "finetune_lr"):
            check_not_negative(field, getattr(self, field))

    def find(self, search: Search) -> list[Level]:
        """Run the search: level 1 learns the mask, level 2 (if asked for) trains the weights under it."""
        from tombola.levels.learn import learn_then_train

        return learn_then_train(search, self.learning(), self.finetune, self.finetune_lr)

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network at this length."""
        from tombola.levels.learn import check_learning
        from tombola.supermask.rules import TopK

        if self.density < 1 and not self.densities(steps_per_epoch, total):
            raise TombolaError(
                f"freeze_every is {self.freeze_every}, which comes to no freezing before the end of {total} iterations"
                "; shorten it, or train for longer"
            )
        learning = self.learning()
        if self.scope == "layer":  # top-k leaves the same layers empty as the last freezing will
            learning = replace(learning, rule=TopK(self.density))
        check_learning(network, learning, mask)

    def dry_run(self, search: Search) -> None:
        """One step of everything on copies; TombolaError for what cannot work."""
        from tombola.levels.learn import dry_run, second_recipe

        dry_run(search, self.learning(), second_recipe(search, self.finetune, self.finetune_lr))

    def learning(self) -> Learning:
        """These settings as axes of the parametrisation."""
        from tombola.levels.learn import Learning
        from tombola.supermask.rules import Round

        return Learning(
            rule=Round(),
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.train_norms else "frozen",
            score_settings={"weight_decay": self.score_weight_decay},
            hooks=lambda search: [self._freezing(search)],
        )

    def densities(self, steps_per_epoch: int, total: int) -> dict[int, float]:
        """step of each freezing -> fraction that takes part from then on: density^(r/R) after r of R freezings."""
        period = max(1, steps(self.freeze_every, steps_per_epoch))
        rounds = (total - 1) // period
        return {r * period: self.density ** (r / rounds) for r in range(1, rounds + 1)}

    def _freezing(self, search: Search) -> FreezeOut:
        from tombola.levels.hooks import FreezeOut

        total = search.setup.total_steps
        return FreezeOut(self.densities(search.setup.steps_per_epoch, total), self.scope, total if self.exact else None)
