"""Continuous Sparsification (Savarese, Silva & Maire 2020): masks that are soft, and harden while they are learned.

Weights w and scores s, which begin at s0, are trained together:

    w · sigmoid(beta·s) / sigmoid(s0),    loss + mask_penalty · sum of sigmoid(beta·s),

and beta rises from 1 to 200 within a round: beta_t = 200^(t/(T - 1)) at iteration t of T. Each round is a whole
training; between them s <- min(beta·s, s0), so that what was pruned stays near 0. The ticket keeps s > 0 of the last
round. Its weights are then trained under that mask, from the rewind point of the dense network to the end.

The density is an outcome, steered by s0 (`logit`): the higher, the more is kept. The authors take 3 rounds of 85
epochs, SGD at lr 0.1 for scores and weights, no decay on scores, mask_penalty 1e-8, and rewind to epoch 2 of the first
round; they raise beta once an epoch, and keep the factor 1 / sigmoid(s0) while the ticket trains. Their code sets beta
back to 1 before it carries the scores over, so that there beta never acts on them; here it does, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Definition, SupermaskMethod, check_not_negative

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.levels.rewind import Rewind
    from tombola.mask import Mask
    from tombola.supermask.rules import MaskRule
    from tombola.train.hooks import Hook

_MOST = 1_000


@dataclass(frozen=True)
class Continuous(SupermaskMethod):
    """Learn soft masks along with the weights, harden them, and train what is kept from the rewind point.

    Args:
        logit: what every score starts at: it steers the density, the higher, the more is kept
        rounds: trainings in which the mask is learned; the next goes on where one ended
        final_beta: what the scores are multiplied by at the end of a round; 1 at its start
        mask_penalty: of the sum of the soft mask, which is added to the loss times this
        score_lr: learning rate of the scores; null: that of the weights
        rewind: init, or a step such as 2ep up to which the dense network is trained first, for the ticket to train from
        rewind_rounds: let all weights return there after every round too; otherwise they go on
        density: an outcome here; asking for one is an error
        include: name patterns of further parameters to mask, e.g. ["*.bias"]
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "continuous"
    version: ClassVar[int] = 1
    goes_on_from_tickets: ClassVar[bool] = False

    logit: float = 0.0
    rounds: int = 3
    final_beta: float = 200.0
    mask_penalty: float = 1e-8
    score_lr: float | None = None
    rewind: str = "init"
    rewind_rounds: bool = False
    density: float | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density is not None:
            raise TombolaError(
                f"density is {self.density}, but that of continuous is an outcome: leave it out, and lower logit (now "
                f"{self.logit:g}) to keep fewer weights, or raise it to keep more"
            )
        if not (math.isfinite(self.logit) and abs(self.logit) <= 20):
            raise TombolaError(f"logit is {self.logit}; it must lie between -20 and 20, e.g. -0.05")
        if not 1 <= self.rounds <= _MOST:
            raise TombolaError(f"rounds is {self.rounds}, but it must lie between 1 and {_MOST:,}")
        if not (math.isfinite(self.final_beta) and self.final_beta >= 1):
            raise TombolaError(f"final_beta is {self.final_beta}; it must be a number of at least 1, e.g. 200")
        check_not_negative(mask_penalty=self.mask_penalty, score_lr=self.score_lr)
        if not self.to().weights:
            raise TombolaError(f"rewind is {self.rewind!r}, but the ticket's weights rewind: to init or to a step")

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """A step at beta = 1, with which each round begins; a ticket keeps s > 0, with the factor 1 / sigmoid(s0)."""
        beta, factor = self.beta(0, 2), 1 / sigmoid(self.logit)
        mask = (beta * s).sigmoid()
        return Definition(w * mask * factor, g * factor * w * (beta * (mask * (1 - mask))), g * factor * mask)

    def beta(self, step: int, total: int) -> float:
        """final_beta^(t/(T - 1)): 1 at the first iteration of a round, final_beta at its last."""
        return float(self.final_beta ** (1.0 if total < 2 else min(step / (total - 1), 1.0)))

    def carried(self, s: Tensor) -> Tensor:
        """The scores that the next round begins with: min(beta·s, s0)."""
        return (self.final_beta * s).clamp(max=self.logit)

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Level 0 trains to the rewind point, each round is a level, and the last one trains the ticket."""
        from tombola.levels.rewind_point import rewind_point, train_on, train_to
        from tombola.levels.rounds import learn_in_rounds

        before = train_to(search, self.to(), self.include, self.exclude)
        point = rewind_point(search, before)
        learned = learn_in_rounds(
            search,
            self.learning(search.network()),
            self.rounds,
            self.carried,
            back_to=point.origin if self.rewind_rounds else None,
            rewound_steps=point.step,
        )
        return [*before, *learned, train_on(search, point, learned[-1].ticket.mask, self.rounds + 1)]

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network at this length."""
        self.to().step(steps_per_epoch, total)
        super().check(network, steps_per_epoch, total, mask)

    def settles(self, steps_per_epoch: int, total: int) -> int | None:
        """Only the end of the last round says what is kept."""
        return None

    def dry_run(self, search: levels.Search) -> None:
        """One step of everything, on copies; TombolaError for what cannot work."""
        from tombola.levels.learn import dry_run

        # a ticket that keeps something, which first scores of 0 or less do not give; the weights begin as they are
        above = replace(self, logit=max(self.logit, 1.0))
        dry_run(search, above.learning(search.network()), search.setup.recipe)

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """The annealing, and the penalty."""
        total = search.setup.total_steps
        return [levels.Anneal(lambda step: self._rule(step, total)), levels.MaskSum(self.mask_penalty)]

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        from tombola.supermask.represent import Scaled
        from tombola.supermask.weights import Masked

        return levels.Learning(
            rule=self._rule(0, 2),
            weights=Masked(),
            represent=Scaled(1 / sigmoid(self.logit)),
            scores=self.logit,
            include=self.include,
            exclude=self.exclude,
            score_settings={"weight_decay": 0.0, **({} if self.score_lr is None else {"lr": self.score_lr})},
            hooks=self.hooks,
        )

    def to(self) -> Rewind:
        """The rewind point."""
        from tombola.levels.rewind import Rewind

        return Rewind.parse(self.rewind)

    def _rule(self, step: int, total: int) -> MaskRule:
        from tombola.supermask.continuous import Continuous as Rule

        return Rule(self.beta(step, total))


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-x))
