"""What a comparison compares: an arm is a method with its own recipe; a setting is what arms are made for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from tombola.data.config import DataSpec
from tombola.errors import TombolaError
from tombola.fields import described
from tombola.methods import method_class
from tombola.methods.base import Method
from tombola.methods.dense import DenseTraining
from tombola.methods.imp import IterativePruning
from tombola.models.spec import ModelSpec
from tombola.names import unknown
from tombola.search.presets import preset as preset_of
from tombola.train.recipe import Recipe


def folder_of(name: str) -> str:
    """An arm's name as that of a folder on any system: other characters than letters, digits, dots become dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.").lower()


@dataclass(frozen=True)
class Arm:
    """A method with its own recipe.

    Args:
        name: what the arm is called; letters and digits in it name its folder
        method: a method's dataclass
        recipe: how this arm trains
        density: fraction of weights under which it is plotted (None: what it kept)
        family: the series that it belongs to, among arms of other densities (None: its own)
        against: name of the arm that it is compared with (None: the first)
        dense: name of the arm whose dense network it prunes, instead of training the same one (None: its own)
    """

    name: str
    method: Method
    recipe: Recipe
    density: float | None = None
    family: str | None = None
    against: str | None = None
    dense: str | None = None

    def __post_init__(self) -> None:
        if not self.folder:
            raise TombolaError(f"arm {self.name!r} has no letter or digit in its name, from which its folder is named")
        if self.density is not None and not 0.0 < self.density <= 1.0:
            raise TombolaError(
                f"density of arm {self.name!r} is {self.density}, but it must lie in (0, 1]: the fraction kept"
            )

    @property
    def folder(self) -> str:
        """The name as that of a folder on any system: other characters become dashes."""
        return folder_of(self.name)


@dataclass(frozen=True)
class Setting:
    """What a study's arms are made for: model, data, recipe fields that all arms share, the study's own options.

    A whole recipe counts as all of its fields.
    """

    model: ModelSpec
    data: DataSpec
    recipe: Mapping[str, Any] = field(default_factory=dict)
    options: Any = None

    def __post_init__(self) -> None:
        given: Any = self.recipe
        if isinstance(given, Recipe):
            object.__setattr__(self, "recipe", {part.name: getattr(given, part.name) for part in fields(Recipe)})
        elif not isinstance(given, Mapping):
            raise TombolaError(f"recipe is {described(given)}; give a Recipe, or a mapping of its fields")

    def arm(
        self,
        name: str,
        method: str,
        options: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
        *,
        preset: Mapping[str, Any] | None = None,
        density: float | None = None,
        family: str | None = None,
        against: str | None = None,
        dense: str | None = None,
        trained_as: str | None = None,
    ) -> Arm:
        """An arm from fields: `recipe` goes before the shared recipe, that before `preset`, that before the method's.

        `trained_as`: the method whose preset recipe that last one is, so that arms of several methods train alike.

        Raises:
            TombolaError: there is no such method, or it has other options.
        """
        from tombola.search.request import made

        try:
            kind = method_class(method)
            named = preset_of(kind, self.model.name, self.data.name)
            chosen = made(kind, named.method, options)
            lent = named if trained_as is None else preset_of(method_class(trained_as), self.model.name, self.data.name)
            trained = made(Recipe, {**lent.recipe, **(preset or {})}, {**self.recipe, **(recipe or {})})
        except TombolaError as error:
            raise TombolaError(f"arm {name!r}: {error}") from None
        return Arm(name, chosen, trained, density, family, against, dense)


def check_arms(arms: Sequence[Arm]) -> None:
    """TombolaError if there is nothing to compare, two arms would share a folder, or one names an arm that is not."""
    if not arms:
        raise TombolaError("the study has no arms; give at least one")
    folders: dict[str, str] = {}
    for arm in arms:
        if arm.folder in folders:
            raise TombolaError(
                f"arms {folders[arm.folder]!r} and {arm.name!r} would share the folder {arm.folder}; rename one"
            )
        folders[arm.folder] = arm.name
    for arm in arms:
        others = [other.name for other in arms if other is not arm]
        if arm.against is not None and arm.against not in others:
            raise TombolaError(
                f"arm {arm.name!r}: {unknown('arm to be compared with', arm.against, others or ['none'])}"
            )
    if arms[0].against is not None:
        raise TombolaError(
            f"arm {arms[0].name!r} is the first, which others are compared with by default; leave out its against, or "
            "put it behind another arm"
        )
    for arm in arms:
        if arm.dense is not None:
            _check_shares(arm, [other for other in arms if other is not arm and other.dense is None])


def _check_shares(arm: Arm, others: Sequence[Arm]) -> None:
    """TombolaError unless the arm can prune the dense network of the one it names."""
    own = dense_of(arm.method)
    fitting = [other.name for other in others if own == dense_of(other.method) and arm.recipe == other.recipe]
    if own is None or arm.dense not in fitting:
        allowed = f"allowed: {', '.join(fitting)}" if own is not None and fitting else "leave dense out"
        raise TombolaError(
            f"arm {arm.name!r} cannot prune the dense network of {arm.dense!r}: that must be an arm of imp or dense "
            f"with the same recipe, rewind, include and exclude; {allowed}"
        )


def dense_of(method: Method) -> IterativePruning | None:
    """The pruning loop that stops at its dense level; what is pruned later, and how, makes no difference to it.

    None for a method that has no such level of its own.
    """
    if method == DenseTraining():
        return IterativePruning(levels=0)
    if type(method) is not IterativePruning or method.stop_when_stable:
        return None
    plain = IterativePruning(levels=0)
    return replace(plain, rewind=method.rewind, include=method.include, exclude=method.exclude)
