"""What Zhou et al. 2019 take apart: which weights are kept, what kept ones return to, what pruned ones are held at.

A combination of the three is a setting of the pruning loop; a grid is the product of lists of them (torch-free).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from tombola.errors import TombolaError
from tombola.methods.base import check_density
from tombola.methods.imp import IterativePruning
from tombola.methods.untrained_mask import WEIGHTS, UntrainedMask
from tombola.names import check_known
from tombola.study.setting import Arm
from tombola.train.recipe import Recipe

REFERENCE = ("large_final", "rewind", "zero")
"""The search of the lottery ticket hypothesis."""
_SYNONYMS = {"magnitude": "large_final"}


@dataclass(frozen=True)
class Grid:
    """The lists that are crossed.

    Args:
        criteria: which weights are kept, names or import paths, e.g. [large_final, movement, random]
        kept_actions: what kept weights begin their next training with, e.g. [rewind, reinit, constant_same_sign]
        pruned_actions: what pruned weights are held at, e.g. [zero, freeze, zero_or_freeze]
        densities: instead of levels, tickets of these fractions kept, each in one round from the one dense network
    """

    criteria: tuple[str, ...] = (
        "large_final",
        "large_final_same_sign",
        "magnitude_increase",
        "movement",
        "random",
        "small_final",
    )
    kept_actions: tuple[str, ...] = ("rewind",)
    pruned_actions: tuple[str, ...] = ("zero",)
    densities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("criteria", "kept_actions", "pruned_actions"):
            check_list(name, getattr(self, name))
        check_densities(self.densities)

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """The product of the lists, criteria first."""
        return tuple(Combination(*parts) for parts in product(self.criteria, self.kept_actions, self.pruned_actions))

    @property
    def reference(self) -> Combination:
        """What the others are compared with: large_final / rewind / zero where it is among them, else the first."""
        return next((one for one in self.combinations if one.is_reference), self.combinations[0])


@dataclass(frozen=True)
class Combination:
    """A criterion, a kept action and a pruned action."""

    criterion: str
    kept_action: str
    pruned_action: str

    @property
    def name(self) -> str:
        """As it stands in tables: "large_final / rewind / zero"."""
        return f"{self.criterion} / {self.kept_action} / {self.pruned_action}"

    @property
    def is_reference(self) -> bool:
        """Whether this is iterative magnitude pruning as it was published."""
        return (_SYNONYMS.get(self.criterion, self.criterion), self.kept_action, self.pruned_action) == REFERENCE

    def of(self, pruning: IterativePruning) -> IterativePruning:
        """The pruning loop with these parts."""
        return replace(
            pruning, criterion=self.criterion, kept_action=self.kept_action, pruned_action=self.pruned_action
        )


def check_list(name: str, given: Sequence[str]) -> None:
    """TombolaError for nothing, or for something named twice."""
    if isinstance(given, str) or not given:
        raise TombolaError(f"{name} is {given!r}, but it must be a list of at least one name, e.g. [large_final]")
    twice = next((one for place, one in enumerate(given) if one in given[:place]), None)
    if twice is not None:
        raise TombolaError(f"{name} names {twice!r} twice; name each once")


def check_densities(densities: Sequence[float] | None) -> None:
    """TombolaError for an empty list, one outside (0, 1), or one given twice."""
    if densities is None:
        return
    if not densities or len(set(densities)) < len(densities):
        raise TombolaError(f"densities is {list(densities)}, but it must be a list of different fractions kept")
    for density in densities:
        check_density(density)
        if density == 1.0:
            raise TombolaError("densities names 1, which is the dense network; it is tried anyway, so leave it out")


@dataclass(frozen=True)
class GridSearch:
    """One search of a grid: an arm whose family is a curve over density.

    Args:
        arm: its method begins with the dense network.
        against: the family that it is compared with, at the same density; None: the dense network.
        one_shot: each level is a network of its own, pruned from the dense one, and not from the level before.
    """

    arm: Arm
    against: str | None
    one_shot: bool = False


def searches_of(grid: Grid, pruning: IterativePruning, recipe: Recipe) -> list[GridSearch]:
    """One search for each combination, or for each and every density; the reference's first.

    Raises:
        TombolaError: how far to prune is said twice, or a training is to stop early.
    """
    if pruning.stop_when_stable:
        raise TombolaError("stop_when_stable ends the dense training by one criterion, but all share it; leave it out")
    if grid.densities is not None and (pruning.density is not None or pruning.levels is not None):
        raise TombolaError("densities are given, and density or levels too; leave those out")
    found = []
    for combination in sorted(grid.combinations, key=lambda one: one != grid.reference):
        name, method = combination.name, combination.of(pruning)
        against = None if combination == grid.reference else grid.reference.name
        if grid.densities is None:
            found.append(GridSearch(Arm(name, method, recipe, family=name), against, pruning.one_shot))
        for density in grid.densities or ():
            one_round = replace(method, density=density, rounds=1, levels=None)
            found.append(GridSearch(Arm(f"{name} {density:g}", one_round, recipe, family=name), against))
    return found


# ---- masks alone ---------------------------------------------------------------------------------------------

CONTROL = "random"
"""The criterion that the others are compared with."""
PLANNED = (
    *("density", "rounds", "rate", "levels", "conv_rate", "output_rate"),
    *("scope", "pattern", "prune_outputs", "include", "exclude"),
)
"""What of imp says how many weights a mask keeps, and where."""
LEVELS = 20
"""Of a study of masks alone, where nothing says how far to prune."""


@dataclass(frozen=True)
class MaskGrid:
    """Masks alone: what they are drawn by, and the untrained weights that they are tested on.

    Args:
        criteria: which weights are kept, names or import paths; random is always among them
        weights: untrained weights under the masks, init and signed_constant (sign(w_i) times the layer's deviation)
        densities: fractions kept, e.g. [0.5, 0.2, 0.1]; null takes density or levels (20, if neither is given)
    """

    criteria: tuple[str, ...] = ("large_final_same_sign", "large_final", "magnitude_increase_same_sign", "movement")
    weights: tuple[str, ...] = WEIGHTS
    densities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_list("criteria", self.criteria)
        check_list("weights", self.weights)
        for one in self.weights:
            check_known("weights", one, WEIGHTS)
        check_densities(self.densities)


def mask_searches_of(grid: MaskGrid, pruning: IterativePruning, recipe: Recipe) -> list[GridSearch]:
    """One search for each criterion and kind of weights, the random masks first.

    Raises:
        TombolaError: how far to prune is said twice.
    """
    shared = {name: getattr(pruning, name) for name in PLANNED}
    if (pruning.density, pruning.levels, grid.densities) == (None, None, None):
        shared["levels"] = LEVELS
    criteria = [CONTROL, *(one for one in grid.criteria if one != CONTROL)]
    found = []
    for criterion, weights in product(criteria, grid.weights):
        own = {"criterion": criterion, "weights": weights, "densities": grid.densities}
        method = UntrainedMask(**{**shared, **own})
        name = f"{criterion} / {weights}"
        against = None if criterion == CONTROL else f"{CONTROL} / {weights}"
        found.append(GridSearch(Arm(name, method, recipe, family=name), against, one_shot=True))
    return found
