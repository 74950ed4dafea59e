"""Multi-prize tickets (Diffenderfer & Kailkhura 2021): binary networks found by masking random weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tombola.errors import TombolaError
from tombola.fields import check_fields
from tombola.methods.binarised import ACTIVATIONS, NORMS, binary_form, binary_rewrites
from tombola.methods.checks import check_anneal, check_choice, check_density, check_fall, check_not_negative
from tombola.methods.edge_popup import annealed
from tombola.train.length import Length

if TYPE_CHECKING:
    from torch import nn

    from tombola.levels.learn import Learning
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask
    from tombola.models.spec import ModelSpec


@dataclass(frozen=True)
class MultiPrize:
    """Learn which random weights to keep; what is kept counts by its sign, times one scale per layer.

    The effective weight is alpha·sign(w)·M with alpha the mean of |w| over what is kept. With binary activations
    (MPT-1/1) Tombola's own networks take the order convolution, pool, norm, activation, with norms inserted; other
    models have their ReLUs replaced.

    Args:
        density: fraction of weights kept
        scope: layer or global
        anneal: length over which the density falls from 0.5 to its value, cubically, e.g. "10ep"; 0it for none
        activations: float (MPT-1/32) or binary (MPT-1/1)
        per_channel: one scale per output channel instead of one per layer
        norms: fixed (no scale and bias), trained (along with the scores), or tuned (in a second level, once the mask
            is found)
        tune: length of that second level
        tune_lr: learning rate of that second level
        whole: name patterns of weights that are binary but not masked, such as the first or last layer's
        scores: how scores begin: the name of an initialisation
        scale_fan: draw the weights for a fan of fan_in times density
        include: name patterns of further parameters to mask
        exclude: name patterns of weights to leave alone (random, float), e.g. ["fc.*"]
    """

    name: ClassVar[str] = "multi-prize"
    version: ClassVar[int] = 1
    trains_scores_only: ClassVar[bool] = True
    default_init: ClassVar[str] = "kaiming_normal"

    density: float = 0.5
    scope: str = "layer"
    anneal: str = "0it"
    activations: str = "float"
    per_channel: bool = False
    norms: str = "fixed"
    tune: str = "10ep"
    tune_lr: float = 0.01
    whole: tuple[str, ...] = ()
    scores: str = "torch_default"
    scale_fan: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        for field in ("include", "exclude", "whole"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        check_density(self.density)
        check_choice("activations", self.activations, ACTIVATIONS)
        check_choice("norms", self.norms, NORMS)
        check_fall(self.anneal, self.density)
        if self.norms == "tuned" and Length.parse(self.tune) == Length():
            raise TombolaError(f"norms are tuned, but tune is {self.tune}; ask for a length such as 10ep")
        check_not_negative("tune_lr", self.tune_lr)

    def init_args(self) -> Mapping[str, Any]:
        """What the initialisation is given."""
        return {"scale_fan": self.density} if self.scale_fan else {}

    def network(self, spec: ModelSpec) -> ModelSpec:
        """One of Tombola's own networks in the form that is needed."""
        return binary_form(spec, self.activations, self.norms != "fixed")

    def find(self, search: Search) -> list[Level]:
        """Run the search: level 1 learns the mask, level 2 (if asked for) tunes the norms."""
        from tombola.levels.learn import learn_mask, second_recipe, tune_norms

        levels = [learn_mask(search, self.learning(search.network()))]
        recipe = second_recipe(search, self.tune, self.tune_lr) if self.norms == "tuned" else None
        if recipe is not None:
            levels.append(tune_norms(search, levels[0], recipe))
        return levels

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network."""
        from tombola.levels.learn import check_learning, check_norms

        check_anneal(self.anneal, steps_per_epoch, total)
        if self.norms != "fixed":
            check_norms(network)
        check_learning(network, self.learning(network), mask)

    def dry_run(self, search: Search) -> None:
        """One step of everything on copies; TombolaError for what cannot work."""
        from tombola.levels.learn import dry_run, second_recipe

        then = second_recipe(search, self.tune, self.tune_lr) if self.norms == "tuned" else None
        dry_run(search, self.learning(search.network()), then, norms=True)

    def learning(self, network: nn.Module) -> Learning:
        """These settings as axes of the parametrisation."""
        from tombola.levels.learn import Learning
        from tombola.supermask.represent import Binary
        from tombola.supermask.rules import TopK

        rule = TopK(self.density, self.scope, whole=self.whole)
        return Learning(
            rule=rule,
            represent=Binary(self.per_channel),
            scores=self.scores,
            include=self.include,
            exclude=self.exclude,
            rest="norms" if self.norms == "trained" else "frozen",
            hooks=lambda search: annealed(search, self.anneal, rule),
            rewrites=binary_rewrites(network, self.activations, self.include, self.exclude),
        )
