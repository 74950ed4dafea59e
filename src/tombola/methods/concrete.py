"""Concrete Ticket Search (Arora & Teuscher 2025): the mask is learned near initialisation, by gradient, as a whole.

Level 0 trains the dense network f up to the rewind point, weights w. Level 1 learns a logit s per weight under these
weights, which rest, as do biases and norms, whose statistics are those of each batch; nothing is dropped:

    M = sigmoid((s + ln u - ln(1 - u)) / (2/3)),  u uniform on (0, 1),  s begins at ln(d/(1 - d));
    loss KL(f(x; w·M) || f(x; w)), the reverse one, with the dense network at the rewind point as the teacher,
    + strength·P,  P = 100·(sum of sigmoid(s) / (1.1·d·n) - 1),

whose strength is a moving mean of |gradient of the loss|/|gradient of P|, or of 0 while P <= 0. The round(d·n) largest
s of all are kept. Level 2 trains the weights under this mask, from the rewind point to the end.

The authors learn s by Adam at lr 0.1, a tenth of it from 88 % on, for 20 or for 160 epochs, as long as their training;
they rewind ResNet-20 to epoch 9, VGG-16 to epoch 15.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.methods.base import Definition, SupermaskMethod, check_not_negative, is_nothing
from tombola.names import check_known
from tombola.train.length import steps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tombola.levels.rewind import Rewind
    from tombola.mask import Mask
    from tombola.supermask.concrete import BinaryConcrete
    from tombola.train.hooks import Hook
    from tombola.train.recipe import Recipe

LOSSES = ("reverse-kl", "kl", "task")
CUT_AT = 0.88
"""Of the mask's training, where the learning rate falls to a tenth."""


@dataclass(frozen=True)
class Concrete(SupermaskMethod):
    """Learn which weights to keep at the rewind point, as a whole and by gradient, then train them from there.

    Args:
        density: fraction of weights kept
        scope: over what the largest logits are kept: global or layer
        rewind: init, or a step such as 500it up to which the dense network is trained first
        search: how long the mask is learned, e.g. "20ep"
        search_lr: learning rate of the logits (Adam), a tenth of it from 88 % of that length on
        loss: what the mask is learned by: reverse-kl (from the dense network at the rewind point), kl (the other
            way round), or task (the task's own loss)
        include: name patterns of further parameters to mask, e.g. ["*.bias"]
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "concrete"
    version: ClassVar[int] = 1
    goes_on_from_tickets: ClassVar[bool] = False

    density: float = 0.05
    scope: str = "global"
    rewind: str = "init"
    search: str = "20ep"
    search_lr: float = 0.1
    loss: str = "reverse-kl"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density == 1:
            raise TombolaError("density is 1, at which there is no mask to find; ask for less, or train by find dense")
        check_known("loss", self.loss, LOSSES)
        check_not_negative(search_lr=self.search_lr)
        if is_nothing(self.search):
            raise TombolaError(f"search is {self.search}; it must be at least one iteration, e.g. 20ep")
        if not self.to().weights:
            raise TombolaError(f"rewind is {self.rewind!r}, but weights rest here: rewind to init or to a step")

    def definition(self, w: Tensor, s: Tensor, g: Tensor, u: Tensor) -> Definition:
        """A step of level 1, without the penalty (`levels.balance`); the ticket keeps the largest s of all layers."""
        import torch

        mask = torch.sigmoid((s + torch.logit(u)) / (2 / 3))
        return Definition(w * mask, g * w * (mask * (1 - mask) / (2 / 3)))

    def find(self, search: levels.Search) -> list[levels.Level]:
        """Level 0 trains to the rewind point, level 1 learns the mask there, level 2 trains the weights under it."""
        from tombola.levels.rewind_point import rewind_point, train_on, train_to

        before = train_to(search, self.to(), self.include, self.exclude)
        point = rewind_point(search, before)
        searching = self.searching(replace(search, origin=point.origin))
        learning = self.learning(search.network())
        learned = levels.learn_mask(searching, learning, watching=self.watching(), rewound_steps=point.step)
        return [*before, learned, train_on(search, point, learned.ticket.mask, 2)]

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network at this length."""
        from tombola.parameters import prunable
        from tombola.supermask.rules import Bernoulli, TopK

        self.to().step(steps_per_epoch, total)
        length = steps(self.search, steps_per_epoch)
        if length < 1:
            raise TombolaError(
                f"search is {self.search}, not one of {steps_per_epoch} iterations an epoch; make it longer"
            )
        self.check_stopping(steps_per_epoch, length)
        sizes = [weight.numel() for weight in prunable(network, self.include, self.exclude).values()]
        if sizes and not round(self.density * sum(sizes)):
            raise TombolaError(
                f"at density {self.density:g} none of {sum(sizes):,} weights is kept; ask for a higher density"
            )
        # all logits begin alike, so that the first mask says nothing of the last; top-k leaves the same layers empty
        rule = TopK(self.density) if self.scope == "layer" else Bernoulli()
        levels.check_learning(network, replace(self.learning(network), rule=rule), mask)

    def dry_run(self, search: levels.Search) -> None:
        """One step of everything, on copies; TombolaError for what cannot work."""
        from tombola.levels.learn import dry_run

        dry_run(self.searching(search), self.learning(search.network()), search.setup.recipe)

    def hooks(self, search: levels.Search) -> Sequence[Hook]:
        """The modes of the layers, the loss and the penalty."""
        from tombola.levels.balance import GradBalance
        from tombola.levels.distill import Distill
        from tombola.levels.hooks import OnlyNormsTrain

        taught = [] if self.loss == "task" else [Distill(search.network, self.loss)]
        return [OnlyNormsTrain(), *taught, GradBalance(self.density)]

    def learning(self, network: nn.Module) -> levels.Learning:
        """These settings as axes of the parametrisation."""
        return levels.Learning(
            rule=self._rule(),
            include=self.include,
            exclude=self.exclude,
            score_settings={"eps": 1e-10},  # the authors' 1e-8, of a loss that they take a hundred times
            hooks=self.hooks,
        )

    def to(self) -> Rewind:
        """The rewind point."""
        from tombola.levels.rewind import Rewind

        return Rewind.parse(self.rewind)

    def searching(self, search: levels.Search) -> levels.Search:
        """The search of the mask: by Adam, at its own rate and length, without decay."""
        return replace(search, setup=replace(search.setup, recipe=self._recipe(search)))

    def _recipe(self, search: levels.Search) -> Recipe:
        length = steps(self.search, search.setup.steps_per_epoch)
        return replace(
            search.setup.recipe,
            length=self.search,
            optimizer="adam",
            lr=self.search_lr,
            weight_decay=0.0,
            penalty=None,
            strength=0.0,
            schedule="step",
            milestones=(f"{int(CUT_AT * length)}it",),
            gamma=0.1,
            warmup="0it",
            clip_norm=None,
        )

    def _rule(self) -> BinaryConcrete:
        from tombola.supermask.concrete import BinaryConcrete

        return BinaryConcrete(self.density, scope=self.scope)
