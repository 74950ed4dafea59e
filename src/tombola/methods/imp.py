"""Iterative magnitude pruning with rewinding (Frankle & Carbin 2019; Frankle et al. 2020).

Level 0 trains all weights, from w_0 over w_k (the rewind step) to w_f. Level r keeps those k_r of the weights still
kept whose score is largest, |w_f| at the end of the level before, sets the others to 0 for good, returns the kept
ones to w_k, with optimiser, schedule and data order, and trains them again.

k_r = round(n·(1 - rate)^r) in each layer of n weights, the output layer at half the rate. Towards a density d one
factor scales all rates, so that round(d·N) of all N are kept in the last of the rounds.

The authors prune 20 % of a linear layer per level, 10 % or 15 % of a convolution (Conv-2 and 4; Conv-6), in residual
and VGG networks 20 % of all convolutions together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from tombola import levels
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.levels.detector import DETECTORS, LIKE_DENSE
from tombola.methods.base import WatchedMethod
from tombola.names import check_known
from tombola.train.recipe import LEVELS_SHARE, Recipe

if TYPE_CHECKING:
    from torch import nn

    from tombola.levels.prune import Counts, Pruning
    from tombola.levels.search import Level, Search
    from tombola.mask import Mask
    from tombola.train.hooks import Hook

_MOST = 10_000
"""Levels, each of which is a training, and batches of a criterion, at most."""


@dataclass(frozen=True)
class IterativePruning(WatchedMethod):
    """Train, prune the smallest weights, rewind the rest, repeat: the search of the lottery ticket hypothesis.

    Say how far to prune either with `density` and `rounds`, or with `rate` and `levels`.

    Args:
        density: fraction of the prunable weights that the ticket keeps (default 0.1, unless levels is given)
        rounds: pruning rounds on the way to the density; 1 is one-shot pruning
        rate: fraction of the remaining weights pruned per level; with density, only the ratio of rates counts
        levels: number of levels of that rate, instead of density and rounds
        conv_rate: rate of convolutions; null means the same as rate
        output_rate: rate of the output layer; null means half of rate (pattern channel: 0, see prune_outputs)
        scope: layer (each layer by its own rate) or global (the smallest weights over all layers)
        pattern: what is pruned as one: element, block:V (V output rows), inputs:V (V inputs of a row), N:M such as
            2:4, or channel
        prune_outputs: let pattern channel remove rows of output layers too, which are classes; so does an output_rate
        criterion: what is kept: magnitude, movement, random, snip, taylor, ... or an import path
        criterion_batches: batches that a criterion takes gradients or norms of inputs over; those of one epoch at most
        rewind: init, a step such as 500it, or lr (weights stay, learning rate rewinds)
        kept_action: what kept weights begin a level with: rewind, reinit, reshuffle, constant, those but the first also
            with _same_sign, all with _trained_sign (of the weights that the mask is drawn from), all of these with
            _rescaled after it (times size/kept of the layer), or an import path
        pruned_action: what pruned weights are held at: zero, freeze, freeze_reinit, zero_or_freeze (0 if moved toward
            zero), zero_or_freeze_all, .._reshuffled, .._reversed, or an import path; train: begin at 0, not held
        one_shot: draw every level's mask from the trained dense network, not from the level before
        retrain: fields of the recipe that change after the dense level, e.g. {"lr": 0.001, "schedule": "constant"}
        trained: the network comes trained (a checkpoint, a live module): level 0 evaluates it and trains nothing, and
            later levels are fine-tuned from its weights; rewind is then init (those of the checkpoint) or lr
        norm_interpolation: train with norms of scale a + (1 - a)*scale and shift (1 - a)*shift, a drawn from [0, 1) for
            every batch, so that signs matter more than norms (A Winning Sign); evaluated as they are
        include: name patterns of further parameters to prune, e.g. ["*.bias"]
        exclude: name patterns of weights to leave alone, e.g. ["fc.*"]
    """

    name: ClassVar[str] = "imp"
    version: ClassVar[int] = 2
    prunes_in_levels: ClassVar[bool] = True
    goes_on_from_tickets: ClassVar[bool] = True
    detectors: ClassVar[tuple[str, ...]] = DETECTORS

    density: float | None = None
    rounds: int = 5
    rate: float = 0.2
    levels: int | None = None
    conv_rate: float | None = None
    output_rate: float | None = None
    scope: str = "layer"
    pattern: str = "element"
    prune_outputs: bool = False
    criterion: str = "magnitude"
    criterion_batches: int = 1
    rewind: str = "init"
    kept_action: str = "rewind"
    pruned_action: str = "zero"
    one_shot: bool = False
    retrain: Mapping[str, Any] = field(default_factory=dict, hash=False)
    trained: bool = False
    norm_interpolation: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what in ("criterion", "kept_action", "pruned_action"):
            if not isinstance(given := getattr(self, what), str):  # a run records it by name
                path = f"{getattr(given, '__module__', 'package')}.{getattr(given, '__name__', 'name')}"
                raise TombolaError(f"{what} is {described(given)}; give its name or import path, e.g. {path!r}")
        super().__post_init__()
        self._check_retrain()
        if self.rewind.partition(":")[0] == "lr" and (
            self.kept_action != "rewind" or self.pruned_action not in ("zero", "train")
        ):
            raise TombolaError(
                f"rewind is {self.rewind!r}, by which weights stay as they are trained, so that kept_action must be "
                "rewind and pruned_action zero or train; rewind to init or a step for the others"
            )
        if self.trained and self.rewind not in ("init", "lr"):
            raise TombolaError(
                f"rewind is {self.rewind!r}, a step of a training that is left out, as the network comes trained; use "
                "init, for the weights that it comes with, or lr, for those of the level before"
            )
        if self.density is not None and self.levels is not None:
            raise TombolaError("both density and levels are given; give density and rounds, or rate and levels")
        counts = (
            ("rounds", self.rounds, 1),
            ("levels", self.levels, 0),
            ("criterion_batches", self.criterion_batches, 1),
        )
        for name, count, fewest in counts:
            if count is not None and not fewest <= count <= _MOST:
                raise TombolaError(f"{name} is {count}, but it must lie between {fewest} and {_MOST:,}")
        for name, rate in (("rate", self.rate), ("conv_rate", self.conv_rate), ("output_rate", self.output_rate)):
            if rate is not None and not 0.0 <= rate < 1.0:
                raise TombolaError(f"{name} is {rate}, but it must lie in [0, 1): the fraction pruned per level")
        if self.scope == "global" and (self.conv_rate, self.output_rate) != (None, None):
            raise TombolaError("conv_rate and output_rate are rates of layers; leave them out when the scope is global")

    def _check_retrain(self) -> None:
        if not isinstance(self.retrain, Mapping):
            raise TombolaError(
                f'retrain is {described(self.retrain)}, but it must be a mapping of recipe fields, e.g. {{"lr": 0.001}}'
            )
        object.__setattr__(self, "retrain", dict(self.retrain))
        known = [one.name for one in fields(Recipe) if one.name not in LEVELS_SHARE]
        for name in self.retrain:
            check_known("field of retrain", name, known)

    def find(self, search: Search) -> list[Level]:
        """Run the search; the last level holds the ticket."""
        from tombola.levels.prune import prune_levels

        return prune_levels(search, self.pruning())

    def check(self, network: nn.Module, steps_per_epoch: int, total: int, mask: Mask | None = None) -> None:
        """TombolaError if these settings cannot work on this network, trained for `total` iterations under `mask`."""
        from tombola.levels.prune import plan_levels

        pruning = self.pruning()
        if self.norm_interpolation:
            levels.check_interpolation(network)
        _, plan = plan_levels(network, pruning, mask)
        self._check_stopping(len(plan) - 1)
        pruning.rewind.step(steps_per_epoch, total)

    def _check_stopping(self, last: int) -> None:
        """TombolaError if levels are to end with a stable mask, and none can: the last one draws no further mask."""
        first = 1 if self.detector in LIKE_DENSE or self.trained else 0
        last = min(last, 1) if self.one_shot else last
        if self.stop_when_stable and first >= last:
            drawn = "masks are drawn from level 0 alone" if self.one_shot else "the last one draws no further mask"
            dense = f", and detector {self.detector} compares with the dense network, which level 0 trains"
            dense = ", and level 0 is not trained" if self.trained else dense
            raise TombolaError(
                f"stop_when_stable is set, but no level can end earlier: {drawn}{dense if first else ''}; leave it "
                f"out, or ask for more levels{', without one_shot' if self.one_shot else ''}"
            )

    def dry_run(self, search: Search) -> None:
        """One step of everything on copies; TombolaError for what cannot work."""
        from tombola.levels.prune import dry_run

        dry_run(search, self.pruning())

    def planned_levels(self, network: nn.Module, mask: Mask | None = None) -> Sequence[int]:
        """The numbers of the levels after the dense one."""
        from tombola.levels.prune import plan_levels

        _, plan = plan_levels(network, self.pruning(), mask)
        return range(1, len(plan))

    def code(self) -> Mapping[str, object]:
        """A criterion, an action and an optimiser that are none of Tombola's own."""
        from tombola.levels.actions import KEPT_ACTIONS, PRUNED_ACTIONS, kept_action, pruned_action
        from tombola.select.criteria import CRITERIA, criterion
        from tombola.train.optimizer import OPTIMIZERS, optimizer_class
        from tombola.train.penalty import PENALTIES, regulariser

        code: dict[str, object] = {} if self.criterion in CRITERIA else {"criterion": criterion(self.criterion)}
        if self.kept_action not in KEPT_ACTIONS:
            code["kept_action"] = kept_action(self.kept_action)
        if self.pruned_action not in PRUNED_ACTIONS:
            code["pruned_action"] = pruned_action(self.pruned_action)
        if self.retrain.get("optimizer", "sgd") not in OPTIMIZERS:
            code["retrain"] = optimizer_class(Recipe(optimizer=self.retrain["optimizer"]))
        if self.retrain.get("penalty") not in (None, *PENALTIES):
            code["retrain_penalty"] = regulariser(self.retrain["penalty"])
        return code

    def pruning(self) -> Pruning:
        """These settings as axes of the pruning loop."""
        from tombola.levels.actions import kept_action, pruned_action
        from tombola.levels.prune import Pruning, no_hooks
        from tombola.levels.rewind import Rewind
        from tombola.select.criteria import criterion
        from tombola.select.patterns import parse_pattern

        return Pruning(
            plan=self.plan,
            criterion=criterion(self.criterion),
            scope=self.scope,
            pattern=parse_pattern(self.pattern),
            rewind=Rewind.parse(self.rewind),
            kept_action=kept_action(self.kept_action),
            pruned_action=pruned_action(self.pruned_action),
            one_shot=self.one_shot,
            retrain=self.retrain,
            criterion_batches=self.criterion_batches,
            include=self.include,
            exclude=self.exclude,
            hooks=_interpolation if self.norm_interpolation else no_hooks,
            trained=self.trained,
            spare_outputs=self.pattern == "channel" and not self.prune_outputs and self.output_rate is None,
            watching=self.watching(),
        )

    def plan(self, mask: Mask, output: str, whole: Collection[str] = ()) -> Sequence[Counts]:
        """Units kept at every level of what `mask` keeps, level 0 first.

        `output` names the output layer's weight, `whole` the weights of which nothing is pruned.
        """
        from tombola.levels.plan import by_density, by_rate
        from tombola.select.patterns import NM, parse_pattern

        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, NM):
            return self._n_of_m(pattern.n / pattern.m)
        sizes = {name: int(pattern.whole(kept).sum()) for name, kept in mask.items()}
        spared = sum(sizes[name] for name in whole)
        density = 0.1 if self.density is None and self.levels is None else self.density
        if self.scope == "global":
            sizes = {"": sum(sizes.values())}
            rates = {"": self.rate}
        else:
            rates = self.rates(mask, output) | dict.fromkeys(whole, 0.0)
        if density is not None and mask.density != 1.0 and density >= mask.density:
            raise TombolaError(
                f"density is {density}, but the search starts from a ticket that keeps {mask.density:.4g}; "
                "ask for less, or for levels=0 to train the ticket as it is"
            )
        if density is None:
            plan = by_rate(sizes, rates, self.levels or 0)
        else:
            units = sum(pattern.units(kept.shape) for kept in mask.values())
            plan = by_density(sizes, rates, density, self.rounds, units)
        if self.scope != "global":
            return plan
        fewest, all_units = min(level[""] for level in plan), sizes[""]
        if fewest < spared or (fewest == spared < all_units):
            raise TombolaError(
                f"{fewest} of {all_units} channels are to be kept, but the output layers alone have {spared}, "
                "which stay; ask for a higher density, or set prune_outputs"
            )
        return [level[""] for level in plan]

    def rates(self, weights: Mapping[str, Any], output: str) -> dict[str, float]:
        """Every layer's rate: that of convolutions, of other layers, and of the output layer."""
        conv = self.rate if self.conv_rate is None else self.conv_rate
        last = self.rate / 2 if self.output_rate is None else self.output_rate
        return {
            name: last if name == output else conv if weight.dim() > 2 else self.rate
            for name, weight in weights.items()
        }

    def _n_of_m(self, fixed: float) -> Sequence[Counts]:
        if (self.density is not None and abs(self.density - fixed) > 1e-9) or self.levels is not None:
            raise TombolaError(
                f"pattern {self.pattern} fixes the density at {fixed:g} in one round; leave density and levels out"
            )
        return [{}, None]  # level 0 is dense anyway


def _interpolation(search: Search, level: int) -> list[Hook]:
    return [levels.NormInterpolation(search.seed, level)]
